//! The seller's side: the most that a request may cost, paid by vouchers of a channel.

use alloy::primitives::{Address, B256, U256};
use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::kit;
use quittance_core::wire::{PaymentRequirements, SupportedKind};
use quittance_core::{
    Amount, FirstSuccess, Malformed, Network, Offer, OfferError, PaymentId, PaymentRequest, Phase,
    Rejection,
};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::NAME;
use super::channel::{
    ChannelConfig, WITHDRAW_DELAY_MAX_SECS, WITHDRAW_DELAY_MIN_SECS, domain_separator,
};
use super::consent::deposit_id;
use super::payload::Act;
use super::required::MANAGED;
use crate::hex::Hex;
use crate::known;
use crate::price::TokenPrice;
use crate::token::{Token, TransferMethod};

/// The time between the announcement of a withdrawal and the withdrawal that an offer asks for by
/// default, in seconds: a day.
///
/// What is charged must be claimed within a third of it. A shorter time costs more claims, and a
/// longer one locks up a payer's money for longer if the seller has gone.
pub const WITHDRAW_DELAY_SECS: u64 = 24 * 3600;

/// How many requests of the full price the smallest deposit pays by default: as many as in the
/// reference implementation.
const DEPOSIT_REQUESTS: u64 = 10;

/// The fields of a correction, which a payer needs to go on with its channel.
const CORRECTIONS: [&str; 2] = ["channelState", "voucherState"];

/// The fields of a payload that only a seller writes. A payer could otherwise cancel its own
/// charge, or claim less before a refund than was charged.
const SELLER_FIELDS: [&str; 6] = [
    "cancel",
    "claimAuthorizerSignature",
    "claims",
    "pendingId",
    "refundAuthorizerSignature",
    "refundNonce",
];

/// The most that a request may cost, in a token on an EVM chain, paid by the vouchers of a channel.
/// The handler says what it charges; without a word of it, the whole price.
///
/// By default, the facilitator keeps the vouchers, and its `/supported` response must say so. A
/// seller that keeps them itself uses [`with_authorizer`](Self::with_authorizer).
///
/// ```
/// use quittance_core::{Amount, Offer};
/// use quittance_evm::batch::ChannelOffer;
///
/// let seller = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
/// let offer = ChannelOffer::usdc("eip155:8453", "0.0001", seller)?;
/// let charged = offer.charge("50%", offer.amount()).expect("less than the price");
/// assert_eq!(charged?, Amount::from(50u64));
/// # Ok::<(), quittance_core::OfferError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelOffer {
    price: TokenPrice,
    /// The separator of the EIP-712 domain of the contract of channels.
    separator: B256,
    /// The authorizer of the seller's own channels. `None` if the facilitator is the authorizer.
    authorizer: Option<Address>,
    withdraw_delay_secs: u64,
    min_deposit: Amount,
}

impl ChannelOffer {
    /// An offer of at most `price` in a token, such as `"0.0001"`, paid to the address `pay_to`.
    ///
    /// # Errors
    /// If the price is zero, has more decimal places than the token or is more than a channel can
    /// hold, the network is not an EVM chain, or `pay_to` is not an address.
    pub fn new(
        network: Network,
        token: Token,
        price: &str,
        pay_to: &str,
    ) -> Result<Self, OfferError> {
        TokenPrice::new(network, token, price, pay_to).and_then(Self::of_price)
    }

    /// An offer in the USDC of a network, given by its CAIP-2 identifier or x402 version 1 name.
    ///
    /// # Errors
    /// As [`new`](Self::new), and if the library does not ship with the network's USDC.
    pub fn usdc(network: &str, price: &str, pay_to: &str) -> Result<Self, OfferError> {
        TokenPrice::usdc(network, price, pay_to).and_then(Self::of_price)
    }

    fn of_price(price: TokenPrice) -> Result<Self, OfferError> {
        let amount = in_channel(price.amount())?;
        let deposit = amount.saturating_mul(DEPOSIT_REQUESTS.into());
        // A price has a network of EVM chains.
        let chain_id = known::chain_id(price.price.network()).unwrap_or_default();
        Ok(Self {
            price,
            separator: domain_separator(chain_id),
            authorizer: None,
            withdraw_delay_secs: WITHDRAW_DELAY_SECS,
            min_deposit: Amount::new(U256::from(deposit)),
        })
    }

    /// The same offer by a seller that keeps the vouchers of its channels. `authorizer` is the
    /// account that signs its claims and refunds.
    #[must_use]
    pub fn with_authorizer(self, authorizer: Address) -> Self {
        Self {
            authorizer: Some(authorizer),
            ..self
        }
    }

    /// The same offer, with this time between the announcement of a withdrawal and the withdrawal,
    /// in seconds. By default it is [`WITHDRAW_DELAY_SECS`].
    ///
    /// # Errors
    /// If the contract accepts no channel with this delay.
    pub fn with_withdraw_delay_secs(self, withdraw_delay_secs: u64) -> Result<Self, OfferError> {
        let range = WITHDRAW_DELAY_MIN_SECS..=WITHDRAW_DELAY_MAX_SECS;
        if !range.contains(&withdraw_delay_secs) {
            let (least, most) = range.into_inner();
            let problem = format!("{withdraw_delay_secs} is not {least} to {most} seconds");
            return Err(OfferError::Extra(Malformed::new("withdrawDelay", problem)));
        }
        Ok(Self {
            withdraw_delay_secs,
            ..self
        })
    }

    /// The same offer, with this smallest deposit in the token, such as `"1"`. It is a hint for
    /// payers, and by default the price of ten requests.
    ///
    /// # Errors
    /// If it has more decimal places than the token, or is more than a channel can hold.
    pub fn with_min_deposit(self, deposit: &str) -> Result<Self, OfferError> {
        let Token {
            symbol, decimals, ..
        } = &self.price.token;
        let deposit = Amount::from_decimal(deposit, *decimals).map_err(|source| {
            let (price, symbol) = (deposit.to_owned(), symbol.clone());
            OfferError::Price {
                price,
                symbol,
                source,
            }
        })?;
        in_channel(deposit)?;
        Ok(Self {
            min_deposit: deposit.max(self.amount()),
            ..self
        })
    }

    /// The same offer, with this time for a payment, in seconds. The handler runs in it, and the
    /// channel serves no other request meanwhile.
    #[must_use]
    pub fn with_timeout_secs(self, timeout_secs: u64) -> Self {
        Self {
            price: self.price.with_timeout_secs(timeout_secs),
            ..self
        }
    }

    /// The most that a request may cost, in the token's atomic units.
    pub fn amount(&self) -> Amount {
        self.price.amount()
    }

    /// The identity of a channel on the offer's chain.
    fn channel_id(&self, config: &ChannelConfig) -> B256 {
        config.id(&self.separator)
    }

    /// The authorizer that the requirements name.
    fn authorizer(&self, supported: &SupportedKind) -> Result<Address, OfferError> {
        if let Some(authorizer) = self.authorizer {
            return Ok(authorizer);
        }
        let extra = supported.extra.as_ref().map(|extra| extra.read("extra"));
        let extra: Supported = extra
            .transpose()
            .map_err(OfferError::Supported)?
            .unwrap_or_default();
        let missing = |field: &str, what: &str| {
            OfferError::Supported(Malformed::new(format!("extra.{field}"), what))
        };
        if !extra.voucher_manager.iter().any(|name| name == MANAGED) {
            let what =
                "missing: the facilitator keeps no vouchers, so the seller must: use Channels";
            return Err(missing("voucherManager", what));
        }
        let authorizer = extra.receiver_authorizer.ok_or_else(|| {
            let what = "missing: the facilitator must name the account that claims";
            missing("receiverAuthorizer", what)
        })?;
        Ok(authorizer.0.into())
    }
}

/// What the facilitator's entry in `/supported` says.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Supported {
    #[serde(default)]
    receiver_authorizer: Option<Hex<20>>,
    #[serde(default)]
    voucher_manager: Vec<String>,
}

/// What a verdict says of the channel.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Verdict {
    #[serde(default)]
    pending_id: Option<String>,
    #[serde(default)]
    balance: Option<Amount>,
    #[serde(default)]
    charged_cumulative_amount: Option<Amount>,
    #[serde(default)]
    refund_nonce: Option<Amount>,
}

impl Verdict {
    fn of(first: &FirstSuccess) -> Self {
        let extra = match first {
            FirstSuccess::Verified(verdict) => verdict.extra.as_ref(),
            FirstSuccess::Settled(response) => response.extra.as_ref(),
        };
        let read = extra.and_then(|extra| extra.read("extra").ok());
        read.unwrap_or_default()
    }

    /// What the facilitator needs of a seller for a refund, if it keeps the channel's vouchers.
    fn complete_refund(&self, payload: &Object) -> Map<String, Value> {
        let mut added = Map::new();
        let left = || self.balance?.checked_sub(self.charged_cumulative_amount?);
        if !payload.tree().contains_key("amount")
            && let Some(left) = left()
        {
            added.insert("amount".to_owned(), json!(left));
        }
        if let Some(nonce) = self.refund_nonce {
            added.insert("refundNonce".to_owned(), json!(nonce));
        }
        added
    }
}

/// What a payload is for, by its `type`.
fn kind(payload: &Object) -> Option<String> {
    #[derive(Deserialize)]
    struct Typed {
        #[serde(rename = "type")]
        kind: String,
    }
    let typed: Option<Typed> = payload.read("payload").ok();
    typed.map(|typed| typed.kind)
}

/// A payload without what only sellers write. Every payment comes here, so it is looked at before a
/// tree is built.
fn of_payer(payload: &Object) -> Result<Object, Malformed> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Written {
        cancel: Present,
        claim_authorizer_signature: Present,
        claims: Present,
        pending_id: Present,
        refund_authorizer_signature: Present,
        refund_nonce: Present,
    }
    let written: Written = payload.read("payload")?;
    let written = [
        written.cancel,
        written.claim_authorizer_signature,
        written.claims,
        written.pending_id,
        written.refund_authorizer_signature,
        written.refund_nonce,
    ];
    if written.iter().all(|field| !field.0) {
        return Ok(payload.clone());
    }
    let mut fields = payload.tree();
    fields.retain(|field, _| !SELLER_FIELDS.contains(&field.as_str()));
    Object::of(&fields)
}

/// Whether a field is there, whatever its value is.
#[derive(Default)]
struct Present(bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(from).map(|_| Self(true))
    }
}

/// The payment with this payload.
fn completed(
    payment: &PaymentRequest,
    payload: Object,
    amount: Amount,
) -> Result<Option<PaymentRequest>, OfferError> {
    let request = match payload.text() == payment.payload.text() {
        true => payment.charging(amount),
        false => payment.completed(payload, amount),
    };
    request.map(Some).map_err(OfferError::Request)
}

/// An amount that a channel can hold.
fn in_channel(amount: Amount) -> Result<u128, OfferError> {
    let max = Amount::new(U256::from(u128::MAX));
    u128::try_from(amount.units()).map_err(|_| OfferError::PriceTooHigh { amount, max })
}

#[async_trait]
impl Offer for ChannelOffer {
    fn scheme(&self) -> &str {
        NAME
    }

    fn network(&self) -> &Network {
        self.price.price.network()
    }

    fn requirements(&self, supported: &SupportedKind) -> Result<PaymentRequirements, OfferError> {
        let Token {
            name,
            version,
            method,
            ..
        } = &self.price.token;
        let mut extra = json!({
            "name": name,
            "version": version,
            "receiverAuthorizer": self.authorizer(supported)?.to_checksum(None),
            "withdrawDelay": self.withdraw_delay_secs,
            "minDeposit": self.min_deposit,
        });
        if *method == TransferMethod::Permit2 {
            extra["assetTransferMethod"] = json!(method.name());
        }
        if self.authorizer.is_none() {
            extra["voucherManager"] = json!(MANAGED);
        }
        let extra = Object::of(&extra).map_err(OfferError::Extra)?;
        Ok(self.price.price.requirements(NAME, Some(extra)))
    }

    /// A refund has no identity before the seller has completed it. Anyone can compute that of a
    /// voucher, and could keep its payer waiting: only the signed payload identifies it.
    fn authorization(&self, payload: &Object) -> Option<PaymentId> {
        let chain_id = known::chain_id(self.network())?;
        match Act::read(payload).ok()? {
            Act::Deposit(act) => {
                let channel = self.channel_id(&act.config);
                deposit_id(&act, self.price.token.method, chain_id, &channel)
            }
            Act::Voucher(_) | Act::Refund(_) | Act::Claim(_) | Act::Sweep(_) => None,
        }
    }

    /// The payload comes back with what the facilitator has said of the channel: the hold of a
    /// verified voucher, and what completes a refund.
    async fn request(
        &self,
        phase: Phase<'_>,
        payment: &PaymentRequest,
        _: &PaymentRequirements,
    ) -> Result<Option<PaymentRequest>, OfferError> {
        let payload = of_payer(&payment.payload).map_err(OfferError::Request)?;
        let (amount, first, is_cancelled) = match phase {
            Phase::Verify => return completed(payment, payload, payment.requirements.amount),
            Phase::BeforeHandler => return Ok(None),
            Phase::AfterHandler { charged, first } => (charged, first, false),
            Phase::Cancel { first, .. } => (Amount::ZERO, first, true),
        };
        let (verdict, kind) = (Verdict::of(first), kind(&payload));
        let mut added = Map::new();
        if is_cancelled {
            // A facilitator knows the cancellation of a voucher only.
            let is_known = kind.as_deref() == Some("voucher") || self.authorizer.is_some();
            if verdict.pending_id.is_none() || !is_known {
                return Ok(None);
            }
            added.insert("cancel".to_owned(), json!(true));
        } else if kind.as_deref() == Some("refund") && self.authorizer.is_none() {
            added = verdict.complete_refund(&payload);
        }
        if let Some(pending) = verdict.pending_id {
            added.insert("pendingId".to_owned(), json!(pending));
        }
        let payload = match added.is_empty() {
            true => Ok(payload),
            false => Object::of(&added).and_then(|added| payload.joined(&added)),
        };
        completed(payment, payload.map_err(OfferError::Request)?, amount)
    }

    fn charge(&self, words: &str, price: Amount) -> Option<Result<Amount, OfferError>> {
        Some(kit::charged(words, price, self.price.token.decimals))
    }

    /// The channel: each voucher is for what was charged by those before it.
    fn serial(&self, payload: &Object) -> Option<String> {
        let config = match Act::read(payload).ok()? {
            Act::Deposit(act) => act.config,
            Act::Voucher(act) => act.config,
            Act::Refund(act) => act.config,
            Act::Claim(_) | Act::Sweep(_) => return None,
        };
        Some(self.channel_id(&config).to_string())
    }

    /// A payer's request for a refund buys nothing.
    fn acknowledgement(&self, payload: &Object) -> Option<Object> {
        let Act::Refund(act) = Act::read(payload).ok()? else {
            return None;
        };
        let channel = self.channel_id(&act.config);
        let body = json!({ "message": "Refund acknowledged", "channelId": channel });
        Object::of(&body).ok()
    }

    fn correct(&self, rejection: &Rejection) -> Option<Object> {
        let mut extra = rejection.extra.as_ref()?.tree();
        extra.retain(|field, _| CORRECTIONS.contains(&field.as_str()));
        match extra.is_empty() {
            true => None,
            false => Object::of(&extra).ok(),
        }
    }
}
