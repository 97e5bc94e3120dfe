//! A signed payment, the request it was signed for, and what is known of it.

use std::fmt;

use quittance_core::json::Object;
use quittance_core::wire::header;
use quittance_core::{Quote, Timestamp, Version};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::open::OpenPayment;
use crate::refusal::RefusalMeaning;

/// How long after its expiry a payment may still be included, in seconds: block times can lag
/// behind all clocks.
pub(crate) const INCLUDED_AFTER_EXPIRY_SECS: u64 = 60;

/// The identity of a request: method, URL and body, as the caller made it. Redirects do not change
/// it, because the server chooses where they lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RequestId(pub(crate) [u8; 32]);

impl RequestId {
    /// `url` has no fragment: it is never sent.
    pub(crate) fn new(method: &str, url: &str, body: &[u8]) -> Self {
        Self(hash(&[method.as_bytes(), url.as_bytes(), body]))
    }
}

/// The identity of a purchase: the request, the recipient and the amount. The requirements' `extra`
/// is left out, because sellers put fields into it that change with every answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PurchaseKey(pub(crate) [u8; 32]);

impl PurchaseKey {
    pub(crate) fn new(request: RequestId, scheme: &str, quote: &Quote) -> Self {
        let amount = quote.amount.to_string();
        let texts = [
            scheme,
            &quote.network,
            &quote.asset.address,
            &quote.pay_to,
            &amount,
        ];
        let [scheme, network, asset, pay_to, amount] = texts.map(str::as_bytes);
        Self(hash(&[&request.0, scheme, network, asset, pay_to, amount]))
    }
}

/// The hash of several texts. Each is preceded by its length, so that moving a border changes the
/// hash.
fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// The part of a signed payment that is kept.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum SignedForm {
    /// The value of the header that presents the payment.
    Header(String),
    /// The payload alone, as JSON text. The payment has expired and is not presented again, but the
    /// chain can still be asked.
    Payload(String),
}

impl fmt::Debug for SignedForm {
    /// Leaves the payment out: it is worth money until it is used.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header(_) => "Header(..)",
            Self::Payload(_) => "Payload(..)",
        })
    }
}

impl SignedForm {
    /// The length of the header, in bytes; 0 without one.
    pub(crate) fn header_len(&self) -> usize {
        match self {
            Self::Header(value) => value.len(),
            Self::Payload(_) => 0,
        }
    }

    /// The payload that the payer signed.
    pub(crate) fn payload(&self) -> Option<Object> {
        #[derive(Deserialize)]
        struct Presented {
            payload: Object,
        }
        match self {
            Self::Header(value) => {
                let presented = header::decode::<Presented>("payment", value.as_bytes());
                presented.ok().map(|presented| presented.payload)
            }
            Self::Payload(text) => serde_json::from_str(text).ok(),
        }
    }
}

/// How far a payment is exposed: whether a server may have used it, as far as is known without the
/// chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exposure {
    /// No server has seen the payment.
    None,
    /// A trusted server answered each presentation and says that the payment moved nothing.
    Refused,
    /// A server has the payment and may have used it.
    Possible,
}

/// A signed payment.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct KeptPayment {
    /// The request that the payment was signed for; `None` in files of version 1.
    pub(crate) request: Option<RequestId>,
    pub(crate) version: Version,
    pub(crate) form: SignedForm,
    pub(crate) exposure: Exposure,
    pub(crate) open: OpenPayment,
    /// Whether the chain, or the payer's books, say that the payment was used. Not stored: they are
    /// asked again.
    pub(crate) was_used: bool,
}

impl fmt::Debug for KeptPayment {
    /// Omits the header: it is worth money.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptPayment")
            .field("exposure", &self.exposure)
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

impl KeptPayment {
    /// Whether the payment has moved no money and never will, as far as is known without the chain.
    /// Until it expires this cannot be ruled out: a server that has seen the payment can still
    /// submit it.
    pub(crate) fn is_over(&self, now: Timestamp) -> bool {
        self.exposure != Exposure::Possible && self.has_expired(now)
    }

    /// Whether no block may include the payment any more.
    pub(crate) fn has_expired(&self, now: Timestamp) -> bool {
        now >= self.open.expires.plus_secs(INCLUDED_AFTER_EXPIRY_SECS)
    }

    /// Whether its payer can know what became of the payment: no block may include it any more, or
    /// it never expires and the payer has books.
    pub(crate) fn can_be_looked_up(&self, now: Timestamp) -> bool {
        self.has_expired(now) || self.open.never_expires()
    }

    /// Records that the chain, or the payer's books, say that the payment was used.
    pub(crate) fn record_use(&mut self, transaction: Option<String>) {
        self.was_used = true;
        self.exposure = Exposure::Possible;
        if transaction.is_some() {
            self.open.transaction = transaction;
        }
    }

    /// Records what a server said. `before` is the exposure before the payment was presented to
    /// that server.
    pub(crate) fn record_meaning(&mut self, meaning: RefusalMeaning, before: Exposure) {
        self.exposure = match (meaning, before) {
            (RefusalMeaning::NeverSettled, _) => Exposure::Refused,
            (RefusalMeaning::NotNow, Exposure::None | Exposure::Refused) => Exposure::Refused,
            (RefusalMeaning::NotNow, Exposure::Possible) | (RefusalMeaning::Unknown, _) => {
                Exposure::Possible
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use quittance_core::{Amount, Asset};

    use super::*;

    fn quote(amount: u64) -> Quote {
        Quote {
            network: "a:1".to_owned(),
            pay_to: "y".to_owned(),
            asset: Asset {
                address: "x".to_owned(),
                symbol: "USDC".to_owned(),
                decimals: 6,
            },
            amount: Amount::from(amount),
            locks: Amount::ZERO,
        }
    }

    #[test]
    fn a_purchase_is_a_request_with_its_requirements() {
        let key = |method: &str, path: &str, body: &str, scheme: &str, amount: u64| {
            let url = format!("http://a.example{path}");
            let request = RequestId::new(method, &url, body.as_bytes());
            PurchaseKey::new(request, scheme, &quote(amount))
        };
        let one = key("POST", "/a", "x", "exact", 1);
        assert_eq!(key("POST", "/a", "x", "exact", 1), one);
        for other in [
            key("POST", "/b", "x", "exact", 1),
            key("POST", "/a", "y", "exact", 1),
            key("POST", "/a", "x", "exact", 2),
            key("POST", "/a", "x", "upto", 1),
            key("GET", "/a", "x", "exact", 1),
            key("POST", "/", "ax", "exact", 1),
        ] {
            assert_ne!(other, one);
        }
    }
}
