//! Verification without a chain: everything that a request shows by itself.

use std::borrow::Borrow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{iter, thread};

use quittance_core::{
    Chain, Check, Fault, FaultKind, Malformed, Network, Observed, Payment, PaymentRequest, Reason,
    Refusal, Rejection, Scheme, SignatureClaim, SignatureRule, Timestamp,
};
use quittance_verify::VerifierConfig;

use crate::policy::check_info;
use crate::rules::{Rules, no_verdict};

/// How many payments are decoded before their signatures are checked together. Larger batches gain
/// little, and this many take less than a megabyte.
const BATCH: usize = 1024;

/// The fewest payments for one thread. In smaller batches, the signatures share too little work.
const BATCH_MIN: usize = 32;

/// Verifies many payments without a chain: format, requirements, times and signatures. For logs,
/// research, and other large sets of payments.
///
/// ```
/// use quittance_engine::{Offline, OfflineVerifier};
/// use quittance_core::Timestamp;
///
/// let verifier = OfflineVerifier::new(0)?;
/// let verdicts = verifier.verify_bodies(&[b"{}".as_slice()], Timestamp::from_secs(1));
/// assert!(matches!(verdicts[0], Offline::Malformed(_)));
/// # Ok::<(), quittance_core::Fault>(())
/// ```
pub struct OfflineVerifier {
    schemes: Vec<Box<dyn AnyScheme>>,
    signatures: quittance_verify::Verifier,
    rules: Rules,
    threads: usize,
}

/// The verdict on a payment without a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Offline {
    /// Every signature is valid, and the request shows no reason to reject it. Only the chain knows
    /// whether the payer has the money.
    Holds,
    /// A signature is not from the payer's key, or only the chain knows what must be signed. Only
    /// the chain knows whether the payer is a contract that accepts it.
    Undecided,
    /// The payment is rejected because of the request itself.
    Rejected(Rejection),
    /// The request cannot be read.
    Malformed(Malformed),
    /// No verdict: this verifier has no rule for a signature, or the rule failed.
    Fault(Fault),
}

/// A scheme of any chain type.
trait AnyScheme: Send + Sync {
    fn is_for(&self, request: &PaymentRequest) -> bool;
    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn AnyPayment>, Refusal>;
}

/// A payment of any chain type.
trait AnyPayment {
    fn signatures(&self) -> &[SignatureClaim];
    /// Whether the request shows by itself all that must be signed.
    fn check(&self, signatures: &[bool], now: Timestamp) -> Result<bool, Rejection>;
}

struct OnNetwork<C: Chain> {
    network: Network,
    scheme: Arc<dyn Scheme<C>>,
}

struct OnChain<C: Chain>(Box<dyn Payment<C>>);

impl<C: Chain> AnyScheme for OnNetwork<C> {
    fn is_for(&self, request: &PaymentRequest) -> bool {
        self.network.is(&request.requirements.network)
            && self.scheme.name() == request.requirements.scheme
            && self.scheme.versions().contains(&request.version)
    }

    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn AnyPayment>, Refusal> {
        let payment = self.scheme.decode(request, now)?;
        check_info(payment.info())?;
        Ok(Box::new(OnChain(payment)))
    }
}

impl<C: Chain> AnyPayment for OnChain<C> {
    fn signatures(&self) -> &[SignatureClaim] {
        self.0.signatures()
    }

    fn check(&self, signatures: &[bool], now: Timestamp) -> Result<bool, Rejection> {
        let observed = Observed::new(signatures, &[], now);
        let check = self.0.check(&observed)?;
        Ok(!self.signatures().is_empty() && !matches!(check, Check::Verify(_)))
    }
}

impl OfflineVerifier {
    /// A verifier without schemes yet, with this many threads. 0 means one thread per core. There
    /// are never more than [`quittance_verify::WORKERS_MAX`].
    ///
    /// # Errors
    /// When the operating system gives no threads.
    pub fn new(threads: usize) -> Result<Self, Fault> {
        let cores = || thread::available_parallelism().map_or(1, usize::from);
        let threads = if threads == 0 { cores() } else { threads };
        let threads = threads.min(quittance_verify::WORKERS_MAX);
        let mut config = VerifierConfig::default();
        config.workers = threads;
        let signatures = quittance_verify::Verifier::new(config)
            .map_err(|error| Fault::new(FaultKind::Internal, error))?;
        Ok(Self {
            schemes: Vec::new(),
            signatures,
            rules: Rules::default(),
            threads,
        })
    }

    /// Sets the rules for signatures that this verifier does not know.
    ///
    /// # Errors
    /// When two have the same name.
    pub fn signature_rules(self, rules: Vec<Arc<dyn SignatureRule>>) -> Result<Self, Fault> {
        let rules = Rules::new(rules)?;
        Ok(Self { rules, ..self })
    }

    /// Adds a scheme on a network.
    #[must_use]
    pub fn scheme<C: Chain>(mut self, network: Network, scheme: Arc<dyn Scheme<C>>) -> Self {
        self.schemes.push(Box::new(OnNetwork { network, scheme }));
        self
    }

    /// Verifies requests at a given time. The verdicts have the order of the requests. No verdict
    /// depends on another request.
    pub fn verify_many(&self, requests: &[PaymentRequest], now: Timestamp) -> Vec<Offline> {
        self.spread(requests, |chunk| self.judge(chunk.iter().map(Ok), now))
    }

    /// Reads and verifies HTTP bodies of `/verify` or `/settle`.
    pub fn verify_bodies<B: AsRef<[u8]> + Sync>(
        &self,
        bodies: &[B],
        now: Timestamp,
    ) -> Vec<Offline> {
        self.spread(bodies, |chunk| {
            let requests = chunk
                .iter()
                .map(|body| PaymentRequest::decode(body.as_ref()));
            self.judge(requests, now)
        })
    }

    /// Distributes chunks over the threads, and returns the verdicts in order.
    fn spread<T: Sync>(
        &self,
        items: &[T],
        judge: impl Fn(&[T]) -> Vec<Offline> + Sync,
    ) -> Vec<Offline> {
        // A share for every thread, but not so small that its signatures share no work.
        let size = items.len().div_ceil(self.threads).clamp(BATCH_MIN, BATCH);
        let chunks: Vec<&[T]> = items.chunks(size).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            iter::from_fn(|| {
                let at = next.fetch_add(1, Ordering::Relaxed);
                chunks.get(at).map(|chunk| (at, judge(chunk)))
            })
            .collect::<Vec<_>>()
        };
        let mut judged = thread::scope(|scope| {
            let others: Vec<_> = (1..self.threads.min(chunks.len()))
                .map(|_| scope.spawn(work))
                .collect();
            let mut judged = work();
            for other in others {
                match other.join() {
                    Ok(more) => judged.extend(more),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            judged
        });
        judged.sort_unstable_by_key(|(at, _)| *at);
        judged
            .into_iter()
            .flat_map(|(_, verdicts)| verdicts)
            .collect()
    }

    /// Decodes all payments, checks all signatures together, then judges each payment.
    fn judge<R: Borrow<PaymentRequest>>(
        &self,
        requests: impl Iterator<Item = Result<R, Refusal>>,
        now: Timestamp,
    ) -> Vec<Offline> {
        let decoded: Vec<_> = requests
            .map(|request| self.decode(request?.borrow(), now))
            .map(|decoded| decoded.map_err(Offline::from))
            .collect();
        let payments = decoded.iter().flatten();
        let claims: Vec<&SignatureClaim> =
            payments.flat_map(|payment| payment.signatures()).collect();
        let known = |claims: &[&SignatureClaim]| self.signatures.verify(claims);
        let mut verdicts = self.rules.verify(&claims, known).into_iter();
        decoded
            .iter()
            .map(|decoded| match decoded {
                Ok(payment) => {
                    let own = verdicts.by_ref().take(payment.signatures().len());
                    self.verdict(&**payment, own.collect(), now)
                }
                Err(verdict) => verdict.clone(),
            })
            .collect()
    }

    /// The verdict on a payment with these verdicts on its signatures.
    fn verdict(
        &self,
        payment: &dyn AnyPayment,
        signatures: Vec<Option<bool>>,
        now: Timestamp,
    ) -> Offline {
        let Some(signatures) = signatures.into_iter().collect::<Option<Vec<bool>>>() else {
            let unknown = self.rules.check(payment.signatures()).err();
            return Offline::Fault(unknown.unwrap_or_else(no_verdict));
        };
        match payment.check(&signatures, now) {
            Ok(is_complete) if !is_complete || signatures.contains(&false) => Offline::Undecided,
            Ok(_) => Offline::Holds,
            Err(rejection) => Offline::Rejected(rejection),
        }
    }

    fn decode(
        &self,
        request: &PaymentRequest,
        now: Timestamp,
    ) -> Result<Box<dyn AnyPayment>, Refusal> {
        let scheme = self.schemes.iter().find(|scheme| scheme.is_for(request));
        let scheme = scheme.ok_or_else(|| Refusal::Rejected(Reason::UNSUPPORTED_SCHEME.into()))?;
        scheme.decode(request, now)
    }
}

impl From<Refusal> for Offline {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Malformed(malformed) => Self::Malformed(malformed),
            Refusal::Rejected(rejection) => Self::Rejected(rejection),
        }
    }
}
