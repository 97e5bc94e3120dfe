//! Simulated calls by a named sender ([`Step::CallAs`]), and questions about an account
//! ([`Step::Nonce`], [`Step::Balance`]).
//!
//! The probe's program cannot choose the sender of its calls, so each of these calls is a request
//! of its own. It is in one batch with the program, and one node answers both. `eth_estimateGas`
//! measures the gas, and its error has the revert data.

use alloy::eips::BlockId;
use alloy::primitives::{Address, Bytes, U64, U256, hex};
use alloy::rpc::types::state::StateOverride;
use alloy::rpc::types::{BlockOverrides, TransactionRequest};
use quittance_core::Fault;
use quittance_nodes::{NodeError, Reply, Request, decode_reply, unavailable};
use serde_json::json;

use super::fees::Fees;
use super::probe::{DATA_MAX, Probe, Step, StepOutcome};
use super::rpc;
use super::transaction::intrinsic_gas;

/// What geth and anvil say before the limit, if a call needs more gas than it may use.
const LIMIT_EXCEEDED: &str = "gas required exceeds allowance";

/// A simulated call by a named sender, or a question about an account.
#[derive(Debug)]
pub(super) struct NamedCall {
    /// The method of a question, and its account.
    question: Option<(&'static str, Address)>,
    call: TransactionRequest,
    /// The gas of a transaction with this data before it executes anything.
    intrinsic: u64,
    limit: u64,
}

impl NamedCall {
    /// The calls by a named sender in a probe, in the order of its steps. `fees` are those of a
    /// probe that runs as a transaction.
    pub(super) fn all<'a>(
        probe: &'a Probe,
        fees: Option<Fees>,
    ) -> impl Iterator<Item = Self> + use<'a> {
        let steps = probe.steps.iter();
        steps.filter_map(move |step| Self::new(step, fees))
    }

    fn new(step: &Step, fees: Option<Fees>) -> Option<Self> {
        let (from, to, data, gas) = match step {
            Step::CallAs {
                from,
                to,
                data,
                gas,
            } => (from, to, data, gas),
            Step::Nonce(account) => {
                return Some(Self::question("eth_getTransactionCount", *account));
            }
            Step::Balance(account) => return Some(Self::question("eth_getBalance", *account)),
            _ => return None,
        };
        let intrinsic = intrinsic_gas(data);
        let limit = intrinsic + u64::from(*gas);
        let mut call = TransactionRequest {
            from: Some(*from),
            gas: Some(limit),
            ..rpc::call(Some(*to), data.clone())
        };
        if let Some(fees) = fees {
            fees.put(&mut call);
        }
        Some(Self {
            question: None,
            call,
            intrinsic,
            limit,
        })
    }

    fn question(method: &'static str, account: Address) -> Self {
        Self {
            question: Some((method, account)),
            call: TransactionRequest::default(),
            intrinsic: 0,
            limit: 0,
        }
    }

    /// The request on the newest block.
    pub(super) fn request(&self) -> Request {
        if let Some((method, account)) = self.question {
            return Request::new(method, json!([account, BlockId::latest()]));
        }
        let params = json!([self.call, BlockId::latest()]);
        Request::new("eth_estimateGas", params)
    }

    /// The request on a later block, whose reply does not show the gas: few nodes estimate it for
    /// another block than their newest.
    pub(super) fn later_request(&self, block: &BlockOverrides) -> Request {
        if self.question.is_some() {
            return self.request();
        }
        let state = StateOverride::default();
        Request::new(
            "eth_call",
            json!([self.call, BlockId::latest(), state, block]),
        )
    }

    /// The outcome, by the reply to [`request`](Self::request).
    ///
    /// # Errors
    /// If the reply says nothing about the call.
    pub(super) fn outcome(&self, reply: Reply) -> Result<StepOutcome, Fault> {
        if let Err(error) = &reply
            && let Some(reverted) = self.reverted(error)
        {
            return Ok(reverted);
        }
        if self.question.is_some() {
            let word: U256 = decode_reply(reply)?;
            let data = Bytes::from(word.to_be_bytes::<32>());
            return Ok(StepOutcome::Returned { data, gas: 0 });
        }
        let gas: U64 = decode_reply(reply)?;
        let gas = gas.to::<u64>().saturating_sub(self.intrinsic);
        Ok(StepOutcome::Returned {
            data: Bytes::new(),
            gas: u32::try_from(gas).unwrap_or(u32::MAX),
        })
    }

    /// The outcome later, by the reply to [`later_request`](Self::later_request). The gas is that
    /// of the outcome `now`.
    ///
    /// # Errors
    /// If the reply says nothing about the call.
    pub(super) fn later_outcome(
        &self,
        reply: Reply,
        now: &StepOutcome,
    ) -> Result<StepOutcome, Fault> {
        if let Err(error) = &reply
            && let Some(reverted) = self.reverted(error)
        {
            return Ok(reverted);
        }
        if self.question.is_some() {
            return self.outcome(reply);
        }
        let _: Bytes = decode_reply(reply)?;
        Ok(StepOutcome::Returned {
            data: Bytes::new(),
            gas: now.gas().unwrap_or(0),
        })
    }

    /// Whether a reply to a request of this call says something about the call. Any other error is
    /// about the node.
    pub(super) fn is_verdict(&self, reply: &Reply) -> bool {
        match reply {
            Ok(_) => true,
            Err(error) => self.reverted(error).is_some(),
        }
    }

    /// The outcome that an error shows, if it is about the call and not about the node. Nodes that
    /// leave out the revert data leave the reason of the revert unknown.
    fn reverted(&self, error: &NodeError) -> Option<StepOutcome> {
        /// geth's code for a revert, which most nodes share.
        const REVERTED: i64 = 3;
        if self.question.is_some() {
            return None;
        }
        let message = error.message.to_lowercase();
        let text = error.data.as_str().unwrap_or_default();
        // Nethermind has the revert data behind this word.
        let bare = text.strip_prefix("Reverted ");
        let is_revert = error.code == REVERTED || message.starts_with("execution reverted");
        if is_revert || bare.is_some() {
            let mut data = hex::decode(bare.unwrap_or(text)).unwrap_or_default();
            data.truncate(DATA_MAX);
            return Some(StepOutcome::Reverted { data: data.into() });
        }
        // A lower limit than ours is the node's own, or all that the sender can pay for.
        let (_, allowed) = message.split_once(LIMIT_EXCEEDED)?;
        let is_digit = |letter: &char| letter.is_ascii_digit();
        let allowed = allowed.chars().skip_while(|letter| !is_digit(letter));
        let allowed: String = allowed.take_while(is_digit).collect();
        let is_ours = allowed
            .parse::<u64>()
            .is_ok_and(|allowed| allowed >= self.limit);
        is_ours.then(|| StepOutcome::Reverted { data: Bytes::new() })
    }
}

/// Puts the outcomes of the calls by a named sender between those of the program, in the order of
/// the steps.
///
/// # Errors
/// The first of `named`, or if the outcomes do not belong to this probe.
pub(super) fn merge(
    probe: &Probe,
    program: Vec<StepOutcome>,
    named: impl IntoIterator<Item = Result<StepOutcome, Fault>>,
) -> Result<Vec<StepOutcome>, Fault> {
    let (mut program, mut named) = (program.into_iter(), named.into_iter());
    let missing = || unavailable("the outcome of a step is missing");
    let outcome = |step: &Step| match step {
        Step::CallAs { .. } | Step::Nonce(_) | Step::Balance(_) => {
            named.next().unwrap_or_else(|| Err(missing()))
        }
        _ => program.next().ok_or_else(missing),
    };
    probe.steps.iter().map(outcome).collect()
}

/// The requests of a batch: the program's, and those of the calls by a named sender.
pub(super) fn batch(
    program: &TransactionRequest,
    block: Option<&BlockOverrides>,
    calls: &[NamedCall],
) -> Vec<Request> {
    let program = match block {
        None => json!([program, BlockId::latest()]),
        Some(block) => json!([program, BlockId::latest(), StateOverride::default(), block]),
    };
    let request = |call: &NamedCall| match block {
        None => call.request(),
        Some(block) => call.later_request(block),
    };
    let program = Request::new("eth_call", program);
    std::iter::once(program)
        .chain(calls.iter().map(request))
        .collect()
}

/// Whether the replies to a [`batch`] say something about the program and about each call. If not,
/// another node may know more.
pub(super) fn is_complete(calls: &[NamedCall], replies: &[Reply]) -> bool {
    let Some((Ok(_), replies)) = replies.split_first() else {
        return false;
    };
    let mut pairs = calls.iter().zip(replies);
    replies.len() == calls.len() && pairs.all(|(call, reply)| call.is_verdict(reply))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn step() -> Step {
        Step::CallAs {
            from: Address::repeat_byte(1),
            to: Address::repeat_byte(2),
            data: Bytes::from_static(&[7; 100]),
            gas: 50_000,
        }
    }

    fn outcome(reply: Reply) -> Result<StepOutcome, Fault> {
        NamedCall::new(&step(), None).unwrap().outcome(reply)
    }

    fn error(code: i64, message: &str, data: Value) -> Reply {
        let mut error = NodeError::new(code, message);
        error.data = data;
        Err(error)
    }

    #[test]
    fn gas_is_what_the_call_itself_took() {
        let outcome = outcome(Ok(json!("0x10000"))).unwrap();
        assert_eq!(outcome.gas(), Some(0x10000 - 21_000 - 16 * 100));
    }

    #[test]
    fn revert_data_of_any_node_is_read() {
        let reverted = |data: &[u8]| StepOutcome::Reverted {
            data: Bytes::copy_from_slice(data),
        };
        for (code, message, data, expected) in [
            (3, "execution reverted: no", json!("0x0102"), &[1, 2][..]),
            (-32000, "Execution reverted", json!("0x01"), &[1]),
            (-32015, "VM execution error.", json!("Reverted 0x05"), &[5]),
            (-32000, "execution reverted", Value::Null, &[]),
            (3, "", json!({ "odd": 5 }), &[]),
        ] {
            let found = outcome(error(code, message, data)).unwrap();
            assert_eq!(found, reverted(expected), "{message}");
        }
        let long = outcome(error(3, "", json!(format!("0x{}", "05".repeat(300))))).unwrap();
        assert_eq!(long, reverted(&[5; DATA_MAX]));
    }

    /// Only our own limit says something about the call.
    #[test]
    fn a_lower_limit_than_ours_is_a_fault() {
        let ours = 21_000 + 16 * 100 + 50_000;
        let exceeds = |limit: u64| {
            let geth = format!("gas required exceeds allowance ({limit})");
            let anvil = format!("Out of gas: gas required exceeds allowance: {limit}");
            [geth, anvil].map(|message| outcome(error(-32000, &message, Value::Null)).is_ok())
        };
        assert_eq!(exceeds(ours), [true, true]);
        assert_eq!(exceeds(ours - 1), [false, false]);
        for (code, message) in [
            (-32000, "insufficient funds for gas * price + value"),
            (-32000, "header not found"),
            (-32601, "the method eth_estimateGas does not exist"),
            (-32000, "gas required exceeds allowance"),
        ] {
            assert!(
                outcome(error(code, message, Value::Null)).is_err(),
                "{message}"
            );
        }
        assert!(outcome(Ok(json!("many"))).is_err());
    }

    proptest! {
        /// Each outcome is at the place of its step.
        #[test]
        fn outcomes_keep_the_order_of_the_steps(kinds in prop::collection::vec(any::<bool>(), 0..12)) {
            let other = Step::CodeSize(Address::ZERO);
            let steps = kinds.iter().map(|named| if *named { step() } else { other.clone() });
            let probe = Probe::new(steps.collect());
            let expected: Vec<StepOutcome> = (0..kinds.len() as u64).map(StepOutcome::CodeSize).collect();
            let of = |kind: bool| {
                let pairs = kinds.iter().zip(&expected).filter(move |(named, _)| **named == kind);
                pairs.map(|(_, outcome)| outcome.clone()).collect::<Vec<_>>()
            };
            prop_assert_eq!(NamedCall::all(&probe, None).count(), of(true).len());
            let merged = merge(&probe, of(false), of(true).into_iter().map(Ok));
            prop_assert_eq!(&merged.unwrap(), &expected);
            if kinds.contains(&true) {
                prop_assert!(merge(&probe, of(false), []).is_err());
            }
        }

        #[test]
        fn no_reply_panics(code: i64, message: String, data: String) {
            let _ = outcome(error(code, &message, json!(data)));
            let _ = outcome(error(code, &format!("{LIMIT_EXCEEDED}{message}"), Value::Null));
        }
    }
}
