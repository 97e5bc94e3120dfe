//! The payment flows: at which moments of a sale the seller asks its facilitator.

use crate::Amount;
use crate::json::Object;
use crate::wire::{SettleResponse, VerifyResponse};

/// When the money moves, seen from the seller's handler. Core specification, section 6.1; on the
/// wire it is `extra.paymentFlow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Flow {
    /// Verify, handler, settle. A handler that fails costs the buyer nothing.
    #[default]
    Authorization,
    /// Settle, handler. A handler that fails is paid, too.
    Upfront,
    /// Settle a deposit, handler, settle what is charged. A handler that fails gives the deposit
    /// back.
    Escrow,
}

impl Flow {
    /// All flows.
    pub const ALL: [Self; 3] = [Self::Authorization, Self::Upfront, Self::Escrow];

    /// The field of `extra` that names a flow.
    pub const FIELD: &'static str = "paymentFlow";

    /// The flow's name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Authorization => "authorization",
            Self::Upfront => "upfront",
            Self::Escrow => "escrow",
        }
    }

    /// The flow with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|flow| flow.name() == name)
    }

    /// The flow that the `extra` of payment requirements states; `None` if it states none.
    ///
    /// # Errors
    /// When it states something else. The error is what it states, as JSON.
    pub fn stated(extra: Option<&Object>) -> Result<Option<Self>, String> {
        let Some(stated) = extra.and_then(|extra| extra.tree().remove(Self::FIELD)) else {
            return Ok(None);
        };
        let flow = stated.as_str().and_then(Self::from_name);
        flow.map(Some).ok_or_else(|| stated.to_string())
    }

    /// Whether the facilitator settles something before the handler runs.
    pub const fn settles_first(self) -> bool {
        match self {
            Self::Authorization => false,
            Self::Upfront | Self::Escrow => true,
        }
    }
}

/// A moment of a sale at which the facilitator may be asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Phase<'a> {
    /// Before the handler, in [`Flow::Authorization`]: the request is for `/verify`.
    Verify,
    /// Before the handler, in the other flows: the request is for `/settle`.
    BeforeHandler,
    /// After the handler has succeeded: the request is for `/settle`.
    AfterHandler {
        /// What the seller charges, in atomic units. It is never more than the price.
        charged: Amount,
        /// The success before the handler.
        first: &'a FirstSuccess,
    },
    /// The sale ends without a charge: the request is for `/settle`, and gives back what is held.
    ///
    /// It comes only after a success before the handler. It never comes after a request
    /// [after the handler](Self::AfterHandler) whose outcome is unknown or that names a
    /// transaction: that one may still settle.
    Cancel {
        /// Why there is no charge.
        reason: CancelReason,
        /// The success before the handler.
        first: &'a FirstSuccess,
    },
}

/// The facilitator's success before the handler.
#[derive(Debug, Clone, PartialEq)]
pub enum FirstSuccess {
    /// The verdict of [`Phase::Verify`]: the payment is valid.
    Verified(VerifyResponse),
    /// The response of [`Phase::BeforeHandler`]: the payment or its deposit has settled.
    Settled(SettleResponse),
}

impl FirstSuccess {
    /// What has settled, if the flow settles first.
    pub const fn settled(&self) -> Option<&SettleResponse> {
        match self {
            Self::Verified(_) => None,
            Self::Settled(response) => Some(response),
        }
    }

    /// The payer, if the facilitator names it.
    pub fn payer(&self) -> Option<&str> {
        let payer = match self {
            Self::Verified(verdict) => &verdict.payer,
            Self::Settled(response) => &response.payer,
        };
        payer.as_deref()
    }
}

/// Why a sale ends without a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CancelReason {
    /// The handler panicked, or its service returned an error.
    HandlerThrew,
    /// The handler's response is an error or incomplete, or its charge is not possible.
    HandlerFailed,
    /// The request after the handler was refused, and names no transaction.
    SettlementRefused,
}

impl CancelReason {
    /// The reason as a code. The first two are the reference implementation's.
    pub const fn code(self) -> &'static str {
        match self {
            Self::HandlerThrew => "handler_threw",
            Self::HandlerFailed => "handler_failed",
            Self::SettlementRefused => "settlement_refused",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flow_is_found_by_its_name() {
        for flow in Flow::ALL {
            assert_eq!(Flow::from_name(flow.name()), Some(flow));
        }
        assert_eq!(Flow::from_name("Upfront"), None);
    }

    #[test]
    fn stated_flow_is_known_or_an_error() {
        let stated = |extra: &str| Flow::stated(Some(&serde_json::from_str(extra).unwrap()));
        assert_eq!(Flow::stated(None), Ok(None));
        assert_eq!(stated("{}"), Ok(None));
        for flow in Flow::ALL {
            let extra = format!(r#"{{"a":1,"paymentFlow":"{}"}}"#, flow.name());
            assert_eq!(stated(&extra), Ok(Some(flow)));
        }
        for unknown in ["null", "1", "\"Upfront\"", "\"\""] {
            let extra = format!(r#"{{"paymentFlow":{unknown}}}"#);
            assert_eq!(stated(&extra), Err(unknown.to_owned()));
        }
    }
}
