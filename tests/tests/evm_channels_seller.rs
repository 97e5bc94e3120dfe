//! Sales by channels whose vouchers the seller keeps, on a local chain: every charge is claimed
//! once, also if a process stops or a payer replays or withdraws.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures_util::future::join_all;
use quittance_buyer::{Buyer, Limits};
use quittance_core::wire::{SettleResponse, SupportedResponse, VerifyResponse};
use quittance_core::{
    Amount, Clock, Facilitator, FacilitatorError, Fault, FaultKind, ManualClock, PaymentRequest,
    Scheme, StateStore, SystemClock,
};
use quittance_engine::{Engine, SqliteJournal};
use quittance_evm::Evm;
use quittance_evm::batch::{
    BatchSettlement, ChannelOffer, ChannelPayer, Channels, ClaimRules, reason,
};
use quittance_tests::channel_shop::{ChannelShop, deposit, refund, voucher};
use quittance_tests::channels::Channel;
use quittance_tests::evm::{PRICE, Setting};
use quittance_tests::{open_journal, until};
use quittance_verify::VerifierQueue;
use serde_json::{Value, json};
use tempfile::TempDir;

const PRICE_UNITS: u128 = PRICE as u128;

/// Later than a mirror of the chain counts as fresh, and later than a claim must be made: a third
/// of the channels' delay of withdrawals.
const LATER_SECS: u64 = 330;

/// A facilitator, and a seller with a store of its own.
struct Town {
    setting: Setting,
    engine: Engine,
    folder: TempDir,
    clock: Arc<ManualClock>,
}

impl Town {
    async fn start() -> Self {
        let setting = Setting::start().await;
        let evm = Evm::new(setting.config()).unwrap();
        let schemes: Vec<Arc<dyn Scheme<Evm>>> = vec![Arc::new(BatchSettlement::new(&evm))];
        let builder = setting.builder().await.chain(evm, schemes);
        Self {
            engine: builder.start().await.unwrap(),
            setting,
            folder: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock::new(SystemClock.now())),
        }
    }

    /// The seller's store. Only one at a time can have it open.
    async fn store(&self) -> Arc<SqliteJournal> {
        Arc::new(open_journal(&self.folder.path().join("channels.db")).await)
    }

    /// The seller's channels with the authorizer of this one, over a store.
    fn channels(&self, channel: &Channel, store: Arc<SqliteJournal>) -> Channels {
        self.channels_behind(Arc::new(self.engine.clone()), channel, store)
    }

    fn channels_behind(
        &self,
        behind: Arc<dyn Facilitator>,
        channel: &Channel,
        store: Arc<dyn StateStore>,
    ) -> Channels {
        let verifier = Arc::new(VerifierQueue::start().unwrap());
        let key = channel.authorizer.clone();
        let channels = Channels::new("base-sepolia", behind, store, verifier, key).unwrap();
        channels.with_clock(self.clock.clone())
    }

    async fn shop(&self, channels: &Channels) -> ChannelShop {
        self.shop_with_delay(channels, 900).await
    }

    async fn shop_with_delay(&self, channels: &Channels, secs: u64) -> ChannelShop {
        let seller = Setting::seller().address.to_string();
        let offer = ChannelOffer::usdc("base-sepolia", "0.01", &seller).unwrap();
        let offer = offer.with_authorizer(channels.authorizer());
        let offer = offer.with_withdraw_delay_secs(secs).unwrap();
        ChannelShop::open(Arc::new(channels.clone()), offer).await
    }
}

/// Another channel of the same seller.
fn of_seller(channel: &Channel) -> Channel {
    let mut other = Channel::new();
    other.authorizer = channel.authorizer.clone();
    let authorizer = channel.config.receiver_authorizer;
    other.with(|config| config.receiver_authorizer = authorizer)
}

/// One deposit pays for many requests. What was charged is claimed and paid, and the rest goes
/// back.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_pays_its_seller_exactly_what_was_charged() {
    let town = Town::start().await;
    let channel = Channel::new();
    let channels = town.channels(&channel, town.store().await);
    let shop = town.shop(&channels).await;
    let first = deposit(&channel, 100 * PRICE_UNITS, PRICE_UNITS);
    let mut charged = shop.buy("?charge=4000", &first).await.charged().1;
    assert_eq!(charged, 4_000);
    let sent = town.setting.sent(Setting::signers()[0].address).await;
    for count in 0..20_u128 {
        let next = voucher(&channel, charged + PRICE_UNITS);
        let amount = PRICE_UNITS - 100 * count;
        let bought = shop.buy(&format!("?charge={amount}"), &next).await;
        assert_eq!(bought.charged(), (amount, charged + amount));
        charged += amount;
    }
    // No voucher has cost gas.
    assert_eq!(town.setting.sent(Setting::signers()[0].address).await, sent);
    let report = channels.claim_all().await.unwrap();
    assert_eq!((report.claimed, report.failed, report.paid), (1, 0, 1));
    let paid = Amount::from(u64::try_from(charged).unwrap());
    assert_eq!(town.setting.received().await, paid);
    // Nothing is due any more.
    let report = channels.claim_all().await.unwrap();
    assert_eq!((report.claimed, report.failed), (0, 0));

    shop.buy("", &voucher(&channel, charged + PRICE_UNITS))
        .await
        .charged();
    charged += PRICE_UNITS;
    let refunded = shop.buy("", &refund(&channel, charged)).await;
    let receipt = refunded.receipt.unwrap();
    assert!(receipt.success, "{receipt:?}");
    assert_eq!(
        receipt.amount,
        Some((100 * PRICE_UNITS - charged).to_string())
    );
    assert_eq!(channel.state(&town.setting).await, (charged, charged));
    assert_eq!(shop.served(), 22);
    // The last claim was made by the refund.
    assert_eq!(channels.claim_all().await.unwrap().claimed, 0);
}

/// Each is refused with the state of the channel, and costs the handler nothing.
#[tokio::test(flavor = "multi_thread")]
async fn bad_vouchers_are_corrected_and_charge_nothing() {
    let town = Town::start().await;
    let channel = Channel::new();
    let channels = town.channels(&channel, town.store().await);
    let shop = town.shop(&channels).await;
    let first = deposit(&channel, 3 * PRICE_UNITS, PRICE_UNITS);
    shop.buy("", &first).await.charged();
    shop.buy("", &voucher(&channel, 2 * PRICE_UNITS))
        .await
        .charged();
    let mismatch = reason::CUMULATIVE_AMOUNT_MISMATCH;
    let bad = [
        ("stale", voucher(&channel, PRICE_UNITS), &mismatch),
        ("replayed", voucher(&channel, 2 * PRICE_UNITS), &mismatch),
        (
            "too little",
            voucher(&channel, 3 * PRICE_UNITS - 1),
            &mismatch,
        ),
        ("reordered", voucher(&channel, 4 * PRICE_UNITS), &mismatch),
        ("refund of less", refund(&channel, PRICE_UNITS), &mismatch),
    ];
    for (what, payload, expected) in &bad {
        let bought = shop.buy("", payload).await;
        assert_eq!(bought.status, 402, "{what}: {bought:?}");
        let (error, extra) = bought.correction();
        assert_eq!(error, expected.code(), "{what}");
        let state = &extra["channelState"];
        assert_eq!(state["chargedCumulativeAmount"], "20000", "{what}: {extra}");
        assert_eq!(state["balance"], "30000", "{what}");
        assert_eq!(
            extra["voucherState"]["signedMaxClaimable"], "20000",
            "{what}"
        );
    }
    shop.buy("", &voucher(&channel, 3 * PRICE_UNITS))
        .await
        .charged();
    let overdrawn = shop.buy("", &voucher(&channel, 4 * PRICE_UNITS)).await;
    let (error, extra) = overdrawn.correction();
    assert_eq!(error, reason::CUMULATIVE_EXCEEDS_BALANCE.code());
    assert_eq!(extra["channelState"]["balance"], "30000");
    let stranger = Channel::new().with(|config| *config = channel.config);
    let forged = shop.buy("", &voucher(&stranger, 4 * PRICE_UNITS)).await;
    let (error, extra) = forged.correction();
    assert_eq!(error, reason::VOUCHER_SIGNATURE.code());
    assert!(extra.get("voucherState").is_none(), "{extra}");
    assert_eq!(shop.served(), 3);
    // A second deposit goes on.
    let more = deposit(&channel, 2 * PRICE_UNITS, 4 * PRICE_UNITS);
    assert_eq!(
        shop.buy("", &more).await.charged(),
        (PRICE_UNITS, 4 * PRICE_UNITS)
    );
}

/// The process ends with charges that are not claimed. The next one claims them when it is time.
#[tokio::test(flavor = "multi_thread")]
async fn charges_outlive_the_seller_and_are_claimed_in_time() {
    let town = Town::start().await;
    let channel = Channel::new();
    {
        let channels = town.channels(&channel, town.store().await);
        let shop = town.shop(&channels).await;
        let first = deposit(&channel, 10 * PRICE_UNITS, PRICE_UNITS);
        shop.buy("", &first).await.charged();
        let report = channels.upkeep().await.unwrap();
        assert_eq!((report.claimed, report.paid), (0, 0));
    }
    // The server of the shop does not end. The next process has the file as this one has left it.
    let copy = town.folder.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(town.folder.path()).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
        }
    }
    let store = Arc::new(open_journal(&copy.join("channels.db")).await);
    let channels = town.channels(&channel, store);
    let shop = town.shop(&channels).await;
    let replayed = shop.buy("", &voucher(&channel, PRICE_UNITS)).await;
    assert_eq!(replayed.status, 402);
    shop.buy("", &voucher(&channel, 2 * PRICE_UNITS))
        .await
        .charged();
    town.clock.advance(LATER_SECS);
    // By itself.
    let upkeep = channels.spawn_upkeep();
    until("the receiver is paid", || async {
        town.setting.received().await == Amount::from(2 * PRICE)
    })
    .await;
    assert_eq!(upkeep.faults(), 0);
}

/// Claims by value need no time to pass.
#[tokio::test(flavor = "multi_thread")]
async fn many_channels_are_claimed_in_one_transaction_by_their_value() {
    let town = Town::start().await;
    let first = Channel::new();
    let store = town.store().await;
    let channels = town.channels(&first, store);
    let rules = ClaimRules::new(u64::MAX, 2 * PRICE_UNITS);
    let channels = channels.with_claim_rules(rules);
    let shop = town.shop(&channels).await;
    let payers: Vec<Channel> = (0..5).map(|_| of_seller(&first)).collect();
    for channel in &payers {
        let payload = deposit(channel, 10 * PRICE_UNITS, PRICE_UNITS);
        shop.buy("", &payload).await.charged();
    }
    assert_eq!(channels.upkeep().await.unwrap().claimed, 0);
    for channel in &payers[1..] {
        shop.buy("", &voucher(channel, 2 * PRICE_UNITS))
            .await
            .charged();
    }
    let signer = Setting::signers()[0].address;
    let sent = town.setting.sent(signer).await;
    let report = channels.upkeep().await.unwrap();
    assert_eq!((report.claimed, report.failed, report.paid), (4, 0, 1));
    assert_eq!(town.setting.sent(signer).await, sent + 2);
    assert_eq!(town.setting.received().await, Amount::from(8 * PRICE));
}

/// One payer has withdrawn what it owes. The contract refuses its row, and with it all others.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_claimed_does_not_stop_the_others() {
    let town = Town::start().await;
    let first = Channel::new();
    let channels = town.channels(&first, town.store().await);
    let shop = town.shop(&channels).await;
    let payers: Vec<Channel> = (0..5).map(|_| of_seller(&first)).collect();
    for channel in &payers {
        let payload = deposit(channel, 10 * PRICE_UNITS, PRICE_UNITS);
        shop.buy("", &payload).await.charged();
    }
    payers[2]
        .announce_withdrawal(&town.setting, 10 * PRICE_UNITS)
        .await;
    let _: Value = town
        .setting
        .local
        .rpc("evm_increaseTime", (901,))
        .await
        .unwrap();
    payers[2].withdraw(&town.setting).await;
    let report = channels.claim_all().await.unwrap();
    assert_eq!((report.claimed, report.failed, report.paid), (4, 1, 1));
    assert_eq!(town.setting.received().await, Amount::from(4 * PRICE));
}

/// A withdrawal of what vouchers owe is overtaken by a claim, long before that would be due by age.
#[tokio::test(flavor = "multi_thread")]
async fn an_announced_withdrawal_is_claimed_at_once_and_then_refused() {
    let town = Town::start().await;
    let channel = Channel::new().with(|config| config.withdraw_delay = 3_600);
    let channels = town.channels(&channel, town.store().await);
    let channels = channels.with_claim_rules(ClaimRules::new(u64::MAX, u128::MAX));
    let shop = town.shop_with_delay(&channels, 3_600).await;
    let first = deposit(&channel, 10 * PRICE_UNITS, PRICE_UNITS);
    shop.buy("", &first).await.charged();
    channel
        .announce_withdrawal(&town.setting, 10 * PRICE_UNITS)
        .await;
    assert_eq!(channels.upkeep().await.unwrap().claimed, 0);
    // The seller sees it as soon as its mirror of the chain is old.
    town.clock.advance(LATER_SECS);
    let early = voucher(&channel, 2 * PRICE_UNITS);
    assert_eq!(shop.buy("?charge=fail", &early).await.status, 500);
    let report = channels.upkeep().await.unwrap();
    assert_eq!((report.claimed, report.paid), (1, 1));
    // A third of the delay later, a charge could be claimed too late.
    town.clock.advance(1_200);
    let (error, _) = shop.buy("", &early).await.correction();
    assert_eq!(error, reason::CUMULATIVE_EXCEEDS_BALANCE.code());
    let _: Value = town
        .setting
        .local
        .rpc("evm_increaseTime", (3_601,))
        .await
        .unwrap();
    channel.withdraw(&town.setting).await;
    assert_eq!(
        channel.state(&town.setting).await,
        (PRICE_UNITS, PRICE_UNITS)
    );
    assert_eq!(town.setting.received().await, Amount::from(PRICE));
    assert_eq!(shop.served(), 2);
}

/// Our buyer, also without its books, and with a channel whose seller was started again.
#[tokio::test(flavor = "multi_thread")]
async fn our_buyer_pays_a_seller_that_keeps_its_vouchers() {
    let town = Town::start().await;
    let channel = Channel::new();
    let store = town.store().await;
    let channels = town.channels(&channel, store.clone());
    let shop = town.shop(&channels).await;
    let buy = async |payer: &ChannelPayer, query: &str| {
        let limits = Limits::default().per_payment("0.01").locked("1");
        let buyer = Buyer::builder().payer(payer.clone()).limits(limits);
        let buyer = buyer.build().unwrap();
        let bought = buyer.get(&format!("{}{query}", shop.url())).await.unwrap();
        assert_eq!(bought.response.status(), 200);
        bought.cost.unwrap().charged.unwrap()
    };
    let first = ChannelPayer::new(Setting::buyer().signer);
    assert_eq!(buy(&first, "").await, Amount::from(PRICE));
    assert_eq!(buy(&first, "?charge=2500").await, Amount::from(2_500));
    let forgetful = ChannelPayer::new(Setting::buyer().signer);
    assert_eq!(buy(&forgetful, "").await, Amount::from(PRICE));
    let [book] = forgetful.channels().try_into().unwrap();
    assert_eq!(book.charged, 22_500);
    // Another process of the seller has only the store.
    let next = town.channels(&channel, store);
    assert_eq!(next.claim_all().await.unwrap().claimed, 1);
    assert_eq!(buy(&forgetful, "").await, Amount::from(PRICE));
    let limits = Limits::default().per_payment("0.01").locked("1");
    let buyer = Buyer::builder().payer(forgetful).limits(limits);
    let receipt = buyer.build().unwrap().reclaim(shop.url()).await;
    let receipt = receipt.unwrap().unwrap();
    assert_eq!(receipt.amount, Some(Amount::from(10 * PRICE - 32_500)));
    assert_eq!(shop.served(), 4);
    next.claim_all().await.unwrap();
    let state = Channel::new().with(|config| *config = book.config);
    assert_eq!(state.state(&town.setting).await, (32_500, 32_500));
}

/// Two processes of one seller, each with a facilitator of its own, charge one channel. Of two
/// charges of one voucher one succeeds, and the claims are the sum of the charges.
#[tokio::test(flavor = "multi_thread")]
async fn two_processes_and_facilitators_never_charge_a_voucher_twice() {
    let town = Town::start().await;
    let mut config = town.setting.config();
    config.signers = vec![Arc::new(Setting::signers()[1].signer.clone())];
    let evm = Evm::new(config).unwrap();
    let schemes: Vec<Arc<dyn Scheme<Evm>>> = vec![Arc::new(BatchSettlement::new(&evm))];
    let journal = open_journal(&town.folder.path().join("second.db")).await;
    let builder = Engine::builder(journal).chain(evm, schemes);
    let second = builder.start().await.unwrap();

    let channel = Channel::new();
    let store = town.store().await;
    let first = town.channels(&channel, store.clone());
    let other = town.channels_behind(Arc::new(second), &channel, store);
    let shops = [town.shop(&first).await, town.shop(&other).await];
    let payload = deposit(&channel, 100 * PRICE_UNITS, PRICE_UNITS);
    let mut charged = shops[0].buy("", &payload).await.charged().1;
    for count in 0..10_u128 {
        let payload = voucher(&channel, charged + PRICE_UNITS);
        let query = format!("?charge={}", 1_000 * count + 500);
        let bought = join_all(shops.iter().map(|shop| shop.buy(&query, &payload))).await;
        let (served, refused): (Vec<_>, Vec<_>) =
            bought.iter().partition(|bought| bought.status == 200);
        assert_eq!((served.len(), refused.len()), (1, 1), "{bought:?}");
        let (error, _) = refused[0].correction();
        assert_eq!(error, reason::CUMULATIVE_AMOUNT_MISMATCH.code());
        charged = served[0].charged().1;
    }
    let reports = join_all([first.claim_all(), other.claim_all()]).await;
    // The second claim changes nothing.
    let failed: usize = reports.iter().map(|it| it.as_ref().unwrap().failed).sum();
    assert_eq!(failed, 0, "{reports:?}");
    assert_eq!(channel.state(&town.setting).await.1, charged);
}

/// A facilitator that loses requests for refunds on demand.
struct LosesRefunds(Engine, AtomicBool);

#[async_trait]
impl Facilitator for LosesRefunds {
    async fn verify(&self, request: &PaymentRequest) -> Result<VerifyResponse, FacilitatorError> {
        self.0.verify(request).await
    }

    async fn settle(&self, request: &PaymentRequest) -> Result<SettleResponse, FacilitatorError> {
        let is_refund = request.payload.tree()["type"] == "refund";
        if is_refund && self.1.load(Ordering::SeqCst) {
            let mut fault = Fault::new(FaultKind::FacilitatorUnreachable, "no answer");
            fault.retry_after = None;
            return Err(fault.into());
        }
        self.0.settle(request).await
    }

    async fn supported(&self) -> Result<SupportedResponse, FacilitatorError> {
        self.0.supported().await
    }
}

/// What the seller has signed away is not charged, even if the facilitator has not sent it.
#[tokio::test(flavor = "multi_thread")]
async fn vouchers_cannot_count_on_what_a_signed_refund_pays_back() {
    let town = Town::start().await;
    let channel = Channel::new();
    let behind = Arc::new(LosesRefunds(town.engine.clone(), AtomicBool::new(true)));
    let channels = town.channels_behind(behind.clone(), &channel, town.store().await);
    let shop = town.shop(&channels).await;
    let payload = deposit(&channel, 10 * PRICE_UNITS, PRICE_UNITS);
    shop.buy("", &payload).await.charged();
    let mut part = refund(&channel, PRICE_UNITS);
    part["amount"] = json!((8 * PRICE_UNITS).to_string());
    let lost = shop.buy("", &part).await;
    assert_ne!(lost.status, 200, "{lost:?}");
    // The request may still be made: the channel is its own for a while.
    town.clock.advance(61);
    shop.buy("", &voucher(&channel, 2 * PRICE_UNITS))
        .await
        .charged();
    let (error, _) = shop
        .buy("", &voucher(&channel, 3 * PRICE_UNITS))
        .await
        .correction();
    assert_eq!(error, reason::CUMULATIVE_EXCEEDS_BALANCE.code());
    behind.1.store(false, Ordering::SeqCst);
    // More than is left is never paid back.
    let mut all = refund(&channel, 2 * PRICE_UNITS);
    all["amount"] = json!((9 * PRICE_UNITS).to_string());
    let receipt = shop.buy("", &all).await.receipt.unwrap();
    assert_eq!(
        (receipt.success, receipt.amount),
        (true, Some((8 * PRICE).to_string()))
    );
    assert_eq!(
        channel.state(&town.setting).await,
        (2 * PRICE_UNITS, 2 * PRICE_UNITS)
    );
}
