//! The cases of `quittance bench` on EVM chains: the parts of a verification, and the whole.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;

use alloy::primitives::{B256, U256};
use alloy::signers::local::PrivateKeySigner;
use quittance_core::wire::{PaymentPayload, PaymentRequirements, Rest, SupportedKind};
use quittance_core::{
    Clock, Fault, FaultKind, Offer, Payer, PaymentRequest, Scheme, SignatureClaim, SystemClock,
    Timestamp,
};
use quittance_engine::OfflineVerifier;
use quittance_evm::{Evm, Exact, ExactOffer, ExactPayer, known};
use quittance_verify::{Arithmetic, VerifierConfig, holds};

use crate::bench::Case;

/// The network whose payments are verified.
const NETWORK: &str = "base-sepolia";

/// The number of payments in a batch, unless the case names another one.
const BATCH: usize = 1024;

/// The number of payers, unless the case names another one: agents that pay repeatedly.
const PAYERS: usize = 100;

/// Signed payments as they arrive over HTTP, with the values that are decoded from them.
struct Inputs {
    bodies: Vec<Vec<u8>>,
    requests: Vec<PaymentRequest>,
    claims: Vec<SignatureClaim>,
    now: Timestamp,
}

/// All cases.
///
/// # Errors
/// When the payments cannot be signed, or the threads cannot be started.
pub(super) async fn cases() -> Result<Vec<Case>, Fault> {
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

/// One case for each part of a verification.
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
        Case::new("decode a request from JSON", 1, count, move || {
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
    let payers: BTreeSet<_> = inputs.claims.iter().map(address).collect();
    let name = format!(
        "{} signatures ({arithmetic}), {} known {}",
        inputs.claims.len(),
        payers.len(),
        if payers.len() == 1 { "payer" } else { "payers" }
    );
    let mut config = VerifierConfig::default();
    config.workers = threads;
    config.arithmetic = arithmetic;
    // Enough for the tables of all payers.
    config.table_bytes = payers.len() << 17;
    let verifier = start(config)?;
    Ok(case_of(name, threads, verifier, inputs.claims.clone()))
}

/// Unknown payers, and invalid signatures.
fn odd(inputs: &Inputs) -> Result<Vec<Case>, Fault> {
    let unknown = verifier(1, 0)?;
    let mut spoilt = inputs.claims.clone();
    for claim in spoilt.iter_mut().step_by(20) {
        if let SignatureClaim::Secp256k1 { digest, .. } = claim {
            digest[0] ^= 1;
        }
    }
    let known = verifier(1, VerifierConfig::default().table_bytes)?;
    // Valid payments make the payers known.
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

/// The whole offline verification, from JSON.
fn whole(inputs: &Inputs, threads: usize) -> Result<Case, Fault> {
    let network = known::network(NETWORK).ok_or_else(unknown_network)?;
    let verifier = OfflineVerifier::new(threads)?.scheme::<Evm>(network, Arc::new(exact()?));
    let (bodies, now) = (inputs.bodies.clone(), inputs.now);
    let name = format!("{} payments from JSON, whole", bodies.len());
    for _ in 0..WARM_UP {
        verifier.verify_bodies(&bodies, now);
    }
    Ok(Case::new(name, threads, bodies.len(), move || {
        black_box(verifier.verify_bodies(black_box(&bodies), now));
    }))
}

/// How often a batch is verified before the measurement. Every payer is known after fewer valid
/// payments.
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
    let mut config = VerifierConfig::default();
    (config.workers, config.table_bytes) = (workers, table_bytes);
    start(config)
}

fn start(config: VerifierConfig) -> Result<quittance_verify::Verifier, Fault> {
    quittance_verify::Verifier::new(config).map_err(|error| Fault::new(FaultKind::Internal, error))
}

fn address(claim: &SignatureClaim) -> [u8; 20] {
    match claim {
        SignatureClaim::Secp256k1 { address, .. } => *address,
        _ => [0; 20],
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
            let paid = payer.pay(&requirements, None, now).await;
            let payload = paid.map_err(|error| internal(&error))?.payload;
            let payload = PaymentPayload {
                x402_version: 2,
                resource: None,
                accepted: requirements.clone(),
                payload,
                extensions: None,
                rest: Rest::default(),
            };
            let request = PaymentRequest::new(payload, requirements.clone())
                .map_err(|_| internal(&"a payment that this benchmark signed cannot be decoded"))?;
            let payment = exact
                .decode(&request, now)
                .map_err(|_| internal(&"a payment that this benchmark signed is rejected"))?;
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
