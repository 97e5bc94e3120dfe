//! Many questions about the chain in one `eth_call`, each answered as if it were the only one.
//!
//! The questions of many payments are appended to a small program (`contracts/Probe.yul`), which
//! runs as the code of a call without a recipient. Nothing is deployed, and a node needs no method
//! but `eth_call`, except for [`Step::CallAs`], [`Step::Nonce`] and [`Step::Balance`]. Each step
//! runs in a frame that is reverted, so a simulated transfer never shows in another payment's
//! balance.

use alloy::primitives::{Address, B256, Bytes, hex};
use quittance_core::{LaneId, Timestamp};

/// `contracts/Probe.yul`, compiled. A test compiles the source and compares.
const PROGRAM: &[u8] = &match hex::const_decode_to_array::<
    { include_bytes!("../../contracts/Probe.hex").len() / 2 },
>(include_bytes!("../../contracts/Probe.hex"))
{
    Ok(program) => program,
    Err(_) => panic!("contracts/Probe.hex is not hexadecimal"),
};

/// How many bytes of a call's return data are reported (`ANSWER_MAX` of the program): five words,
/// enough for a revert reason of 92 letters.
pub(super) const DATA_MAX: usize = 160;

/// The longest program that is sent, with its steps, in bytes. EIP-3860 limits init code to 49,152
/// bytes.
pub(super) const CODE_MAX: usize = 48 * 1024;

/// Steps that are run together, on the state of one block.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe {
    /// The steps.
    pub steps: Vec<Step>,
    /// Whether to run the steps as in a real transaction: alone, from a signer, with fees. Set it
    /// if a contract of the payer's choice is called: such a contract can detect a free simulation
    /// and act differently.
    pub as_transaction: bool,
}

/// One step of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Gets the length of this account's code.
    CodeSize(Address),
    /// Simulates a call.
    Call {
        /// The contract.
        to: Address,
        /// The call data.
        data: Bytes,
        /// The gas limit.
        gas: u32,
        /// Whether the call is made.
        when: Condition,
    },
    /// Simulates a call after another one, whose changes it sees. The outcome is that of the second
    /// call; the first one may revert.
    CallAfter {
        /// The contract of the first call.
        first_to: Address,
        /// The data of the first call.
        first_data: Bytes,
        /// The contract of the second call.
        to: Address,
        /// The data of the second call.
        data: Bytes,
        /// The gas limit of each of the two.
        gas: u32,
    },
    /// Simulates a call by this sender. Other simulated calls have a sender that no contract knows.
    /// It is a request of its own in the same round trip, so its block may be another one than that
    /// of the other steps. The outcome has no return data. A node that leaves out revert data gives
    /// a revert without data.
    CallAs {
        /// The sender.
        from: Address,
        /// The contract.
        to: Address,
        /// The call data.
        data: Bytes,
        /// The gas limit of the call, in addition to the gas of any transaction with this data.
        gas: u32,
    },
    /// Gets the number of this account's next transaction, as a word. As [`CallAs`](Self::CallAs),
    /// a request of its own.
    Nonce(Address),
    /// Gets how much of the chain's own coin this account has, in wei, as a word. As
    /// [`CallAs`](Self::CallAs), a request of its own.
    Balance(Address),
}

/// Whether a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// Always.
    Always,
    /// If this account has code.
    HasCode(Address),
    /// If this account has no code.
    NoCode(Address),
}

/// The result of one [`Probe`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProbeResult {
    /// The time of the block on whose state the steps ran.
    pub chain_time: Timestamp,
    /// The number of that block.
    pub block: u64,
    /// The time between two blocks, in seconds; 0 while unknown.
    pub block_secs: u64,
    /// The outcome of each step.
    pub outcomes: Vec<StepOutcome>,
    /// The outcomes in the last block in which a transaction sent now is expected, for a probe that
    /// ran as a transaction. `None` if the node cannot simulate a call with another block number
    /// and time.
    pub later: Option<Vec<StepOutcome>>,
    /// The lane whose transaction was simulated, for a probe that ran as a transaction.
    pub sender: Option<LaneId>,
}

impl ProbeResult {
    /// The outcomes of a probe on the state of this block. The other fields are unknown.
    pub fn new(chain_time: Timestamp, block: u64, outcomes: Vec<StepOutcome>) -> Self {
        Self {
            chain_time,
            block,
            block_secs: 0,
            outcomes,
            later: None,
            sender: None,
        }
    }

    /// The outcomes now and later. A payment must be valid in both.
    pub fn simulations(&self) -> impl Iterator<Item = &[StepOutcome]> {
        let later = self.later.as_deref();
        std::iter::once(self.outcomes.as_slice()).chain(later)
    }
}

/// The outcome of one [`Step`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepOutcome {
    /// The length of the account's code, in bytes.
    CodeSize(u64),
    /// The call succeeded.
    Returned {
        /// The first 160 bytes of the return data.
        data: Bytes,
        /// The gas that the call used.
        gas: u32,
    },
    /// The call reverted.
    Reverted {
        /// The first 160 bytes of the revert data.
        data: Bytes,
    },
    /// The call was not made, because its condition was false.
    NotMade,
}

impl StepOutcome {
    /// The length of the code; `None` for the outcome of a call.
    pub fn code_size(&self) -> Option<u64> {
        match self {
            Self::CodeSize(size) => Some(*size),
            _ => None,
        }
    }

    /// The word that a call returned; `None` if it returned anything but exactly one word.
    pub fn word(&self) -> Option<B256> {
        match self {
            Self::Returned { data, .. } => B256::try_from(data.as_ref()).ok(),
            _ => None,
        }
    }

    /// The gas that a successful call used.
    pub fn gas(&self) -> Option<u32> {
        match self {
            Self::Returned { gas, .. } => Some(*gas),
            _ => None,
        }
    }
}

impl Step {
    /// The simulation of a call in any case.
    pub fn call(to: Address, data: Bytes, gas: u32) -> Self {
        let when = Condition::Always;
        Self::Call {
            to,
            data,
            gas,
            when,
        }
    }

    /// The bytes before the data: kind, subject, gas, target and size.
    const HEAD: usize = 1 + 20 + 4 + 20 + 2;

    /// Whether the program runs the step.
    fn is_in_program(&self) -> bool {
        !matches!(
            self,
            Self::CallAs { .. } | Self::Nonce(_) | Self::Balance(_)
        )
    }

    /// Appends the step to a program. One that is not in the program adds nothing.
    fn encode(&self, into: &mut Vec<u8>) {
        let (kind, subject, gas, to, first, data): (u8, _, _, _, Option<&[u8]>, &[u8]) = match self
        {
            Self::CodeSize(account) => (0, *account, 0, Address::ZERO, None, &[]),
            Self::Call {
                to,
                data,
                gas,
                when,
            } => {
                let (kind, subject) = match when {
                    Condition::Always => (1, Address::ZERO),
                    Condition::HasCode(account) => (2, *account),
                    Condition::NoCode(account) => (3, *account),
                };
                (kind, subject, *gas, *to, None, data)
            }
            Self::CallAfter {
                first_to,
                first_data,
                to,
                data,
                gas,
            } => (4, *first_to, *gas, *to, Some(first_data), data),
            Self::CallAs { .. } | Self::Nonce(_) | Self::Balance(_) => return,
        };
        let size = |data: usize| {
            let size = u16::try_from(data);
            let size = size.expect("the longest accepted signature is far below 64 KiB");
            size.to_be_bytes()
        };
        into.push(kind);
        into.extend_from_slice(subject.as_slice());
        into.extend_from_slice(&gas.to_be_bytes());
        into.extend_from_slice(to.as_slice());
        into.extend_from_slice(&size(self.data_size()));
        if let Some(first) = first {
            into.extend_from_slice(&size(first.len()));
            into.extend_from_slice(first);
        }
        into.extend_from_slice(data);
    }

    /// How many bytes come after the head.
    fn data_size(&self) -> usize {
        match self {
            Self::CodeSize(_) | Self::CallAs { .. } | Self::Nonce(_) | Self::Balance(_) => 0,
            Self::Call { data, .. } => data.len(),
            Self::CallAfter {
                first_data, data, ..
            } => 2 + first_data.len() + data.len(),
        }
    }

    fn gas(&self) -> u64 {
        match self {
            Self::CodeSize(_) | Self::CallAs { .. } | Self::Nonce(_) | Self::Balance(_) => 0,
            Self::Call { gas, .. } => (*gas).into(),
            Self::CallAfter { gas, .. } => 2 * u64::from(*gas),
        }
    }
}

impl Probe {
    /// A probe that shares a call with others.
    pub fn new(steps: Vec<Step>) -> Self {
        Self {
            steps,
            as_transaction: false,
        }
    }

    /// A probe that runs [`as_transaction`](Self::as_transaction).
    pub fn new_transaction(steps: Vec<Step>) -> Self {
        Self {
            steps,
            as_transaction: true,
        }
    }

    /// How many bytes the probe adds to a program.
    pub(super) fn size(&self) -> usize {
        let steps = self.steps.iter().filter(|step| step.is_in_program());
        steps.map(|step| Step::HEAD + step.data_size()).sum()
    }

    /// How many requests the probe needs beside the program.
    pub(super) fn named_calls(&self) -> usize {
        let named = self.steps.iter().filter(|step| !step.is_in_program());
        named.count()
    }

    /// The most gas that the probe can use, its overhead included.
    pub(super) fn gas(&self) -> u64 {
        /// A cold account, the call into the frame, the call out of it, and copies. Measured: under
        /// 6,000.
        const OVERHEAD: u64 = 10_000;
        self.steps.iter().map(|step| step.gas() + OVERHEAD).sum()
    }
}

/// The program that runs all `probes`.
pub(super) fn program<'a>(probes: impl IntoIterator<Item = &'a Probe>) -> Bytes {
    let mut code = PROGRAM.to_vec();
    for step in probes.into_iter().flat_map(|probe| &probe.steps) {
        step.encode(&mut code);
    }
    code.into()
}

/// Decodes the program's return data: the chain id, and the result of each probe, with the outcomes
/// of the steps in the program. The result is `None` if one of them ran out of the node's gas
/// limit.
///
/// Returns `None` if the data is not from the program: the node is broken or did not run it.
pub(super) fn decode_results<'a>(
    data: &[u8],
    probes: impl IntoIterator<Item = &'a Probe>,
) -> Option<(u64, Vec<Option<ProbeResult>>)> {
    let mut reader = Reader(data);
    let (chain_id, block, time) = (reader.number()?, reader.number()?, reader.number()?);
    let mut results = Vec::new();
    for probe in probes {
        let mut outcomes = Vec::with_capacity(probe.steps.len());
        let mut lost = false;
        for step in probe.steps.iter().filter(|step| step.is_in_program()) {
            match reader.outcome(step)? {
                Some(outcome) => outcomes.push(outcome),
                None => lost = true,
            }
        }
        let result = ProbeResult::new(Timestamp::from_secs(time), block, outcomes);
        results.push((!lost).then_some(result));
    }
    reader.0.is_empty().then_some((chain_id, results))
}

/// Reads the return data from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, left) = self.0.split_at_checked(count)?;
        self.0 = left;
        Some(taken)
    }

    /// A word that is a 64-bit number.
    fn number(&mut self) -> Option<u64> {
        let (high, low) = self.take(32)?.split_at(24);
        let low: [u8; 8] = low.try_into().ok()?;
        high.iter()
            .all(|byte| *byte == 0)
            .then(|| u64::from_be_bytes(low))
    }

    /// The outcome of a step; `Some(None)` if the step ran out of gas.
    fn outcome(&mut self, step: &Step) -> Option<Option<StepOutcome>> {
        let [status, gas @ .., size] = self.take(6)? else {
            return None;
        };
        let gas = u32::from_be_bytes(gas.try_into().ok()?);
        let data = self.take((*size).into())?;
        if data.len() > DATA_MAX {
            return None;
        }
        let data = || Bytes::copy_from_slice(data);
        Some(match (step, status) {
            (Step::CodeSize(_), 1) => Some(StepOutcome::CodeSize(Reader(&data()).number()?)),
            (Step::CodeSize(_) | Step::CallAs { .. }, _) => return None,
            (_, 0) => Some(StepOutcome::Reverted { data: data() }),
            (_, 1) => Some(StepOutcome::Returned { data: data(), gas }),
            (Step::Call { .. }, 2) => Some(StepOutcome::NotMade),
            (_, 3) => None,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn probe() -> Probe {
        let call = Step::Call {
            to: Address::ZERO,
            data: Bytes::from_static(&[1; 300]),
            gas: 7,
            when: Condition::Always,
        };
        Probe {
            steps: vec![Step::CodeSize(Address::ZERO), call],
            as_transaction: false,
        }
    }

    fn after() -> Probe {
        let step = Step::CallAfter {
            first_to: Address::ZERO,
            first_data: Bytes::from_static(&[2; 70]),
            to: Address::ZERO,
            data: Bytes::from_static(&[1; 30]),
            gas: 7,
        };
        let named = Step::CallAs {
            from: Address::ZERO,
            to: Address::ZERO,
            data: Bytes::from_static(&[3; 9]),
            gas: 7,
        };
        Probe::new(vec![step, named])
    }

    fn word(number: u64) -> [u8; 32] {
        let mut word = [0; 32];
        word[24..].copy_from_slice(&number.to_be_bytes());
        word
    }

    fn return_data(outcomes: &[&[u8]]) -> Vec<u8> {
        [&word(1), &word(2), &word(3)]
            .into_iter()
            .flatten()
            .copied()
            .chain(outcomes.concat())
            .collect()
    }

    #[test]
    fn computed_size_equals_the_encoded_size() {
        let (probe, after) = (probe(), after());
        let expected = PROGRAM.len() + 2 * probe.size() + after.size();
        assert_eq!(program([&probe, &after, &probe]).len(), expected);
    }

    #[test]
    fn lost_step_loses_only_its_own_probe() {
        let size = [&[1, 0, 0, 0, 0, 32][..], &word(9)].concat();
        let (lost, fine): (&[u8], &[u8]) = (&[3, 0, 0, 0, 0, 0], &[1, 0, 0, 1, 0, 2, 5, 5]);
        let (probe, data) = (probe(), return_data(&[&size, lost, &size, fine]));
        let (chain_id, results) = decode_results(&data, [&probe, &probe]).unwrap();
        assert_eq!((chain_id, &results[0]), (1, &None));
        let outcomes = &results[1].as_ref().unwrap().outcomes;
        assert_eq!(
            (outcomes[0].code_size(), outcomes[1].gas()),
            (Some(9), Some(256))
        );
    }

    proptest! {
        #[test]
        fn no_return_data_panics(bytes: Vec<u8>) {
            let _ = decode_results(&bytes, [&probe()]);
            let _ = decode_results(&return_data(&[&bytes]), [&probe()]);
        }
    }
}
