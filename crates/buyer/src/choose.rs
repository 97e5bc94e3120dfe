//! Choosing a payment option that a payer supports and the limits allow.

use std::fmt;

use quittance_core::wire::PaymentRequirements;
use quittance_core::{Flow, Malformed, Payer, Quote, QuoteError, Timestamp, printable};

use crate::budget::{Budget, LimitError};
use crate::options::PaymentOptions;
use crate::payment::{PurchaseKey, RequestId};
use crate::purchases::Purchases;

/// Why one payment option cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Objection {
    /// The option's scheme and network, printable; `None` if the option cannot be parsed.
    pub option: Option<(String, String)>,
    /// The reason.
    pub reason: ObjectionReason,
}

/// The reason why a payment option cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectionReason {
    /// The option cannot be parsed.
    #[error(transparent)]
    Unreadable(#[from] Malformed),
    /// No payer supports the option's scheme and network.
    #[error("no payer for this scheme and network")]
    NoPayer,
    /// A payer supports the scheme and network, but the requirements lack something or name an
    /// unknown asset.
    #[error("{0}")]
    Unpayable(String),
    /// The price is over the limit.
    #[error(transparent)]
    OverLimit(#[from] LimitError),
    /// The option's payment flow is unknown, so it is not known when the money would move.
    #[error("the payment flow {0} is unknown")]
    UnknownFlow(String),
    /// The server lists no payment option.
    #[error("the server lists no payment option")]
    NoOptions,
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.option {
            Some((scheme, network)) => write!(f, "{scheme} on {network}: {}", self.reason),
            None => write!(f, "{}", self.reason),
        }
    }
}

/// The chosen option: the payer, its quote, and the purchase that the payment is for.
pub(crate) struct Selection<'a> {
    pub(crate) payer: &'a dyn Payer,
    pub(crate) requirements: PaymentRequirements,
    /// When the money moves.
    flow: Flow,
    pub(crate) quote: Quote,
    pub(crate) request: RequestId,
    pub(crate) key: PurchaseKey,
}

/// Chooses an option that some payer supports and the limits allow. An option with an open payment
/// wins, because presenting that one again costs nothing. Otherwise an option wins that charges
/// only after its handler has succeeded. Of several, the first in the server's list wins.
///
/// # Errors
/// When no option can be taken: the objections, one for each option.
pub(crate) fn choose<'a>(
    payers: &'a [Box<dyn Payer>],
    budget: &Budget,
    purchases: &Purchases,
    options: &PaymentOptions,
    request: RequestId,
    now: Timestamp,
) -> Result<Selection<'a>, Vec<Objection>> {
    let unreadable = |error: &Malformed| Objection {
        option: None,
        reason: error.clone().into(),
    };
    let mut objections: Vec<Objection> = options.unreadable.iter().map(unreadable).collect();
    let mut selections = Vec::new();
    for requirements in &options.accepts {
        match select(payers, budget, requirements, request) {
            Ok(selection) => selections.push(selection),
            Err(reason) => {
                let (scheme, network) = (&requirements.scheme, &requirements.network);
                objections.push(Objection {
                    option: Some((printable(scheme), printable(network))),
                    reason,
                });
            }
        }
    }
    let has_open = |selection: &Selection<'_>| purchases.waiting(selection.key, now).is_some();
    let is_safest = |it: &Selection<'_>| it.flow == Flow::Authorization;
    let open = selections.iter().position(has_open);
    let chosen = open.or_else(|| selections.iter().position(is_safest));
    let chosen = chosen.unwrap_or(0);
    if chosen < selections.len() {
        return Ok(selections.swap_remove(chosen));
    }
    if objections.is_empty() {
        objections.push(Objection {
            option: None,
            reason: ObjectionReason::NoOptions,
        });
    }
    Err(objections)
}

/// The option for the same purchase in a server's refusal: with the same payer, recipient, asset,
/// amount and flow. Its `extra` may differ.
///
/// # Errors
/// When the refusal has no such option, or the limits do not allow it. The text is printable.
pub(crate) fn choose_again<'a>(
    earlier: &Selection<'a>,
    budget: &Budget,
    options: &PaymentOptions,
) -> Result<Selection<'a>, String> {
    for requirements in &options.accepts {
        let Ok(quote) = earlier.payer.quote(requirements) else {
            continue;
        };
        let key = PurchaseKey::new(earlier.request, &requirements.scheme, &quote);
        let flow = Flow::stated(requirements.extra.as_ref()).map(Option::unwrap_or_default);
        if key != earlier.key || flow != Ok(earlier.flow) {
            continue;
        }
        budget.allows(&quote).map_err(|over| over.to_string())?;
        return Ok(Selection {
            payer: earlier.payer,
            requirements: requirements.clone(),
            flow: earlier.flow,
            quote,
            request: earlier.request,
            key,
        });
    }
    Err("the refusal does not offer the same purchase".to_owned())
}

/// The first payer that supports these requirements within the limits, or the last objection.
fn select<'a>(
    payers: &'a [Box<dyn Payer>],
    budget: &Budget,
    requirements: &PaymentRequirements,
    request: RequestId,
) -> Result<Selection<'a>, ObjectionReason> {
    let unknown = |stated: String| ObjectionReason::UnknownFlow(printable(&stated));
    let flow = Flow::stated(requirements.extra.as_ref()).map_err(unknown)?;
    let flow = flow.unwrap_or_default();
    let mut objection = ObjectionReason::NoPayer;
    for payer in payers {
        let quote = match payer.quote(requirements) {
            Ok(quote) => quote,
            Err(QuoteError::NotSupported) => continue,
            Err(error) => {
                // The text may quote the server.
                objection = ObjectionReason::Unpayable(printable(&error.to_string()));
                continue;
            }
        };
        match budget.allows(&quote) {
            Ok(()) => {
                return Ok(Selection {
                    key: PurchaseKey::new(request, &requirements.scheme, &quote),
                    payer: payer.as_ref(),
                    requirements: requirements.clone(),
                    flow,
                    quote,
                    request,
                });
            }
            Err(over) => objection = over.into(),
        }
    }
    Err(objection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Limits;
    use quittance_testing::scripted::{TestPayer, requirements};
    use serde_json::json;

    fn chosen(extras: &[serde_json::Value]) -> Result<usize, String> {
        let accepts = extras.iter().map(|extra| {
            let mut requirements = serde_json::to_value(requirements()).unwrap();
            requirements["extra"] = extra.clone();
            requirements
        });
        let accepts = accepts.collect::<Vec<_>>();
        let body = json!({ "x402Version": 2, "accepts": accepts }).to_string();
        let options = PaymentOptions::from_body(body.as_bytes()).unwrap();
        let payers: Vec<Box<dyn Payer>> = vec![Box::new(TestPayer::default())];
        let budget = Budget::new(Limits::default());
        let purchases = Purchases::default();
        let request = RequestId::new("GET", "http://a.example/", b"");
        let now = Timestamp::from_secs(1);
        let selection = choose(&payers, &budget, &purchases, &options, request, now);
        match selection {
            Ok(selection) => {
                let mut all = options.accepts.iter();
                let at = all.position(|it| *it == selection.requirements);
                Ok(at.unwrap())
            }
            Err(objections) => Err(objections[0].reason.to_string()),
        }
    }

    #[test]
    fn unknown_flow_is_not_taken_and_authorization_is_preferred() {
        let flow = |name: &str| json!({ "paymentFlow": name });
        let none = serde_json::Value::Null;
        assert_eq!(chosen(&[flow("upfront"), none.clone()]), Ok(1));
        assert_eq!(chosen(&[flow("upfront"), flow("authorization")]), Ok(1));
        assert_eq!(chosen(&[flow("escrow"), flow("upfront")]), Ok(0));
        assert_eq!(chosen(&[flow("later"), flow("upfront")]), Ok(1));
        for unknown in [flow("later"), flow(""), json!({ "paymentFlow": 1 })] {
            let problem = chosen(&[unknown]).unwrap_err();
            assert!(problem.contains("payment flow"), "{problem}");
        }
    }
}
