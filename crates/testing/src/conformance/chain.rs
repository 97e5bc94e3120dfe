//! The conformance suite for chains: the properties that each implementation must have.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use quittance_core::{
    Chain, Clock, LaneId, Status, Submission, SystemClock, Transaction, TransactionId, Watched,
};

use crate::until;

/// A chain in an environment of its own, which includes transactions only when the fixture says so.
///
/// The chain has at least two lanes, or none.
#[async_trait]
pub trait ChainFixture: Send + Sync + Sized {
    /// The chain.
    type Chain: Chain;

    /// A chain whose nodes answer and whose signers have funds.
    async fn new() -> Self;

    /// The clock that the chain's blocks agree with.
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(SystemClock)
    }

    /// The chain, as the engine has it.
    fn chain(&self) -> Arc<Self::Chain>;

    /// A new action that this lane can send, and that will succeed.
    async fn action(&self, lane: &LaneId) -> <Self::Chain as Chain>::Action;

    /// A new action that another party has signed as a whole ([`Chain::signed`]), and that will
    /// succeed. `None` if the chain has no such actions. A chain without lanes has them.
    async fn signed_action(&self) -> Option<<Self::Chain as Chain>::Action> {
        None
    }

    /// How many of the fixture's actions have had their effect, by the state of the chain.
    async fn effects(&self) -> u64;

    /// Some questions whose answers differ.
    fn questions(&self) -> Vec<<Self::Chain as Chain>::Read>;

    /// Whether this is the answer to the question at this index of [`questions`](Self::questions).
    fn is_answer(&self, at: usize, answer: &<Self::Chain as Chain>::Answer) -> bool;

    /// A question that consumes as many of a node's resources as a question can.
    fn hostile_question(&self) -> <Self::Chain as Chain>::Read;

    /// Makes a block of everything that waits, and further blocks until it is executed.
    async fn include(&self);

    /// Uses up the lane's next sequence number in a block, without the chain under test.
    async fn use_sequence(&self, lane: &LaneId);

    /// Makes blocks until no block can include a transaction any more that was prepared before, and
    /// whose status was asked for.
    ///
    /// `false` when transactions do not expire.
    async fn expire(&self) -> bool {
        false
    }

    /// From now on, nodes accept transactions and no block ever includes them. Needed only where
    /// transactions expire.
    async fn lose_transactions(&self) {}

    /// Takes all funds from a signer, so that it cannot pay a fee.
    async fn drain_signer(&self, lane: &LaneId);

    /// No node answers any more, and nothing that is sent reaches one.
    async fn nodes_down(&self);

    /// Nodes take transactions, and their answers to submissions are lost.
    async fn lose_answers(&self);

    /// All nodes answer again.
    async fn nodes_up(&self);
}

super::suite!($ chain, chain_conformance, ChainFixture:
    a_chain_that_works_reports_no_problem
    a_signer_without_funds_is_reported
    preparing_sends_nothing_and_uses_no_sequence
    a_transaction_has_the_sequence_that_was_asked_for
    the_same_bytes_are_accepted_any_number_of_times
    a_transaction_is_pending_then_included_ever_deeper
    every_lane_signs_with_its_own_key
    an_action_of_another_signer_is_sent_as_it_is
    a_used_sequence_is_reported_and_then_dropped
    an_expired_transaction_is_dropped
    a_sequence_where_another_transaction_waits_is_used
    an_unused_sequence_is_not_dropped
    a_replacement_has_the_same_sequence_and_actions
    all_transactions_of_a_sequence_are_looked_at
    a_noop_replaces_a_transaction_without_its_effect
    all_actions_of_a_batch_are_carried_out
    what_can_be_batched_can_be_prepared
    statuses_are_in_the_order_asked
    answers_are_in_the_order_of_the_questions
    answers_do_not_depend_on_their_neighbours
    a_restarted_chain_knows_its_own_transactions
    without_nodes_there_are_faults_and_no_verdicts
    a_lost_answer_is_not_a_refusal
);

/// The first lane. Without lanes, nothing is prepared.
fn lane<C: Chain>(chain: &C) -> Option<LaneId> {
    chain.lanes().first().cloned()
}

/// The next sequence number of a lane. Other signers have none that the engine uses.
async fn next_sequence<C: Chain>(chain: &C, lane: &LaneId) -> Option<u64> {
    if !chain.lanes().contains(lane) {
        return None;
    }
    chain
        .next_sequence(lane)
        .await
        .expect("a node that answers")
}

/// Signs a new action, not sent yet, at the next sequence number of the first lane. Without lanes,
/// another party has signed it.
async fn prepare<F: ChainFixture>(fixture: &F) -> Transaction {
    match lane(&*fixture.chain()) {
        Some(lane) => prepare_on(fixture, &lane).await,
        None => {
            let action = fixture.signed_action().await;
            let action = action.expect("a chain without lanes has signed actions");
            let signed = fixture.chain().signed(&action);
            signed.expect("the transaction of a signed action")
        }
    }
}

async fn prepare_on<F: ChainFixture>(fixture: &F, lane: &LaneId) -> Transaction {
    let chain = fixture.chain();
    let sequence = next_sequence(&*chain, lane).await.unwrap_or_default();
    let action = fixture.action(lane).await;
    chain
        .prepare(lane, sequence, &[&action])
        .await
        .expect("a transaction")
}

/// Waits until the chain shows this many effects. Nodes may need a moment after a block.
async fn has_effects<F: ChainFixture>(fixture: &F, count: u64) {
    until("the expected number of actions had an effect", || async {
        fixture.effects().await == count
    })
    .await;
}

fn watched(transactions: &[&Transaction]) -> Watched {
    let first = transactions[0];
    Watched {
        lane: first.lane.clone(),
        sequence: first.sequence,
        transactions: transactions
            .iter()
            .map(|transaction| (*transaction).clone())
            .collect(),
    }
}

async fn status<F: ChainFixture>(fixture: &F, transactions: &[&Transaction]) -> StatusKind {
    let statuses = fixture.chain().status(&[watched(transactions)]).await;
    assert_eq!(statuses.len(), 1, "one status for each sequence number");
    let status = statuses.into_iter().next().expect("one status");
    match status.expect("a status, because the nodes answer") {
        Status::Pending => StatusKind::Pending,
        Status::Executing { id } => StatusKind::Executing(id),
        Status::Included {
            id, confirmations, ..
        } => StatusKind::Included(id, confirmations),
        Status::Dropped => StatusKind::Dropped,
    }
}

async fn is_included<F: ChainFixture>(fixture: &F, transactions: &[&Transaction], at: usize) {
    let found = status(fixture, transactions).await;
    let expected = &transactions[at].id;
    assert!(
        matches!(&found, StatusKind::Included(id, confirmations) if id == expected && *confirmations >= 1),
        "{expected} is in a block, and the chain says {found:?}"
    );
}

#[derive(Debug, PartialEq, Eq)]
enum StatusKind {
    Pending,
    Executing(TransactionId),
    Included(TransactionId, u64),
    Dropped,
}

/// Two preparations may use the same sequence number, until one of them is sent.
pub async fn preparing_sends_nothing_and_uses_no_sequence<F: ChainFixture>() {
    let fixture = F::new().await;
    if fixture.chain().lanes().is_empty() {
        return;
    }
    let (first, second) = (prepare(&fixture).await, prepare(&fixture).await);
    assert_eq!(first.sequence, second.sequence);
    assert_ne!(first.id, second.id);
    fixture.include().await;
    assert_eq!(status(&fixture, &[&first]).await, StatusKind::Pending);
    assert_eq!(fixture.effects().await, 0, "nothing was sent");
}

/// The engine numbers the transactions, and sends several before the first is in a block.
pub async fn a_transaction_has_the_sequence_that_was_asked_for<F: ChainFixture>() {
    let fixture = F::new().await;
    let chain = fixture.chain();
    let Some(lane) = lane(&*chain) else {
        return;
    };
    let next = next_sequence(&*chain, &lane).await.unwrap_or_default();
    let mut sent = Vec::new();
    for sequence in next..next + 3 {
        let action = fixture.action(&lane).await;
        let signed = chain.prepare(&lane, sequence, &[&action]).await;
        let signed = signed.expect("a transaction");
        assert_eq!((signed.sequence, &signed.lane), (sequence, &lane));
        assert_eq!(chain.submit(&signed).await, Submission::Accepted);
        sent.push(signed);
    }
    fixture.include().await;
    for signed in &sent {
        is_included(&fixture, &[signed], 0).await;
    }
    let after = next_sequence(&*chain, &lane).await;
    assert!(after.is_none_or(|after| after == next + 3), "{after:?}");
}

/// The same bytes can be sent again, before inclusion and after.
pub async fn the_same_bytes_are_accepted_any_number_of_times<F: ChainFixture>() {
    let fixture = F::new().await;
    let signed = prepare(&fixture).await;
    for _ in 0..3 {
        assert_eq!(fixture.chain().submit(&signed).await, Submission::Accepted);
    }
    fixture.include().await;
    // Nodes forget what they have included, or know only that its number is used.
    let again = fixture.chain().submit(&signed).await;
    assert!(
        matches!(again, Submission::Accepted | Submission::SequenceUsed),
        "{again:?}"
    );
    is_included(&fixture, &[&signed], 0).await;
    has_effects(&fixture, 1).await;
}

/// The id that was known before is the id in the block.
pub async fn a_transaction_is_pending_then_included_ever_deeper<F: ChainFixture>() {
    let fixture = F::new().await;
    let signed = prepare(&fixture).await;
    assert_eq!(status(&fixture, &[&signed]).await, StatusKind::Pending);
    assert_eq!(fixture.chain().submit(&signed).await, Submission::Accepted);
    assert_eq!(status(&fixture, &[&signed]).await, StatusKind::Pending);
    let mut counts = Vec::new();
    for _ in 0..3 {
        fixture.include().await;
        match status(&fixture, &[&signed]).await {
            StatusKind::Included(id, confirmations) => {
                assert_eq!(id, signed.id);
                counts.push(confirmations);
            }
            other => panic!("the transaction is in a block, and the chain says {other:?}"),
        }
    }
    assert_eq!(counts[0], 1);
    assert!(counts.is_sorted() && counts[2] > counts[0], "{counts:?}");
    let next = next_sequence(&*fixture.chain(), &signed.lane).await;
    assert!(next.is_none_or(|next| next > signed.sequence));
}

/// A transaction of the first signer at the second lane's number would leave a gap in that lane.
pub async fn every_lane_signs_with_its_own_key<F: ChainFixture>() {
    let fixture = F::new().await;
    let chain = fixture.chain();
    let lanes = chain.lanes().to_vec();
    let distinct: BTreeSet<&LaneId> = lanes.iter().collect();
    assert_eq!(distinct.len(), lanes.len(), "two lanes are the same");
    assert!(lanes.len() != 1, "the fixture needs two lanes, or none");
    // Last lane first, so that no number of one lane is also the next number of another.
    for (at, lane) in lanes.iter().rev().enumerate() {
        for _ in 0..=at {
            let before = next_sequence(&*chain, lane).await;
            let signed = prepare_on(&fixture, lane).await;
            assert_eq!(&signed.lane, lane);
            assert_eq!(chain.submit(&signed).await, Submission::Accepted);
            fixture.include().await;
            is_included(&fixture, &[&signed], 0).await;
            let after = next_sequence(&*chain, lane).await;
            assert_eq!(after, before.map(|before| before + 1), "{lane}");
        }
    }
}

/// The engine relays the transaction of a payer, and knows it by its id and its signer's number.
pub async fn an_action_of_another_signer_is_sent_as_it_is<F: ChainFixture>() {
    let fixture = F::new().await;
    let chain = fixture.chain();
    let Some(action) = fixture.signed_action().await else {
        return;
    };
    let signed = chain.signed(&action).expect("it is signed");
    assert_eq!(chain.signed(&action).as_ref(), Some(&signed));
    assert!(!chain.lanes().contains(&signed.lane), "{signed:?}");
    let other = fixture.signed_action().await.expect("another one");
    let other = chain.signed(&other).expect("it is signed");
    assert_ne!(signed.id, other.id);
    if let Some(lane) = lane(&*chain) {
        let own = fixture.action(&lane).await;
        assert_eq!(chain.signed(&own), None, "a lane signs it");
    }
    assert_eq!(status(&fixture, &[&signed]).await, StatusKind::Pending);
    for sent in [&signed, &other, &signed] {
        assert_eq!(chain.submit(sent).await, Submission::Accepted);
    }
    fixture.include().await;
    // Signers that number their transactions may need a block for each.
    fixture.include().await;
    is_included(&fixture, &[&signed], 0).await;
    is_included(&fixture, &[&other], 0).await;
    has_effects(&fixture, 2).await;
}

/// Another program used the signer's key. Chains without sequence numbers have nothing to use up.
pub async fn a_used_sequence_is_reported_and_then_dropped<F: ChainFixture>() {
    let fixture = F::new().await;
    let signed = prepare(&fixture).await;
    let Some(before) = next_sequence(&*fixture.chain(), &signed.lane).await else {
        return;
    };
    fixture.use_sequence(&signed.lane).await;
    let after = next_sequence(&*fixture.chain(), &signed.lane).await;
    assert_eq!(after, Some(before + 1));
    assert_eq!(
        fixture.chain().submit(&signed).await,
        Submission::SequenceUsed
    );
    assert_eq!(
        status(&fixture, &[&signed]).await,
        StatusKind::Dropped,
        "another transaction has the number, so this one can never be included"
    );
}

/// A transaction that expires is pending until then, whether it was submitted or not. Afterwards
/// its payment ends.
pub async fn an_expired_transaction_is_dropped<F: ChainFixture>() {
    let fixture = F::new().await;
    let (unsent, lost) = (prepare(&fixture).await, prepare(&fixture).await);
    fixture.lose_transactions().await;
    assert_eq!(fixture.chain().submit(&lost).await, Submission::Accepted);
    for signed in [&unsent, &lost] {
        assert_eq!(status(&fixture, &[signed]).await, StatusKind::Pending);
    }
    if fixture.expire().await {
        for signed in [&unsent, &lost] {
            assert_eq!(status(&fixture, &[signed]).await, StatusKind::Dropped);
        }
        assert_eq!(fixture.effects().await, 0, "no block includes them");
    }
}

/// Another program's transaction waits at the number. If the chain reported a refusal, the lane
/// would offer the same number again and again, for as long as the other transaction waits.
pub async fn a_sequence_where_another_transaction_waits_is_used<F: ChainFixture>() {
    let fixture = F::new().await;
    let (rival, ours) = (prepare(&fixture).await, prepare(&fixture).await);
    let chain = fixture.chain();
    if next_sequence(&*chain, &ours.lane).await.is_none() {
        return;
    }
    assert_eq!((rival.sequence, &rival.lane), (ours.sequence, &ours.lane));
    assert_eq!(chain.submit(&rival).await, Submission::Accepted);
    assert_eq!(chain.submit(&ours).await, Submission::SequenceUsed);
    assert_eq!(
        status(&fixture, &[&ours]).await,
        StatusKind::Pending,
        "while the other transaction waits, this one can still be included instead"
    );
    fixture.include().await;
    assert_eq!(status(&fixture, &[&ours]).await, StatusKind::Dropped);
}

/// Blocks pass, and the number stays free: the transaction can still be included.
pub async fn an_unused_sequence_is_not_dropped<F: ChainFixture>() {
    let fixture = F::new().await;
    let signed = prepare(&fixture).await;
    for _ in 0..2 {
        assert_eq!(status(&fixture, &[&signed]).await, StatusKind::Pending);
        fixture.include().await;
    }
    assert_eq!(status(&fixture, &[&signed]).await, StatusKind::Pending);
    assert_eq!(fixture.chain().submit(&signed).await, Submission::Accepted);
    fixture.include().await;
    is_included(&fixture, &[&signed], 0).await;
}

/// A replacement is accepted instead of the first transaction, and does what the first would have
/// done.
pub async fn a_replacement_has_the_same_sequence_and_actions<F: ChainFixture>() {
    let fixture = F::new().await;
    let chain = fixture.chain();
    if chain.lanes().is_empty() {
        return;
    }
    let first = prepare(&fixture).await;
    assert_eq!(chain.submit(&first).await, Submission::Accepted);
    let replacement = chain.replace(&first).await;
    let Some(second) = replacement.expect("nodes that answer") else {
        return;
    };
    assert_eq!(
        (second.sequence, &second.lane),
        (first.sequence, &first.lane)
    );
    assert_ne!(second.id, first.id);
    assert_eq!(chain.submit(&second).await, Submission::Accepted);
    fixture.include().await;
    let found = status(&fixture, &[&first, &second]).await;
    assert!(
        matches!(&found, StatusKind::Included(id, _) if [&first.id, &second.id].contains(&id)),
        "{found:?}"
    );
    has_effects(&fixture, 1).await;
}

/// The first transaction, the newest, or one between may be the one in the block.
pub async fn all_transactions_of_a_sequence_are_looked_at<F: ChainFixture>() {
    for sent in 0..3 {
        let fixture = F::new().await;
        let chain = fixture.chain();
        if chain.lanes().is_empty() {
            return;
        }
        let mut signed = vec![prepare(&fixture).await];
        for at in 0..2 {
            let replacement = chain.replace(&signed[at]).await;
            let Some(next) = replacement.expect("nodes that answer") else {
                return;
            };
            signed.push(next);
        }
        assert_eq!(chain.submit(&signed[sent]).await, Submission::Accepted);
        fixture.include().await;
        let all: Vec<&Transaction> = signed.iter().collect();
        is_included(&fixture, &all, sent).await;
    }
}

/// A noop uses up a free number, and one where a transaction waits. It carries out no action.
pub async fn a_noop_replaces_a_transaction_without_its_effect<F: ChainFixture>() {
    let fixture = F::new().await;
    let chain = fixture.chain();
    if chain.lanes().is_empty() {
        return;
    }
    let first = prepare(&fixture).await;
    let noop = chain.noop(&first.lane, first.sequence, None).await;
    let is_sequential = next_sequence(&*chain, &first.lane).await.is_some();
    let Some(noop) = noop.expect("nodes that answer") else {
        assert!(
            !is_sequential,
            "a chain with sequence numbers needs a noop to fill gaps"
        );
        return;
    };
    assert_eq!((noop.sequence, &noop.lane), (first.sequence, &first.lane));
    assert_eq!(chain.submit(&noop).await, Submission::Accepted);
    fixture.include().await;
    is_included(&fixture, &[&noop], 0).await;
    assert_eq!(status(&fixture, &[&first]).await, StatusKind::Dropped);

    let second = prepare(&fixture).await;
    assert_eq!(chain.submit(&second).await, Submission::Accepted);
    let over = chain
        .noop(&second.lane, second.sequence, Some(&second))
        .await
        .expect("nodes that answer")
        .expect("a noop, because there was one before");
    assert_eq!(chain.submit(&over).await, Submission::Accepted);
    fixture.include().await;
    is_included(&fixture, &[&second, &over], 1).await;
    assert_eq!(fixture.effects().await, 0, "a noop carries out no action");
}

/// The engine concludes each payment of a batch by the evidence of one transaction.
pub async fn all_actions_of_a_batch_are_carried_out<F: ChainFixture>() {
    const COUNT: usize = 3;
    let fixture = F::new().await;
    let chain = fixture.chain();
    let Some(lane) = lane(&*chain) else {
        return;
    };
    let mut actions = Vec::new();
    for _ in 0..COUNT {
        actions.push(fixture.action(&lane).await);
    }
    let mut batch: Vec<&<F::Chain as Chain>::Action> = Vec::new();
    for action in &actions {
        if chain.can_batch(&batch, action) || batch.is_empty() {
            batch.push(action);
        }
    }
    let sequence = next_sequence(&*chain, &lane).await.unwrap_or_default();
    let signed = chain.prepare(&lane, sequence, &batch).await;
    let signed = signed.expect("a transaction");
    assert_eq!(chain.submit(&signed).await, Submission::Accepted);
    fixture.include().await;
    is_included(&fixture, &[&signed], 0).await;
    has_effects(&fixture, batch.len() as u64).await;
}

/// The engine offers up to 256 actions for one batch.
pub async fn what_can_be_batched_can_be_prepared<F: ChainFixture>() {
    const OFFERED: usize = 256;
    let fixture = F::new().await;
    let chain = fixture.chain();
    let Some(lane) = lane(&*chain) else {
        return;
    };
    let mut actions = Vec::new();
    while actions.len() < OFFERED {
        actions.push(fixture.action(&lane).await);
        let (last, before) = actions.split_last().expect("one was added");
        let batch: Vec<_> = before.iter().collect();
        if !batch.is_empty() && !chain.can_batch(&batch, last) {
            actions.pop();
            break;
        }
    }
    let batch: Vec<_> = actions.iter().collect();
    let sequence = next_sequence(&*chain, &lane).await.unwrap_or_default();
    let signed = chain.prepare(&lane, sequence, &batch).await;
    let signed = signed.unwrap_or_else(|fault| {
        panic!(
            "{} actions can be batched and not signed: {fault}",
            batch.len()
        )
    });
    assert_eq!(chain.submit(&signed).await, Submission::Accepted);
    fixture.include().await;
    has_effects(&fixture, batch.len() as u64).await;
}

/// The order is kept, however many round trips are needed.
pub async fn statuses_are_in_the_order_asked<F: ChainFixture>() {
    let fixture = F::new().await;
    let chain = fixture.chain();
    let included = prepare(&fixture).await;
    assert_eq!(chain.submit(&included).await, Submission::Accepted);
    fixture.include().await;
    let pending = prepare(&fixture).await;
    let is_pending = |at: usize| at % 7 == 3;
    let asked: Vec<Watched> = (0..250)
        .map(|at| match is_pending(at) {
            true => watched(&[&pending]),
            false => watched(&[&included]),
        })
        .collect();
    let statuses = chain.status(&asked).await;
    assert_eq!(statuses.len(), asked.len());
    for (at, status) in statuses.into_iter().enumerate() {
        match status.expect("a status, because the nodes answer") {
            Status::Pending => assert!(is_pending(at), "{at}"),
            Status::Included { id, .. } => {
                assert_eq!((is_pending(at), &id), (false, &included.id), "{at}");
            }
            Status::Executing { .. } => panic!("{at}: still executing"),
            Status::Dropped => panic!("{at}: no number is used by another transaction"),
        }
    }
    assert_eq!(chain.status(&[]).await.len(), 0);
}

/// An answer at the index of another question would be another payment's balance.
pub async fn answers_are_in_the_order_of_the_questions<F: ChainFixture>() {
    let fixture = F::new().await;
    let questions = fixture.questions();
    assert!(questions.len() >= 2, "the fixture needs two questions");
    // An odd number, so that the reverse of the order differs from the order everywhere but once.
    let order: Vec<usize> = (0..41)
        .map(|at| (at * at + at / 3) % questions.len())
        .collect();
    let asked: Vec<_> = order.iter().map(|at| questions[*at].clone()).collect();
    let answers = fixture.chain().read(&asked).await;
    assert_eq!(answers.len(), asked.len());
    for (at, answer) in order.into_iter().zip(answers) {
        let answer = answer.expect("an answer, because the nodes answer");
        assert!(
            fixture.is_answer(at, &answer),
            "not an answer to question {at}"
        );
    }
}

/// Bytes and ids are all that is known after a restart.
pub async fn a_restarted_chain_knows_its_own_transactions<F: ChainFixture>() {
    let fixture = F::new().await;
    let signed = prepare(&fixture).await;
    let kept = Transaction {
        bytes: signed.bytes.to_vec().into(),
        ..signed.clone()
    };
    assert_eq!(fixture.chain().submit(&kept).await, Submission::Accepted);
    fixture.include().await;
    is_included(&fixture, &[&kept], 0).await;
}

/// A question that consumes everything spoils no other question's answer.
pub async fn answers_do_not_depend_on_their_neighbours<F: ChainFixture>() {
    let fixture = F::new().await;
    let chain = fixture.chain();
    let hostile: BTreeSet<usize> = [0, 7, 19].into();
    let question = fixture.questions().swap_remove(0);
    let questions: Vec<_> = (0..20)
        .map(|at| match hostile.contains(&at) {
            true => fixture.hostile_question(),
            false => question.clone(),
        })
        .collect();
    let answers = chain.read(&questions).await;
    assert_eq!(answers.len(), questions.len());
    for (at, answer) in answers.iter().enumerate() {
        match answer {
            _ if hostile.contains(&at) => {}
            Ok(answer) => assert!(fixture.is_answer(0, answer), "{at}"),
            Err(fault) => panic!("question {at} is not hostile: {fault}"),
        }
    }
    assert_eq!(chain.read(&[]).await.len(), 0);
}

/// A failure of the network is a fault, and nothing else.
pub async fn without_nodes_there_are_faults_and_no_verdicts<F: ChainFixture>() {
    let fixture = F::new().await;
    let chain = fixture.chain();
    let signed = prepare(&fixture).await;
    fixture.nodes_down().await;
    let question = fixture.questions().swap_remove(0);
    assert!(chain.read(&[question]).await[0].is_err());
    if let Some(lane) = lane(&*chain) {
        assert!(chain.next_sequence(&lane).await.is_err());
    }
    assert!(chain.status(&[watched(&[&signed])]).await[0].is_err());
    let submission = chain.submit(&signed).await;
    assert!(
        matches!(submission, Submission::Refused(_) | Submission::Unknown(_)),
        "{submission:?}"
    );
    assert!(!chain.health(fixture.clock().now()).await.network_works());
    fixture.nodes_up().await;
    until("the nodes are back", || async {
        chain.health(fixture.clock().now()).await.network_works()
    })
    .await;
    assert_eq!(chain.submit(&signed).await, Submission::Accepted);
}

/// A payment whose transaction is reported as refused is paid again. The transaction may be in a
/// block.
pub async fn a_lost_answer_is_not_a_refusal<F: ChainFixture>() {
    let fixture = F::new().await;
    let chain = fixture.chain();
    let signed = prepare(&fixture).await;
    fixture.lose_answers().await;
    let submission = chain.submit(&signed).await;
    assert!(
        !matches!(submission, Submission::Refused(_)),
        "the node has the transaction, and the chain says {submission:?}"
    );
    fixture.nodes_up().await;
    fixture.include().await;
    until("it is included", || async {
        matches!(
            fixture.chain().status(&[watched(&[&signed])]).await.first(),
            Some(Ok(Status::Included { .. }))
        )
    })
    .await;
}

/// A chain that works reports no problem, and its descriptions of itself are consistent.
pub async fn a_chain_that_works_reports_no_problem<F: ChainFixture>() {
    let fixture = F::new().await;
    let chain = fixture.chain();
    let health = chain.health(fixture.clock().now()).await;
    assert_eq!(health.problems, vec![]);
    assert!(chain.lanes().iter().all(|lane| health.lane_works(lane)));
    assert!(chain.clock_fault().is_none());
    assert!(chain.confirmations_required() >= 1);
    assert!(chain.finality().confirmations >= chain.confirmations_required());
    assert!(chain.in_flight_max() >= 1);
}

/// The engine sends nothing by a lane that does not work, and `/health` names it.
pub async fn a_signer_without_funds_is_reported<F: ChainFixture>() {
    let fixture = F::new().await;
    let chain = fixture.chain();
    let [poor, other, ..] = chain.lanes() else {
        return;
    };
    fixture.drain_signer(poor).await;
    let health = chain.health(fixture.clock().now()).await;
    assert!(!health.lane_works(poor), "{health:?}");
    assert!(health.lane_works(other), "{health:?}");
}
