//! What every chain must hold.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use quittance_core::{
    Chain, Clock, LaneId, Status, Submission, SystemClock, Transaction, TransactionId, Watched,
};

use crate::until;

/// A chain on a stage of its own, which includes transactions only when told to.
#[async_trait]
pub trait ChainFixture: Send + Sync + Sized {
    /// The chain.
    type Chain: Chain;

    /// A chain, its nodes up and its signers funded.
    async fn new() -> Self;

    /// The chain, as the engine has it.
    fn chain(&self) -> Arc<Self::Chain>;

    /// A new action that will succeed, whatever else happens.
    async fn action(&self) -> <Self::Chain as Chain>::Action;

    /// A question every chain of this kind can answer.
    fn question(&self) -> <Self::Chain as Chain>::Read;

    /// A question that consumes everything it can.
    fn hostile_question(&self) -> <Self::Chain as Chain>::Read;

    /// Makes a block of everything that waits.
    async fn include(&self);

    /// Uses up the lane's next place behind the chain's back, in a block.
    async fn take_place(&self, lane: &LaneId);

    /// No node answers any more.
    fn nodes_down(&self);

    /// All nodes answer again.
    fn nodes_up(&self);
}

/// Mounts the suite.
#[macro_export]
macro_rules! chain_conformance {
    ($Fixture:ty) => {
        $crate::conformance_tests!(chain, $Fixture:
            preparing_sends_nothing_and_uses_up_nothing
            the_same_bytes_are_accepted_any_number_of_times
            a_transaction_is_pending_then_included_ever_deeper
            a_place_taken_by_another_is_told_and_then_gone
            a_place_where_another_transaction_waits_is_taken
            a_replacement_stands_at_the_same_place_and_one_of_them_is_included
            a_filler_takes_the_place_of_what_is_in_its_way
            many_places_are_told_in_the_order_asked
            a_restarted_chain_knows_its_own_transactions
            answers_do_not_depend_on_their_neighbours
            without_nodes_there_are_faults_and_no_verdicts
            all_is_well_when_all_is_well
        );
    };
}

fn lane<C: Chain>(chain: &C) -> LaneId {
    chain.lanes().first().expect("a chain has a lane").clone()
}

async fn floor<C: Chain>(chain: &C, lane: &LaneId) -> Option<u64> {
    chain
        .next_sequence(lane)
        .await
        .expect("a node that answers")
}

async fn prepare<F: ChainFixture>(fixture: &F) -> Transaction {
    let chain = fixture.chain();
    let lane = lane(&*chain);
    let sequence = floor(&*chain, &lane).await.unwrap_or_default();
    let action = fixture.action().await;
    chain
        .prepare(&lane, sequence, &[&action])
        .await
        .expect("a transaction")
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
    match statuses
        .into_iter()
        .next()
        .expect("a status for each place")
        .expect("a node that answers")
    {
        Status::Pending => StatusKind::Pending,
        Status::Included {
            id, confirmations, ..
        } => StatusKind::Included(id, confirmations),
        Status::Dropped => StatusKind::Gone,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum StatusKind {
    Pending,
    Included(TransactionId, u64),
    Gone,
}

/// Whoever prepares again may use the same place.
pub async fn preparing_sends_nothing_and_uses_up_nothing<F: ChainFixture>() {
    let fixture = F::new().await;
    let (first, second) = (prepare(&fixture).await, prepare(&fixture).await);
    assert_eq!(first.sequence, second.sequence);
    assert_ne!(first.id, second.id);
    fixture.include().await;
    assert_eq!(status(&fixture, &[&first]).await, StatusKind::Pending);
}

/// Before inclusion and after.
pub async fn the_same_bytes_are_accepted_any_number_of_times<F: ChainFixture>() {
    let fixture = F::new().await;
    let signed = prepare(&fixture).await;
    for _ in 0..3 {
        assert_eq!(fixture.chain().submit(&signed).await, Submission::Accepted);
    }
    fixture.include().await;
    // Nodes forget what they have included, or know only that its number is taken.
    assert!(matches!(
        fixture.chain().submit(&signed).await,
        Submission::Accepted | Submission::SequenceUsed
    ));
    assert!(
        matches!(status(&fixture, &[&signed]).await, StatusKind::Included(id, _) if id == signed.id)
    );
}

/// The id that was known before is the id it is included under.
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
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(counts[0], 1);
    assert!(counts.is_sorted() && counts[2] > counts[0], "{counts:?}");
    let floor = floor(&*fixture.chain(), &signed.lane).await;
    assert!(floor.is_none_or(|floor| floor > signed.sequence));
}

/// Somebody else used the signer. Chains that do not number transactions have no places to take.
pub async fn a_place_taken_by_another_is_told_and_then_gone<F: ChainFixture>() {
    let fixture = F::new().await;
    let signed = prepare(&fixture).await;
    let Some(before) = floor(&*fixture.chain(), &signed.lane).await else {
        return;
    };
    fixture.take_place(&signed.lane).await;
    let after = floor(&*fixture.chain(), &signed.lane).await;
    assert_eq!(after, Some(before + 1));
    assert_eq!(
        fixture.chain().submit(&signed).await,
        Submission::SequenceUsed
    );
    assert_eq!(status(&fixture, &[&signed]).await, StatusKind::Gone);
}

/// The signer's key is used elsewhere, and that transaction is not in a block yet. Were it told as refused, the lane would
/// offer the same place again and again, for as long as the rival waits.
pub async fn a_place_where_another_transaction_waits_is_taken<F: ChainFixture>() {
    let fixture = F::new().await;
    let (rival, ours) = (prepare(&fixture).await, prepare(&fixture).await);
    let chain = fixture.chain();
    if floor(&*chain, &ours.lane).await.is_none() {
        return;
    }
    assert_eq!((rival.sequence, &rival.lane), (ours.sequence, &ours.lane));
    assert_eq!(chain.submit(&rival).await, Submission::Accepted);
    assert_eq!(chain.submit(&ours).await, Submission::SequenceUsed);
    assert_eq!(status(&fixture, &[&ours]).await, StatusKind::Pending);
    fixture.include().await;
    assert_eq!(status(&fixture, &[&ours]).await, StatusKind::Gone);
}

/// Both are watched; one is included.
pub async fn a_replacement_stands_at_the_same_place_and_one_of_them_is_included<F: ChainFixture>() {
    let fixture = F::new().await;
    let first = prepare(&fixture).await;
    assert_eq!(fixture.chain().submit(&first).await, Submission::Accepted);
    let Some(second) = fixture
        .chain()
        .replace(&first)
        .await
        .expect("a replacement")
    else {
        return;
    };
    assert_eq!(
        (second.sequence, &second.lane),
        (first.sequence, &first.lane)
    );
    assert_ne!(second.id, first.id);
    assert_eq!(fixture.chain().submit(&second).await, Submission::Accepted);
    fixture.include().await;
    let found = status(&fixture, &[&first, &second]).await;
    assert!(
        matches!(&found, StatusKind::Included(id, _) if [&first.id, &second.id].contains(&id)),
        "{found:?}"
    );
}

/// A transaction that does nothing opens the way for those behind it: at an empty place, and in exchange for another.
pub async fn a_filler_takes_the_place_of_what_is_in_its_way<F: ChainFixture>() {
    let fixture = F::new().await;
    let chain = fixture.chain();
    let first = prepare(&fixture).await;
    let Some(filler) = chain
        .noop(&first.lane, first.sequence, None)
        .await
        .expect("a filler")
    else {
        return;
    };
    assert_eq!(
        (filler.sequence, &filler.lane),
        (first.sequence, &first.lane)
    );
    assert_eq!(chain.submit(&filler).await, Submission::Accepted);
    fixture.include().await;
    let found = status(&fixture, &[&filler]).await;
    assert!(matches!(found, StatusKind::Included(id, _) if id == filler.id));
    assert_eq!(status(&fixture, &[&first]).await, StatusKind::Gone);

    let second = prepare(&fixture).await;
    assert_eq!(chain.submit(&second).await, Submission::Accepted);
    let over = chain
        .noop(&second.lane, second.sequence, Some(&second))
        .await
        .expect("a filler")
        .expect("one where there was one before");
    assert_eq!(chain.submit(&over).await, Submission::Accepted);
    fixture.include().await;
    let found = status(&fixture, &[&second, &over]).await;
    assert!(
        matches!(&found, StatusKind::Included(id, _) if [&second.id, &over.id].contains(&id)),
        "{found:?}"
    );
}

/// However many round trips it takes.
pub async fn many_places_are_told_in_the_order_asked<F: ChainFixture>() {
    let fixture = F::new().await;
    let chain = fixture.chain();
    let included = prepare(&fixture).await;
    assert_eq!(chain.submit(&included).await, Submission::Accepted);
    fixture.include().await;
    let pending = prepare(&fixture).await;
    let asked: Vec<Watched> = (0..250)
        .map(|at| watched(&[if at % 7 == 3 { &pending } else { &included }]))
        .collect();
    let statuses = chain.status(&asked).await;
    assert_eq!(statuses.len(), asked.len());
    for (at, status) in statuses.into_iter().enumerate() {
        match status.expect("a node that answers") {
            Status::Pending => assert_eq!(at % 7, 3),
            Status::Included { id, .. } => {
                assert_eq!((at % 7 == 3, id), (false, included.id.clone()))
            }
            Status::Dropped => panic!("nothing is gone"),
        }
    }
    assert_eq!(chain.status(&[]).await.len(), 0);
}

/// Bytes and ids are all a restart has.
pub async fn a_restarted_chain_knows_its_own_transactions<F: ChainFixture>() {
    let fixture = F::new().await;
    let signed = prepare(&fixture).await;
    let kept = Transaction {
        bytes: signed.bytes.to_vec().into(),
        ..signed.clone()
    };
    assert_eq!(fixture.chain().submit(&kept).await, Submission::Accepted);
    fixture.include().await;
    assert!(
        matches!(status(&fixture, &[&kept]).await, StatusKind::Included(id, 1) if id == signed.id)
    );
}

/// A question that consumes everything takes nobody's answer away.
pub async fn answers_do_not_depend_on_their_neighbours<F: ChainFixture>() {
    let fixture = F::new().await;
    let chain = fixture.chain();
    let mut questions = vec![fixture.question(); 20];
    for at in [0, 7, 19] {
        questions[at] = fixture.hostile_question();
    }
    let answers = chain.read(&questions).await;
    assert_eq!(answers.len(), questions.len());
    let unanswered: BTreeSet<usize> = answers
        .iter()
        .enumerate()
        .filter(|(_, answer)| answer.is_err())
        .map(|(at, _)| at)
        .collect();
    assert!(unanswered.is_subset(&[0, 7, 19].into()), "{unanswered:?}");
    assert_eq!(chain.read(&[]).await.len(), 0);
}

/// What the network did wrong is never told as anything else.
pub async fn without_nodes_there_are_faults_and_no_verdicts<F: ChainFixture>() {
    let fixture = F::new().await;
    let chain = fixture.chain();
    let signed = prepare(&fixture).await;
    fixture.nodes_down();
    assert!(chain.read(&[fixture.question()]).await[0].is_err());
    assert!(chain.next_sequence(&signed.lane).await.is_err());
    assert!(chain.status(&[watched(&[&signed])]).await[0].is_err());
    assert!(matches!(
        chain.submit(&signed).await,
        Submission::Refused(_) | Submission::Unknown(_)
    ));
    assert!(!chain.health(SystemClock.now()).await.network_works());
    fixture.nodes_up();
    until("the nodes are back", || async {
        chain.health(SystemClock.now()).await.network_works()
    })
    .await;
    assert_eq!(chain.submit(&signed).await, Submission::Accepted);
}

/// A chain that works says so.
pub async fn all_is_well_when_all_is_well<F: ChainFixture>() {
    let fixture = F::new().await;
    let chain = fixture.chain();
    let health = chain.health(SystemClock.now()).await;
    assert_eq!(health.problems, vec![]);
    assert!(chain.lanes().iter().all(|lane| health.lane_works(lane)));
    assert!(chain.confirmations_required() >= 1);
    assert!(chain.in_flight_max() >= 1);
}
