//! The chain as the engine uses it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ed25519_dalek::SigningKey;
use quittance_core::{
    Amount, Chain, Fault, FaultKind, Finality, Found, Health, LaneId, Network, Problem, Scope,
    Status, Submission, Timestamp, Transaction, Watched,
};

use super::address::Address;
use super::ledger::{COIN, Included, Ledger, Refused, TransferEvent, minimum_replacement_fee};
use super::link::{Link, NodeCall, Passage};
use super::transaction::{Content, SignedContent, Transfer};
use super::{FEE, SubmitError, World};

/// The most transfers in one transaction. Small, so that tests fill one.
const BATCH_MAX: usize = 16;

/// The highest fee that the operator pays: ten replacements.
const FEE_MAX: u64 = 1_000;

/// A signer with fewer coins than this cannot send for long, and is reported.
const COINS_MIN: u64 = 10 * FEE;

/// A question about a payment: the payer's balance, and whether the nonce is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The payer.
    pub from: Address,
    /// The name of the asset.
    pub asset: String,
    /// The authorization's nonce.
    pub nonce: [u8; 32],
}

/// The answer to a [`Question`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateAnswer {
    /// What the payer has, in atomic units.
    pub balance: Amount,
    /// Whether a transfer with this nonce is in a block.
    pub is_used: bool,
    /// The key that signs for the payer.
    pub key: [u8; 32],
    /// The height of the next block.
    pub height: u64,
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// One event for each transfer, in their order.
    pub events: Vec<TransferEvent>,
}

/// What finds the transaction that used an authorization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// The payer.
    pub from: Address,
    /// The authorization's nonce.
    pub nonce: [u8; 32],
}

/// The simulated chain, with the keys of its signers.
pub struct SimulatedChain {
    world: World,
    keys: Vec<SigningKey>,
    lanes: Vec<LaneId>,
    /// For how many seconds a transaction of a signer can be included; `None` for ever.
    lifetime_secs: Option<u64>,
    /// For how many blocks the effect of a transaction in a block is unknown.
    executing_blocks: u64,
    /// What disturbs the calls of the node, if anything does.
    link: Option<Arc<dyn Link>>,
}

impl SimulatedChain {
    /// The chain with these signers, in order of preference. Without signers, payers sign whole
    /// transactions ([`Transfer::carried`]).
    pub fn new(world: World, keys: Vec<SigningKey>) -> Self {
        let lanes = keys
            .iter()
            .map(|key| LaneId::new(&Address::from_key(key).to_string()))
            .collect();
        Self {
            world,
            keys,
            lanes,
            lifetime_secs: None,
            executing_blocks: 0,
            link: None,
        }
    }

    /// The same chain, which shows what a transaction did only after this many more blocks.
    #[must_use]
    pub fn executing_for(self, blocks: u64) -> Self {
        Self {
            executing_blocks: blocks,
            ..self
        }
    }

    /// The same chain, whose signers' transactions expire after this time. They are numbered
    /// nevertheless.
    #[must_use]
    pub fn expiring_after(self, secs: u64) -> Self {
        Self {
            lifetime_secs: Some(secs),
            ..self
        }
    }

    /// The same chain, asked over this connection.
    #[must_use]
    pub fn over(self, link: Arc<dyn Link>) -> Self {
        Self {
            link: Some(link),
            ..self
        }
    }

    /// The world that this chain is a part of.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The addresses of the signers.
    pub fn signers(&self) -> BTreeSet<Address> {
        self.keys.iter().map(Address::from_key).collect()
    }

    fn key(&self, lane: &LaneId) -> Result<&SigningKey, Fault> {
        let at = self.lanes.iter().position(|known| known == lane);
        at.and_then(|at| self.keys.get(at))
            .ok_or_else(|| Fault::new(FaultKind::Internal, format_args!("{lane} is not a signer")))
    }

    /// Sends a call over the connection.
    async fn pass(&self, call: NodeCall<'_>) -> Passage {
        match &self.link {
            Some(link) => link.pass(call).await,
            None => Passage::Clear,
        }
    }

    /// Waits for the answer of a call.
    async fn answered(&self) {
        if let Some(link) = &self.link {
            link.answered().await;
        }
    }

    /// Asks a question over the connection, unless it is lost.
    async fn travel(&self, call: NodeCall<'_>) -> Result<Passage, Fault> {
        let passage = self.pass(call).await;
        self.answered().await;
        match passage {
            Passage::Down | Passage::Lost | Passage::AnswerLost => Err(node_down()),
            passage => Ok(passage),
        }
    }

    fn ask<T>(&self, question: impl FnOnce(&Ledger) -> T) -> Result<T, Fault> {
        self.world.ask(question).ok_or_else(node_down)
    }

    fn sign(
        &self,
        lane: &LaneId,
        sequence: u64,
        fee: u64,
        transfers: Vec<Transfer>,
    ) -> Result<Transaction, Fault> {
        let key = self.key(lane)?;
        let content = Content {
            signer: Address::from_key(key),
            sequence,
            in_any_order: false,
            fee,
            expires: self
                .lifetime_secs
                .map(|secs| self.world.now().secs() + secs),
            transfers,
        };
        let signed = SignedContent::sign(content, self.world.network(), key);
        Ok(signed.to_transaction())
    }

    /// Hands a transaction to the node.
    fn hand_in(&self, transaction: &Transaction) -> Submission {
        match self.world.submit(&transaction.bytes) {
            Ok(()) => Submission::Accepted,
            // The connection was not made: the node has certainly not got the transaction.
            Err(SubmitError::Down) => Submission::Refused(node_down()),
            Err(SubmitError::AnswerLost) => Submission::Unknown(Fault::new(
                FaultKind::ChainUnavailable,
                "the node's answer was lost",
            )),
            Err(SubmitError::Refuses) => Submission::Refused(Fault::new(
                FaultKind::ChainUnavailable,
                "the node refuses transactions",
            )),
            Err(SubmitError::Refused(Refused::SequenceUsed)) => Submission::SequenceUsed,
            Err(SubmitError::Refused(Refused::Funds)) => Submission::Refused(Fault::new(
                FaultKind::FacilitatorFunds,
                format_args!("{} cannot pay the fee", transaction.lane),
            )),
            Err(SubmitError::Refused(Refused::Expired)) => Submission::Refused(Fault::new(
                FaultKind::ChainUnavailable,
                "the transaction has expired",
            )),
            Err(SubmitError::Refused(Refused::Invalid)) => Submission::Refused(Fault::new(
                FaultKind::Internal,
                "the bytes are not a transaction of this chain",
            )),
        }
    }

    fn status_of(&self, ledger: &Ledger, watched: &Watched) -> Result<Status<Evidence>, Fault> {
        let mut found = watched.transactions.iter();
        if let Some((confirmations, included)) = found.find_map(|one| ledger.find(&one.id)) {
            let id = included.id.clone();
            return Ok(match confirmations > self.executing_blocks {
                false => Status::Executing { id },
                true => Status::Included {
                    id,
                    confirmations,
                    evidence: evidence_of(included),
                },
            });
        }
        let confirmations = self.confirmations_required();
        let mut all_dropped = true;
        for transaction in &watched.transactions {
            let content = decode(transaction)?.content;
            all_dropped &= ledger.is_dropped(&content, confirmations);
        }
        Ok(match all_dropped {
            true => Status::Dropped,
            false => Status::Pending,
        })
    }
}

fn node_down() -> Fault {
    Fault::new(FaultKind::ChainUnavailable, "the node does not answer")
}

/// A lie: the newest transaction is in a block, and did what it was made for.
fn foretold(watched: &Watched) -> Result<Status<Evidence>, Fault> {
    let Some(transaction) = watched.transactions.last() else {
        return Ok(Status::Pending);
    };
    let moved = |transfer: Transfer| TransferEvent {
        authorization: transfer.authorization,
        failure: None,
    };
    let transfers = decode(transaction)?.content.transfers;
    Ok(Status::Included {
        id: transaction.id.clone(),
        confirmations: 1,
        evidence: Evidence {
            events: transfers.into_iter().map(moved).collect(),
        },
    })
}

fn evidence_of(included: &Included) -> Evidence {
    Evidence {
        events: included.events.clone(),
    }
}

fn decode(transaction: &Transaction) -> Result<SignedContent, Fault> {
    let what = "the bytes are not a transaction";
    SignedContent::decode(&transaction.bytes).ok_or_else(|| Fault::new(FaultKind::Internal, what))
}

fn fee_of(transaction: &Transaction) -> Result<(u64, Vec<Transfer>), Fault> {
    let content = decode(transaction)?.content;
    Ok((content.fee, content.transfers))
}

#[async_trait]
impl Chain for SimulatedChain {
    type Read = Question;
    type Answer = StateAnswer;
    type Action = Transfer;
    type Evidence = Evidence;
    type Search = Search;

    fn network(&self) -> &Network {
        self.world.network()
    }

    fn lanes(&self) -> &[LaneId] {
        &self.lanes
    }

    /// A transfer whose payer sends it in a transaction of its own.
    fn signed(&self, action: &Transfer) -> Option<Transaction> {
        let signed = action.carrier_transaction()?;
        Some(signed.to_transaction())
    }

    fn confirmations_required(&self) -> u64 {
        1
    }

    fn finality(&self) -> Finality {
        Finality {
            confirmations: 10,
            age: Duration::ZERO,
        }
    }

    fn in_flight_max(&self) -> usize {
        16
    }

    async fn read(&self, reads: &[Question]) -> Vec<Result<StateAnswer, Fault>> {
        if let Err(fault) = self.travel(NodeCall::Ask).await {
            return reads.iter().map(|_| Err(fault.clone())).collect();
        }
        let answer = |question: &Question| {
            self.ask(|ledger| StateAnswer {
                balance: ledger.accounts.balance(&question.from, &question.asset),
                is_used: ledger.accounts.is_used(&question.from, &question.nonce),
                key: ledger.accounts.key(&question.from),
                height: ledger.height(),
            })
        };
        reads.iter().map(answer).collect()
    }

    /// Transfers do not disturb each other, unless they use the same authorization.
    fn can_batch(&self, batch: &[&Transfer], next: &Transfer) -> bool {
        let key = |transfer: &Transfer| {
            let authorization = &transfer.authorization;
            (authorization.from, authorization.nonce)
        };
        batch.len() < BATCH_MAX && batch.iter().all(|other| key(other) != key(next))
    }

    async fn next_sequence(&self, lane: &LaneId) -> Result<Option<u64>, Fault> {
        self.travel(NodeCall::Ask).await?;
        let signer = Address::from_key(self.key(lane)?);
        self.ask(|ledger| Some(ledger.accounts.next_sequence(&signer)))
    }

    async fn prepare(
        &self,
        lane: &LaneId,
        sequence: u64,
        actions: &[&Transfer],
    ) -> Result<Transaction, Fault> {
        self.travel(NodeCall::Ask).await?;
        if actions.len() > BATCH_MAX {
            let detail = format_args!("{} transfers: at most {BATCH_MAX}", actions.len());
            return Err(Fault::new(FaultKind::Misconfigured, detail));
        }
        let transfers = actions.iter().map(|&action| action.clone()).collect();
        let fee = self.ask(|_| FEE)?;
        self.sign(lane, sequence, fee, transfers)
    }

    async fn submit(&self, transaction: &Transaction) -> Submission {
        let passage = self.pass(NodeCall::Submit(transaction)).await;
        let answer = match passage {
            Passage::Down => Submission::Refused(node_down()),
            Passage::Lost => Submission::Unknown(node_down()),
            Passage::Refused => Submission::Refused(Fault::new(
                FaultKind::ChainUnavailable,
                "the node refuses this transaction",
            )),
            Passage::AnswerLost => {
                self.hand_in(transaction);
                Submission::Unknown(node_down())
            }
            Passage::Twice => {
                self.hand_in(transaction);
                self.hand_in(transaction)
            }
            Passage::RefusedAndTaken => {
                self.hand_in(transaction);
                Submission::Refused(node_down())
            }
            Passage::Clear | Passage::Stale | Passage::Foretold => self.hand_in(transaction),
        };
        self.answered().await;
        answer
    }

    async fn status(&self, watched: &[Watched]) -> Vec<Result<Status<Evidence>, Fault>> {
        match self.travel(NodeCall::Status).await {
            Err(fault) => return watched.iter().map(|_| Err(fault.clone())).collect(),
            Ok(Passage::Foretold) => return watched.iter().map(foretold).collect(),
            Ok(Passage::Stale) => return watched.iter().map(|_| Ok(Status::Pending)).collect(),
            Ok(_) => {}
        }
        let status = |one| self.ask(|ledger| self.status_of(ledger, one))?;
        watched.iter().map(status).collect()
    }

    async fn find(&self, search: &Search) -> Result<Option<Found<Evidence>>, Fault> {
        self.travel(NodeCall::Ask).await?;
        let used = |event: &TransferEvent| {
            let authorization = &event.authorization;
            event.failure.is_none()
                && (authorization.from, authorization.nonce) == (search.from, search.nonce)
        };
        self.ask(|ledger| {
            let mut all = ledger.included();
            let found = all.find(|(_, included)| included.events.iter().any(used));
            found.map(|(confirmations, included)| Found {
                id: included.id.clone(),
                confirmations,
                evidence: evidence_of(included),
            })
        })
    }

    async fn replace(&self, transaction: &Transaction) -> Result<Option<Transaction>, Fault> {
        self.travel(NodeCall::Ask).await?;
        let (fee, transfers) = fee_of(transaction)?;
        let fee = self.ask(|_| minimum_replacement_fee(fee))?;
        if fee > FEE_MAX {
            return Ok(None);
        }
        self.sign(&transaction.lane, transaction.sequence, fee, transfers)
            .map(Some)
    }

    async fn noop(
        &self,
        lane: &LaneId,
        sequence: u64,
        over: Option<&Transaction>,
    ) -> Result<Option<Transaction>, Fault> {
        self.travel(NodeCall::Ask).await?;
        let minimum = match over {
            Some(transaction) => minimum_replacement_fee(fee_of(transaction)?.0),
            None => FEE,
        };
        let fee = self.ask(|_| minimum)?;
        if fee > FEE_MAX {
            return Ok(None);
        }
        self.sign(lane, sequence, fee, Vec::new()).map(Some)
    }

    async fn health(&self, _now: Timestamp) -> Health {
        let problem = |scope, what: String| Problem { scope, what };
        let coins = |lane: &LaneId| {
            let signer = self.key(lane).map(Address::from_key)?;
            self.ask(|ledger| ledger.accounts.balance(&signer, COIN))
        };
        let mut problems = Vec::new();
        if let Err(fault) = self.ask(|_| ()) {
            problems.push(problem(Scope::Network, fault.to_string()));
        }
        for lane in &self.lanes {
            match coins(lane) {
                Err(_) => {}
                Ok(coins) if coins < Amount::from(COINS_MIN) => {
                    let what = format!("{lane} has {coins} coins: send it at least {COINS_MIN}");
                    problems.push(problem(Scope::Lane(lane.clone()), what));
                }
                Ok(_) => {}
            }
        }
        Health { problems }
    }

    fn clock_fault(&self) -> Option<Fault> {
        let what = "the newest blocks contradict the clock of this world";
        let is_wrong = self.world.is_clock_wrong();
        is_wrong.then(|| Fault::new(FaultKind::Misconfigured, what))
    }
}
