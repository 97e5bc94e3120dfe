//! What verifying costs on this machine: the same cases for `quittance bench` and for criterion.

use std::time::{Duration, Instant};

use alloy::primitives::{B256, U256};
use alloy::signers::local::PrivateKeySigner;
use quittance_core::wire::{PaymentPayload, PaymentRequirements, Rest, SupportedKind};
use quittance_core::{
    Clock, Fault, FaultKind, Offer, Payer, PaymentRequest, Scheme, SignatureClaim, SystemClock,
    Timestamp,
};
use quittance_engine::Verifier;
use quittance_evm::{Evm, Exact, ExactOffer, ExactPayer, known};
use quittance_verify::{Arithmetic, Config, holds};
use std::hint::black_box;
use std::sync::Arc;

/// The network whose payments are verified.
const NETWORK: &str = "base-sepolia";

/// How many payments share a batch where nothing else is said.
const BATCH: usize = 1024;

/// How many payers there are where nothing else is said: agents that pay again and again.
const PAYERS: usize = 100;

/// One thing that is measured.
pub struct Case {
    /// What it is.
    pub name: String,
    /// How many threads work.
    pub threads: usize,
    /// How many payments one run takes.
    pub payments: usize,
    run: Box<dyn FnMut()>,
}

/// What a case was measured to take.
#[derive(Debug, Clone)]
pub struct Measured {
    /// What it is.
    pub name: String,
    /// How many threads worked.
    pub threads: usize,
    /// The median time for one payment, in nanoseconds.
    pub nanos: f64,
    /// The lower and the upper quartile, in nanoseconds.
    pub quartiles: (f64, f64),
}

/// Payments as they come over HTTP, really signed, with what is read from them.
struct Inputs {
    bodies: Vec<Vec<u8>>,
    requests: Vec<PaymentRequest>,
    claims: Vec<SignatureClaim>,
    now: Timestamp,
}

impl Case {
    fn new(
        name: impl Into<String>,
        threads: usize,
        payments: usize,
        run: impl FnMut() + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            threads,
            payments,
            run: Box::new(run),
        }
    }

    /// Does the work once.
    pub fn run(&mut self) {
        (self.run)();
    }
}

impl Measured {
    /// How many payments a second.
    pub fn per_second(&self) -> f64 {
        1e9 / self.nanos
    }
}

/// Measures every case: all of them in turn, round after round, so that what disturbs the machine disturbs all alike.
pub fn measure(cases: &mut [Case], time: Duration) -> Vec<Measured> {
    /// Fewer rounds have no quartiles.
    const ROUNDS_MIN: usize = 5;
    let mut rounds: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
    let started = Instant::now();
    while started.elapsed() < time || rounds.iter().any(|round| round.len() < ROUNDS_MIN) {
        for (case, round) in cases.iter_mut().zip(&mut rounds) {
            let started = Instant::now();
            case.run();
            round.push(started.elapsed().as_nanos() as f64 / case.payments as f64);
        }
    }
    let measured = cases.iter().zip(rounds).map(|(case, mut round)| {
        round.sort_unstable_by(f64::total_cmp);
        let at = |part: usize| round.get(round.len() * part / 4).copied();
        Measured {
            name: case.name.clone(),
            threads: case.threads,
            nanos: at(2).unwrap_or(f64::NAN),
            quartiles: (at(1).unwrap_or(f64::NAN), at(3).unwrap_or(f64::NAN)),
        }
    });
    measured.collect()
}

/// Everything that is measured.
///
/// # Errors
/// When payments cannot be made, or threads cannot be started.
pub async fn cases() -> Result<Vec<Case>, Fault> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut cases = parts(Inputs::new(BATCH, PAYERS).await?)?;
    for size in [64, 256, 1024, 4096] {
        for payers in [1, PAYERS, size] {
            let inputs = Inputs::new(size, payers.min(size)).await?;
            cases.push(batch(&inputs, 1, Arithmetic::fastest())?);
        }
    }
    let inputs = Inputs::new(BATCH, PAYERS).await?;
    for slower in Arithmetic::available().into_iter().rev().skip(1) {
        cases.push(batch(&inputs, 1, slower)?);
    }
    if cores > 1 {
        cases.push(batch(&inputs, cores, Arithmetic::fastest())?);
    }
    cases.extend(odd(&inputs)?);
    for threads in [1, cores] {
        cases.push(whole(&inputs, threads)?);
    }
    cases.dedup_by(|case, before| (&case.name, case.threads) == (&before.name, before.threads));
    Ok(cases)
}

/// The parts of a verification, one after the other.
fn parts(inputs: Inputs) -> Result<Vec<Case>, Fault> {
    let Inputs {
        bodies,
        requests,
        claims,
        now,
    } = inputs;
    let count = bodies.len();
    let exact = exact()?;
    Ok(vec![
        Case::new("read a request from JSON", 1, count, move || {
            for body in &bodies {
                let _ = black_box(PaymentRequest::decode(black_box(body)));
            }
        }),
        Case::new("terms and EIP-712 digest", 1, count, move || {
            for request in &requests {
                let _ = black_box(exact.decode(black_box(request), now));
            }
        }),
        Case::new("one signature (libsecp256k1)", 1, count, move || {
            for claim in &claims {
                black_box(holds(black_box(claim)));
            }
        }),
    ])
}

/// A batch of signatures of known payers.
fn batch(inputs: &Inputs, threads: usize, arithmetic: Arithmetic) -> Result<Case, Fault> {
    let payers: std::collections::BTreeSet<_> = inputs.claims.iter().map(address).collect();
    let name = format!(
        "{} signatures ({arithmetic}), {} known {}",
        inputs.claims.len(),
        payers.len(),
        if payers.len() == 1 { "payer" } else { "payers" }
    );
    let mut config = Config::default();
    config.workers = threads;
    config.arithmetic = arithmetic;
    // Room for the tables of all.
    config.table_bytes = payers.len() << 17;
    let verifier = start(config)?;
    Ok(case_of(name, threads, verifier, inputs.claims.clone()))
}

/// Payers nobody knows, and signatures that do not hold.
fn odd(inputs: &Inputs) -> Result<Vec<Case>, Fault> {
    let unknown = verifier(1, 0)?;
    let mut spoilt = inputs.claims.clone();
    for claim in spoilt.iter_mut().step_by(20) {
        if let SignatureClaim::Secp256k1 { digest, .. } = claim {
            digest[0] ^= 1;
        }
    }
    let known = verifier(1, Config::default().table_bytes)?;
    // The payers are known from payments that were good.
    for _ in 0..WARM_UP {
        known.verify(&inputs.claims);
    }
    let count = inputs.claims.len();
    Ok(vec![
        case_of(
            format!("{count} signatures, unknown payers"),
            1,
            unknown,
            inputs.claims.clone(),
        ),
        case_of(
            format!("{count} signatures, known payers, 5% forged"),
            1,
            known,
            spoilt,
        ),
    ])
}

/// Everything that can be said offline, from JSON.
fn whole(inputs: &Inputs, threads: usize) -> Result<Case, Fault> {
    let network = known::network(NETWORK).ok_or_else(unknown_network)?;
    let verifier = Verifier::new(threads)?.scheme::<Evm>(network, Arc::new(exact()?));
    let (bodies, now) = (inputs.bodies.clone(), inputs.now);
    let name = format!("{} payments from JSON, whole", bodies.len());
    for _ in 0..WARM_UP {
        verifier.verify_bodies(&bodies, now);
    }
    Ok(Case::new(name, threads, bodies.len(), move || {
        black_box(verifier.verify_bodies(black_box(&bodies), now));
    }))
}

/// How often a batch is verified before it is measured: after fewer good payments every payer is known.
const WARM_UP: usize = 48;

fn case_of(
    name: String,
    threads: usize,
    verifier: quittance_verify::Verifier,
    claims: Vec<SignatureClaim>,
) -> Case {
    for _ in 0..WARM_UP {
        verifier.verify(&claims);
    }
    Case::new(name, threads, claims.len(), move || {
        black_box(verifier.verify(black_box(&claims)));
    })
}

fn verifier(workers: usize, table_bytes: usize) -> Result<quittance_verify::Verifier, Fault> {
    let mut config = Config::default();
    (config.workers, config.table_bytes) = (workers, table_bytes);
    start(config)
}

fn start(config: Config) -> Result<quittance_verify::Verifier, Fault> {
    quittance_verify::Verifier::new(config).map_err(|error| Fault::new(FaultKind::Internal, error))
}

fn address(claim: &SignatureClaim) -> [u8; 20] {
    match claim {
        SignatureClaim::Secp256k1 { address, .. } => *address,
        SignatureClaim::Ed25519 { .. } => [0; 20],
    }
}

fn exact() -> Result<Exact, Fault> {
    let network = known::network(NETWORK).ok_or_else(unknown_network)?;
    let tokens = known::tokens(network.id());
    Exact::offline(network.clone(), tokens).ok_or_else(unknown_network)
}

fn unknown_network() -> Fault {
    Fault::new(FaultKind::Internal, "the network is not known")
}

impl Inputs {
    async fn new(payments: usize, payers: usize) -> Result<Self, Fault> {
        let now = SystemClock.now();
        let internal = |error: &dyn std::fmt::Display| Fault::new(FaultKind::Internal, error);
        let requirements = requirements().map_err(|error| internal(&error))?;
        let payers = (0..payers)
            .map(|at| {
                let key = B256::from(U256::from(1_000_000 + at));
                PrivateKeySigner::from_bytes(&key).map(ExactPayer::new)
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| internal(&error))?;
        let exact = exact()?;
        let mut inputs = Self {
            bodies: Vec::with_capacity(payments),
            requests: Vec::with_capacity(payments),
            claims: Vec::with_capacity(payments),
            now,
        };
        for payer in payers.iter().cycle().take(payments) {
            let paid = payer.pay(&requirements, now).await;
            let (payload, _) = paid.map_err(|error| internal(&error))?;
            let payload = PaymentPayload {
                x402_version: 2,
                resource: None,
                accepted: requirements.clone(),
                payload,
                extensions: None,
                rest: Rest::default(),
            };
            let request = PaymentRequest::new(payload, requirements.clone())
                .map_err(|_| internal(&"a payment of ours cannot be read"))?;
            let payment = exact
                .decode(&request, now)
                .map_err(|_| internal(&"a payment of ours is refused"))?;
            inputs.claims.extend_from_slice(payment.signatures());
            inputs.bodies.push(request.text().as_bytes().to_vec());
            inputs.requests.push(request);
        }
        Ok(inputs)
    }
}

fn requirements() -> Result<PaymentRequirements, quittance_core::OfferError> {
    let offer = ExactOffer::usdc(
        NETWORK,
        "0.01",
        "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    )?;
    let kind = SupportedKind {
        x402_version: 2,
        scheme: "exact".to_owned(),
        network: offer.network().id().to_owned(),
        extra: None,
        rest: Rest::default(),
    };
    offer.requirements(&kind)
}
