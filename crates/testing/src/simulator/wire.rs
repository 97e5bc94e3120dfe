//! The network between an engine and its node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::sleep;

use super::{Mutation, Shared, Trouble};
use crate::world::{Link, NodeCall, Passage};

/// The longest ordinary way, in milliseconds.
const WAY_MS_MAX: u64 = 10;

/// The longest delayed way, in milliseconds.
const DELAY_MS_MAX: u64 = 2_000;

/// The connection of one process.
pub(super) struct Wire {
    shared: Shared,
    has_crashed: Arc<AtomicBool>,
}

impl Wire {
    pub(super) const fn new(shared: Shared, has_crashed: Arc<AtomicBool>) -> Self {
        Self {
            shared,
            has_crashed,
        }
    }

    async fn travel(&self) {
        let mut wait = 1 + self.shared.below(WAY_MS_MAX);
        if self.shared.strikes(Trouble::Delay, 3) {
            wait += self.shared.below(DELAY_MS_MAX);
        }
        sleep(Duration::from_millis(wait)).await;
        if self.has_crashed.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    fn fate(&self, call: NodeCall<'_>) -> Passage {
        let strikes = |trouble, chance| self.shared.strikes(trouble, chance);
        let mutation = self.shared.plan.mutation;
        match call {
            _ if strikes(Trouble::CallLost, 3) => Passage::Lost,
            _ if strikes(Trouble::AnswerLost, 3) => Passage::AnswerLost,
            NodeCall::Ask => Passage::Clear,
            NodeCall::Status if mutation == Some(Mutation::SeesWaitingAsIncluded) => {
                Passage::Foretold
            }
            NodeCall::Status if strikes(Trouble::StaleNode, 5) => Passage::Stale,
            NodeCall::Status => Passage::Clear,
            NodeCall::Submit(_) if mutation == Some(Mutation::RefusesWhatItTakes) => {
                Passage::RefusedAndTaken
            }
            NodeCall::Submit(_) if strikes(Trouble::Duplicate, 5) => Passage::Twice,
            NodeCall::Submit(_) if strikes(Trouble::Refusal, 3) => Passage::Refused,
            NodeCall::Submit(_) => Passage::Clear,
        }
    }
}

#[async_trait]
impl Link for Wire {
    async fn pass(&self, call: NodeCall<'_>) -> Passage {
        self.travel().await;
        let fate = self.fate(call);
        if let NodeCall::Submit(transaction) = call {
            self.shared.note(&format!("{} {fate:?}", transaction.id));
        }
        fate
    }

    async fn answered(&self) {
        self.travel().await;
    }
}
