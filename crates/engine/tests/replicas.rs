//! Several engines with one journal on the simulated chain: races, kills, pauses and rolling
//! upgrades. Whatever happens, each payment moves money once and its success is reported once.
#![allow(clippy::unwrap_used, reason = "a test that cannot continue panics")]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use quittance_core::wire::SettleResponse;
use quittance_core::{Amount, Facilitator, PaymentId, PaymentRequest, Reason};
use quittance_engine::{Engine, Filter, Journal, SqliteJournal, Timing};
use quittance_testing::flaky::{CrashPoint, Failing, FlakyJournal, JournalWrite};
use quittance_testing::until;
use quittance_testing::world::{Environment, PRICE, SimulatedChain, SimulatedExact, TIMING, World};

/// Short, so that a test can wait for its end. Long enough for a busy machine to renew it.
const LEASE: Duration = Duration::from_secs(2);

const FLEET: Timing = TIMING.with_lease(LEASE);

/// A world with one open journal, which several engines use at the same time.
struct Fleet {
    setting: Environment,
    journal: SqliteJournal,
    lanes: usize,
}

impl Fleet {
    /// A fleet without engines, on a chain with this many signers.
    async fn new(lanes: usize) -> Self {
        let setting = Environment::new();
        let journal = setting.journal().await;
        Self {
            setting,
            journal,
            lanes,
        }
    }

    async fn engine(&self) -> Engine {
        self.flaky_engine(&Arc::default()).await
    }

    /// An engine whose way to the journal fails, or which is killed or stopped at a write.
    async fn flaky_engine(&self, failing: &Arc<Failing>) -> Engine {
        let journal = FlakyJournal {
            inner: self.journal.another_replica(),
            failing: Arc::clone(failing),
        };
        start(&self.setting.world, journal, self.lanes).await
    }

    async fn request(&self) -> PaymentRequest {
        self.setting.request().await
    }

    fn id(&self, request: &PaymentRequest) -> PaymentId {
        let authorization = World::transfer_of(request).authorization;
        authorization.id(self.setting.world.network())
    }

    /// How many times a payment has moved money.
    fn transfers(&self, request: &PaymentRequest) -> u64 {
        let transfer = World::transfer_of(request).authorization;
        self.setting
            .world
            .transfers(&transfer.from, &transfer.nonce)
    }

    /// Waits until these engines hold these numbers of lanes.
    async fn have_lanes(&self, engines: &[&Engine], counts: &[usize]) {
        until("the lanes are shared", || async {
            let held = engines.iter().map(|engine| engine.replica().lanes.len());
            held.collect::<Vec<_>>() == counts
        })
        .await;
    }

    /// How many transactions the journal has.
    async fn recorded(&self) -> usize {
        let page = self.journal.page(&Filter::new(), None).await.unwrap();
        let all = page.settlements.iter();
        all.map(|settlement| settlement.all_transactions().count())
            .sum()
    }
}

async fn start(world: &World, journal: impl Journal, lanes: usize) -> Engine {
    let keys = World::signer_keys()[..lanes].to_vec();
    let chain = SimulatedChain::new(world.clone(), keys);
    let exact = Arc::new(SimulatedExact::new(&chain));
    Engine::builder(journal)
        .clock(world.clock())
        .settle_wait(Duration::from_secs(8))
        .timing(FLEET)
        .chain(chain, vec![exact])
        .start()
        .await
        .unwrap()
}

/// Asks until the answer is a success or a verdict.
async fn decided(engine: &Engine, request: &PaymentRequest) -> SettleResponse {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = engine.settle(request).await;
        match answer {
            Ok(answer) if !answer.is_pending() => return answer,
            answer => assert!(Instant::now() < deadline, "still undecided: {answer:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn is_duplicate(answer: &SettleResponse) -> bool {
    answer.error_reason.as_deref() == Some(Reason::DUPLICATE_SETTLEMENT.code())
}

/// attacks.md 154: all replicas receive the same payment at once.
#[tokio::test(flavor = "multi_thread")]
async fn of_requests_at_all_replicas_one_succeeds() {
    let fleet = Fleet::new(2).await;
    let engines = [fleet.engine().await, fleet.engine().await];
    for _ in 0..5 {
        let request = fleet.request().await;
        let asked = (0..8).map(|at| decided(&engines[at % 2], &request));
        let answers = join_all(asked).await;
        let successes = answers.iter().filter(|answer| answer.success).count();
        assert_eq!((successes, fleet.transfers(&request)), (1, 1));
        assert_eq!(answers.iter().filter(|it| is_duplicate(it)).count(), 7);
    }
}

/// Two members have a lane each. One that leaves hands its lane over at once.
#[tokio::test(flavor = "multi_thread")]
async fn lanes_are_shared_fairly_among_the_members() {
    let fleet = Fleet::new(2).await;
    let first = fleet.engine().await;
    assert_eq!(first.replica().lanes.len(), 2, "it is alone");
    let second = fleet.engine().await;
    fleet.have_lanes(&[&first, &second], &[1, 1]).await;
    assert_ne!(first.replica().lanes, second.replica().lanes);
    for engine in [&first, &second] {
        let request = fleet.request().await;
        assert!(decided(engine, &request).await.success);
    }
    let left = Instant::now();
    first.shut_down(Duration::from_secs(5)).await;
    fleet.have_lanes(&[&second], &[2]).await;
    assert!(left.elapsed() < LEASE * 3 / 4, "{:?}", left.elapsed());
}

/// A third replica has no lane. What it claims is sent by one that has.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_a_lane_settles_by_another() {
    let fleet = Fleet::new(1).await;
    let holder = fleet.engine().await;
    let other = fleet.engine().await;
    assert!(other.replica().lanes.is_empty());
    // The holder learns of the other member with its next renewal.
    until("the holder knows", || async {
        holder.replica().members == 2
    })
    .await;
    let mut times = Vec::new();
    for engine in [&holder, &other] {
        let began = Instant::now();
        for _ in 0..10 {
            let request = fleet.request().await;
            // The caller is answered at once, and need not ask again.
            let answer = engine.settle(&request).await.unwrap();
            assert!(answer.success, "{answer:?}");
            assert!(is_duplicate(&decided(&holder, &request).await));
            assert_eq!(fleet.transfers(&request), 1);
        }
        times.push(began.elapsed() / 10);
    }
    println!("with a lane {:?}, without one {:?}", times[0], times[1]);
    assert!(times[1] < Duration::from_secs(1), "{times:?}");
}

/// attacks.md 151: a replica is killed before or after any of its writes. Another one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_killed_at_any_write_loses_no_payment() {
    const WRITES: usize = 5;
    let points = (1..=WRITES)
        .flat_map(|write| [false, true].map(|is_written| CrashPoint { write, is_written }));
    join_all(points.map(kill_at)).await;
}

async fn kill_at(point: CrashPoint) {
    let fleet = Fleet::new(2).await;
    let failing = Arc::new(Failing::default());
    failing.crash.plan(point);
    let (killed, other) = (fleet.flaky_engine(&failing).await, fleet.engine().await);
    let request = fleet.request().await;
    let answered = tokio::select! {
        answer = killed.settle(&request) => answer.is_ok_and(|answer| answer.success),
        () = failing.crash.happened() => false,
    };
    drop(killed);
    let answer = decided(&other, &request).await;
    // A process that is killed right after the report has not answered.
    let may_be_lost = failing.crash.permitted() == 1;
    let is_once = answer.success != answered || (!answered && may_be_lost);
    assert!(is_once, "{point:?}: {answered}, then {answer:?}");
    assert_eq!(fleet.transfers(&request), 1, "{point:?}");
    assert_eq!(fleet.setting.world.included_count(), 1, "{point:?}");
    fleet.have_lanes(&[&other], &[2]).await;
}

/// A replica with a thread of its own, which asks for one payment.
fn on_own_thread(
    fleet: &Fleet,
    failing: &Arc<Failing>,
    request: &PaymentRequest,
) -> JoinHandle<Option<SettleResponse>> {
    let journal = FlakyJournal {
        inner: fleet.journal.another_replica(),
        failing: Arc::clone(failing),
    };
    let (world, lanes) = (fleet.setting.world.clone(), fleet.lanes);
    let request = request.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async move {
            let engine = start(&world, journal, lanes).await;
            let answer = engine.settle(&request).await;
            // What it would still do, it does now.
            tokio::time::sleep(LEASE).await;
            answer.ok()
        })
    })
}

/// attacks.md 155: a replica is stopped at a write for longer than its lease. Another one settles
/// its payment. When it goes on, it sends nothing and reports nothing a second time.
async fn stop_at(write: JournalWrite, is_written: bool) {
    let fleet = Fleet::new(2).await;
    let failing = Arc::new(Failing::default());
    failing.pause.plan(write, is_written, LEASE * 3);
    let request = fleet.request().await;
    let stopped = on_own_thread(&fleet, &failing, &request);
    until("it is stopped", || async { failing.pause.has_begun() }).await;
    let other = fleet.engine().await;
    fleet.have_lanes(&[&other], &[2]).await;
    let answer = decided(&other, &request).await;
    let of_stopped = tokio::task::spawn_blocking(|| stopped.join().unwrap());
    let of_stopped = of_stopped.await.unwrap();
    let successes = usize::from(answer.success)
        + usize::from(of_stopped.as_ref().is_some_and(|answer| answer.success));
    assert_eq!(successes, 1, "{write:?}: {answer:?}, {of_stopped:?}");
    assert_eq!(fleet.transfers(&request), 1, "{write:?}");
    // Of one payment, one transaction was signed and kept.
    assert_eq!(fleet.recorded().await, 1, "{write:?}");
    assert_eq!(fleet.setting.world.included_count(), 1, "{write:?}");
    assert_eq!(fleet.setting.world.waiting_count(), 0, "{write:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_stopped_before_it_signs_signs_nothing() {
    stop_at(JournalWrite::Claim, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_stopped_after_it_signed_sends_nothing() {
    stop_at(JournalWrite::Record, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_stopped_after_a_record_sends_nothing_new() {
    stop_at(JournalWrite::Record, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_stopped_before_a_conclusion_repeats_nothing() {
    stop_at(JournalWrite::Conclude, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_stopped_before_its_report_reports_once() {
    stop_at(JournalWrite::ReportSuccess, false).await;
}

/// A replica that cannot reach the journal loses its lanes in time, and gets its share again.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_cut_off_loses_its_lanes() {
    let fleet = Fleet::new(2).await;
    let failing = Arc::new(Failing::default());
    let (cut, other) = (fleet.flaky_engine(&failing).await, fleet.engine().await);
    fleet.have_lanes(&[&cut, &other], &[1, 1]).await;
    failing.everything(true);
    let began = Instant::now();
    fleet.have_lanes(&[&cut, &other], &[0, 2]).await;
    assert!(began.elapsed() < LEASE * 2, "{:?}", began.elapsed());
    let request = fleet.request().await;
    assert!(!cut.settle(&request).await.is_ok_and(|it| it.success));
    assert_eq!(fleet.transfers(&request), 0);
    assert!(decided(&other, &request).await.success);
    failing.everything(false);
    fleet.have_lanes(&[&cut, &other], &[1, 1]).await;
    assert!(decided(&cut, &fleet.request().await).await.success);
}

/// Another replica has used the lane in between. With its old number, the first one would sign a
/// transaction that no block can include.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_comes_back_continues_with_its_number() {
    let fleet = Fleet::new(1).await;
    let failing = Arc::new(Failing::default());
    let cut = fleet.flaky_engine(&failing).await;
    assert!(decided(&cut, &fleet.request().await).await.success);
    let other = fleet.engine().await;
    failing.everything(true);
    fleet.have_lanes(&[&cut, &other], &[0, 1]).await;
    for _ in 0..3 {
        assert!(decided(&other, &fleet.request().await).await.success);
    }
    failing.everything(false);
    other.shut_down(Duration::from_secs(5)).await;
    fleet.have_lanes(&[&cut], &[1]).await;
    assert!(decided(&cut, &fleet.request().await).await.success);
    // One transaction for each payment.
    assert_eq!(fleet.recorded().await, 5);
}

/// attacks.md 161: replicas are replaced one after the other while payments come in, and one of
/// them is killed. The judge compares what the chain has with what was reported.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_upgrade_under_load_loses_nothing() {
    let fleet = Fleet::new(2).await;
    let (first, second) = (fleet.engine().await, fleet.engine().await);
    let mut requests = Vec::new();
    for _ in 0..60 {
        requests.push(fleet.request().await);
    }
    let ask = |engine: Engine, part: &[PaymentRequest]| {
        let part = part.to_vec();
        tokio::spawn(async move {
            let mut succeeded = Vec::new();
            for request in part {
                succeeded.push(engine.settle(&request).await.is_ok_and(|it| it.success));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            succeeded
        })
    };
    let mut asked = vec![ask(first.clone(), &requests[..20])];
    let old = ask(second.clone(), &requests[20..40]);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let third = fleet.engine().await;
    asked.push(ask(third.clone(), &requests[40..]));
    first.shut_down(Duration::from_secs(5)).await;
    drop(first);
    // Killed with whatever is in progress.
    old.abort();
    drop(second);
    let mut answers = join_all(asked).await.into_iter().map(Result::unwrap);
    let (of_first, of_third) = (answers.next().unwrap(), answers.next().unwrap());
    let reported = [of_first, vec![false; 20], of_third].concat();
    for (request, was_reported) in requests.iter().zip(reported) {
        let found = fleet.journal.settlement(&fleet.id(request)).await.unwrap();
        let was_lost = found.is_some_and(|it| it.success_reported_at.is_some()) && !was_reported;
        let answer = decided(&third, request).await;
        assert_eq!(answer.success, !was_reported && !was_lost, "{answer:?}");
        assert_eq!(fleet.transfers(request), 1);
    }
    let all = Amount::from(60 * PRICE);
    assert_eq!(fleet.setting.received(), all);
    fleet.have_lanes(&[&third], &[2]).await;
}

/// Two facilitators have one signer and two journals by mistake. The operator reads it in health.
#[tokio::test(flavor = "multi_thread")]
async fn another_program_with_the_same_signer_is_reported() {
    let fleet = Fleet::new(1).await;
    let engine = fleet.engine().await;
    assert!(decided(&engine, &fleet.request().await).await.success);
    let lane = engine.replica().lanes[0].1.clone();
    fleet.setting.world.submit_rival(&lane);
    fleet.setting.world.include();
    assert!(decided(&engine, &fleet.request().await).await.success);
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let health = engine.health();
        let mut problems = health.iter().flat_map(|(_, health)| &health.problems);
        if problems.any(|problem| problem.what.contains("another program")) {
            break;
        }
        assert!(Instant::now() < deadline, "{health:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(fleet.setting.received(), Amount::from(2 * PRICE));
}

/// With the nodes down, both replicas hold what they have, and nothing is sent twice afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_moves_with_waiting_payments_sends_once() {
    let fleet = Fleet::new(2).await;
    let failing = Arc::new(Failing::default());
    let (cut, other) = (fleet.flaky_engine(&failing).await, fleet.engine().await);
    fleet.have_lanes(&[&cut, &other], &[1, 1]).await;
    fleet.setting.world.includes_at_once(false);
    let mut requests = Vec::new();
    for _ in 0..4 {
        requests.push(fleet.request().await);
    }
    let asked: Vec<_> = requests
        .iter()
        .map(|request| {
            let (engine, request) = (cut.clone(), request.clone());
            tokio::spawn(async move { engine.settle(&request).await })
        })
        .collect();
    until("it was sent", || async {
        fleet.setting.world.waiting_count() > 0
    })
    .await;
    failing.rest.store(true, Ordering::SeqCst);
    fleet.have_lanes(&[&other], &[2]).await;
    fleet.setting.world.includes_at_once(true);
    for request in &requests {
        assert!(decided(&other, request).await.success);
        assert_eq!(fleet.transfers(request), 1);
    }
    failing.rest.store(false, Ordering::SeqCst);
    for answer in join_all(asked).await {
        assert!(!answer.unwrap().is_ok_and(|answer| answer.success));
    }
    assert_eq!(fleet.setting.received(), Amount::from(4 * PRICE));
}
