//! Many questions about the chain in one `eth_call`, each answered as if it were the only one.
//!
//! The questions of many payments are appended to a small program (`contracts/Probe.yul`) that runs as the code of a
//! call without a recipient: nothing is deployed, no node needs more than `eth_call`. Each step runs in a frame that
//! takes back what it did, so a simulated transfer never shows in a neighbour's balance.

use alloy::primitives::{Address, B256, Bytes, hex};
use quittance_core::{LaneId, Timestamp};

/// `contracts/Probe.yul`, compiled. A test compiles it again and compares.
const PROGRAM: &[u8] = &match hex::const_decode_to_array::<
    { include_bytes!("../contracts/Probe.hex").len() / 2 },
>(include_bytes!("../contracts/Probe.hex"))
{
    Ok(program) => program,
    Err(_) => panic!("contracts/Probe.hex is not hexadecimal"),
};

/// How much of what a call returned is answered; `ANSWER_MAX` of the program. Long enough for five words, which is a
/// revert with a reason of up to 92 letters.
const DATA_MAX: usize = 160;

/// The longest program with steps that is sent: EIP-3860 limits init code to 49,152 bytes.
pub(crate) const CODE_MAX: usize = 48 * 1024;

/// Questions that belong together: they are asked of one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The questions.
    pub steps: Vec<Step>,
    /// Ask as in a real transaction of ours: alone, from a signer, with fees. To be set where a contract of the payer's
    /// is called, because a contract can tell a call that costs nothing and behave for as long as it lasts.
    pub as_transaction: bool,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// How long is the code of this account?
    CodeSize(Address),
    /// What would this call do?
    Call {
        /// Whom to call.
        to: Address,
        /// With what.
        data: Bytes,
        /// With how much gas, at most.
        gas: u32,
        /// Whether to call at all.
        when: Condition,
    },
}

/// Whether a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It is.
    Always,
    /// Where this account has code.
    HasCode(Address),
    /// Where this account has no code.
    NoCode(Address),
}

/// The answers to one [`Probe`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The time of the block they were given for.
    pub chain_time: Timestamp,
    /// The block they were given for.
    pub block: u64,
    /// How far apart the chain's blocks are, in seconds, as far as that was seen; 0 where it was not.
    pub block_secs: u64,
    /// One for each step.
    pub outcomes: Vec<Outcome>,
    /// The same steps in the last block that a transaction sent now is expected in, for a probe that was asked as a
    /// transaction. `None` where the node cannot say: it takes no other number and time for a call than the newest
    /// block's.
    pub later: Option<Vec<Outcome>>,
    /// Whose transaction the probe looked like, where it was asked as one.
    pub sender: Option<LaneId>,
}

impl Answer {
    /// What the steps did, now and later. A payment has to hold in both.
    pub(crate) fn looks(&self) -> impl Iterator<Item = &[Outcome]> {
        let later = self.later.as_deref();
        std::iter::once(self.outcomes.as_slice()).chain(later)
    }
}

/// The answer to one [`Step`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The account's code is this long.
    CodeSize(u64),
    /// The call succeeded.
    Returned {
        /// The first 160 bytes of what it returned.
        data: Bytes,
        /// How much gas it took.
        gas: u32,
    },
    /// The call reverted.
    Reverted {
        /// The first 160 bytes of why.
        data: Bytes,
    },
    /// The call's condition did not hold.
    NotMade,
}

impl Outcome {
    /// The length of the code, if that was the question.
    pub fn code_size(&self) -> Option<u64> {
        match self {
            Self::CodeSize(size) => Some(*size),
            _ => None,
        }
    }

    /// The one word a call returned, if it returned exactly that.
    pub fn word(&self) -> Option<B256> {
        match self {
            Self::Returned { data, .. } => B256::try_from(data.as_ref()).ok(),
            _ => None,
        }
    }

    /// How much gas a call took that succeeded.
    pub fn gas(&self) -> Option<u32> {
        match self {
            Self::Returned { gas, .. } => Some(*gas),
            _ => None,
        }
    }
}

impl Step {
    /// Bytes before the data: kind, subject, gas, target, size.
    const HEAD: usize = 1 + 20 + 4 + 20 + 2;

    fn encode(&self, into: &mut Vec<u8>) {
        let (kind, subject, gas, to, data): (u8, _, _, _, &[u8]) = match self {
            Self::CodeSize(account) => (0, *account, 0, Address::ZERO, &[]),
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
                (kind, subject, *gas, *to, data)
            }
        };
        let size = u16::try_from(data.len())
            .expect("calls are made of signatures of at most a few kilobytes");
        into.push(kind);
        into.extend_from_slice(subject.as_slice());
        into.extend_from_slice(&gas.to_be_bytes());
        into.extend_from_slice(to.as_slice());
        into.extend_from_slice(&size.to_be_bytes());
        into.extend_from_slice(data);
    }

    fn gas(&self) -> u64 {
        match self {
            Self::CodeSize(_) => 0,
            Self::Call { gas, .. } => (*gas).into(),
        }
    }
}

impl Probe {
    /// How many bytes it adds to a program.
    pub(crate) fn size(&self) -> usize {
        self.steps
            .iter()
            .map(|step| match step {
                Step::CodeSize(_) => Step::HEAD,
                Step::Call { data, .. } => Step::HEAD + data.len(),
            })
            .sum()
    }

    /// How much gas it may take, its own overhead included.
    pub(crate) fn gas(&self) -> u64 {
        /// A cold account, a call into the frame and one out of it, copies: measured under 6,000.
        const OVERHEAD: u64 = 10_000;
        self.steps.iter().map(|step| step.gas() + OVERHEAD).sum()
    }
}

/// The program that asks all `probes`.
pub(crate) fn program<'a>(probes: impl IntoIterator<Item = &'a Probe>) -> Bytes {
    let mut code = PROGRAM.to_vec();
    for step in probes.into_iter().flat_map(|probe| &probe.steps) {
        step.encode(&mut code);
    }
    code.into()
}

/// Reads what the program answered: the chain id it ran on, and an answer for each probe. `None` for an answer of which
/// a step did not come back.
///
/// `None` at all when the text is not what the program answers: the node is broken or does not run it.
pub(crate) fn answers<'a>(
    data: &[u8],
    probes: impl IntoIterator<Item = &'a Probe>,
) -> Option<(u64, Vec<Option<Answer>>)> {
    let mut reader = Reader(data);
    let (chain_id, block, time) = (reader.number()?, reader.number()?, reader.number()?);
    let mut answers = Vec::new();
    for probe in probes {
        let mut outcomes = Vec::with_capacity(probe.steps.len());
        let mut lost = false;
        for step in &probe.steps {
            match reader.outcome(step)? {
                Some(outcome) => outcomes.push(outcome),
                None => lost = true,
            }
        }
        let answer = Answer {
            chain_time: Timestamp::from_secs(time),
            block,
            block_secs: 0,
            outcomes,
            later: None,
            sender: None,
        };
        answers.push((!lost).then_some(answer));
    }
    reader.0.is_empty().then_some((chain_id, answers))
}

/// Takes the answers apart from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, left) = self.0.split_at_checked(count)?;
        self.0 = left;
        Some(taken)
    }

    /// A word that is a number of 64 bits.
    fn number(&mut self) -> Option<u64> {
        let (high, low) = self.take(32)?.split_at(24);
        let low: [u8; 8] = low.try_into().ok()?;
        high.iter()
            .all(|byte| *byte == 0)
            .then(|| u64::from_be_bytes(low))
    }

    /// The outcome of a step; `Some(None)` where it did not come back.
    fn outcome(&mut self, step: &Step) -> Option<Option<Outcome>> {
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
            (Step::CodeSize(_), 1) => Some(Outcome::CodeSize(Reader(&data()).number()?)),
            (Step::Call { .. }, 0) => Some(Outcome::Reverted { data: data() }),
            (Step::Call { .. }, 1) => Some(Outcome::Returned { data: data(), gas }),
            (Step::Call { .. }, 2) => Some(Outcome::NotMade),
            (Step::Call { .. }, 3) => None,
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

    fn word(number: u64) -> [u8; 32] {
        let mut word = [0; 32];
        word[24..].copy_from_slice(&number.to_be_bytes());
        word
    }

    fn answer(outcomes: &[&[u8]]) -> Vec<u8> {
        [&word(1), &word(2), &word(3)]
            .into_iter()
            .flatten()
            .copied()
            .chain(outcomes.concat())
            .collect()
    }

    #[test]
    fn the_size_foretold_is_the_size_made() {
        let probe = probe();
        assert_eq!(
            program([&probe, &probe]).len(),
            PROGRAM.len() + 2 * probe.size()
        );
    }

    #[test]
    fn a_step_that_did_not_come_back_loses_its_own_answer_only() {
        let size = [&[1, 0, 0, 0, 0, 32][..], &word(9)].concat();
        let (lost, fine): (&[u8], &[u8]) = (&[3, 0, 0, 0, 0, 0], &[1, 0, 0, 1, 0, 2, 5, 5]);
        let (probe, data) = (probe(), answer(&[&size, lost, &size, fine]));
        let (chain_id, answers) = answers(&data, [&probe, &probe]).unwrap();
        assert_eq!((chain_id, &answers[0]), (1, &None));
        let outcomes = &answers[1].as_ref().unwrap().outcomes;
        assert_eq!(
            (outcomes[0].code_size(), outcomes[1].gas()),
            (Some(9), Some(256))
        );
    }

    proptest! {
        #[test]
        fn no_answer_of_any_bytes_panics(bytes: Vec<u8>) {
            let _ = answers(&bytes, [&probe()]);
            let _ = answers(&answer(&[&bytes]), [&probe()]);
        }
    }
}
