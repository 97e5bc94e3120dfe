//! Many claims at once, on a bounded pool of threads.

use std::borrow::Borrow;
use std::sync::{LazyLock, Mutex, PoisonError};

use quittance_core::SignatureClaim;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use thiserror::Error;

use crate::keys::Keys;
use crate::known::{self, Claim};
pub use crate::lanes::Arithmetic;
use crate::lanes::Sums;
use crate::point::Point;
use crate::signature::Signature;
use crate::tables::Table;
use crate::{ed25519, secp256k1};

/// How many claims a thread takes at a time. More claims share their divisions better; fewer are
/// distributed over the threads better. The points of this many claims, about 300 KiB, fit in a
/// processor's second-level cache.
const CHUNK: usize = 64;

/// The smallest part of a batch for which another thread is used. With fewer claims, waking a
/// thread costs more than it saves.
const CHUNK_MIN: usize = 16;

/// The most threads of a pool. Each uses less than 512 KiB while it works, so a batch of any size
/// uses less than 16 MiB.
pub const WORKERS_MAX: usize = 32;

/// How many bits of a scalar one look-up in the generator's table covers. The table takes 1.3 MiB,
/// which fits in a second-level cache of 2 MiB. All verifiers share it.
const GENERATOR_WIDTH: u32 = 12;

static GENERATOR: LazyLock<Table> =
    LazyLock::new(|| Table::new(&Point::GENERATOR, GENERATOR_WIDTH));

/// The configuration of a [`Verifier`]. It never changes a verdict.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VerifierConfig {
    /// The number of threads, at most [`WORKERS_MAX`]. 0 means one for each core.
    pub workers: usize,
    /// How many bytes the tables of known payers may take. One payer takes about 75 kB.
    pub table_bytes: usize,
    /// How sums of points are computed. The default is the fastest that this processor supports;
    /// others are for comparison.
    pub arithmetic: Arithmetic,
}

impl Default for VerifierConfig {
    /// One thread for each core, and tables for about 900 payers.
    fn default() -> Self {
        Self {
            workers: 0,
            table_bytes: 64 << 20,
            arithmetic: Arithmetic::fastest(),
        }
    }
}

/// The threads of a [`Verifier`] could not be started. The cause is the operating system, and may
/// be temporary.
#[derive(Debug, Error)]
#[error("cannot start the threads that verify signatures: {0}")]
pub struct VerifierError(#[from] rayon::ThreadPoolBuildError);

/// Checks many claims at once, and stores the keys of payers that pay often.
///
/// Create one and share it. Its memory is bounded by its configuration and 8 MiB, plus 16 MiB while
/// it works, for any input.
pub struct Verifier {
    pool: ThreadPool,
    keys: Keys,
    ed25519_keys: ed25519::Keys,
    arithmetic: Arithmetic,
    /// Memory that no thread is using, at most one for each thread.
    idle: Mutex<Vec<Sums>>,
}

impl Verifier {
    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// When the operating system gives no threads.
    pub fn new(config: VerifierConfig) -> Result<Self, VerifierError> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let workers = if config.workers == 0 {
            cores()
        } else {
            config.workers
        };
        let pool = ThreadPoolBuilder::new()
            .num_threads(workers.min(WORKERS_MAX))
            .thread_name(|index| format!("verify-{index}"))
            .build()?;
        Ok(Self {
            pool,
            keys: Keys::new(config.table_bytes),
            ed25519_keys: ed25519::Keys::new(),
            arithmetic: config.arithmetic,
            idle: Mutex::default(),
        })
    }

    /// The verdict on each claim, in the claims' order. A verdict depends only on its claim. Claims
    /// of other rules are never valid here, as for [`holds`](crate::holds).
    ///
    /// Blocks until all verdicts are known, so async code must call it from a thread that may
    /// block. A few claims are checked on the caller's own thread; more are distributed over the
    /// verifier's threads.
    pub fn verify<C: Borrow<SignatureClaim> + Sync>(&self, claims: &[C]) -> Vec<bool> {
        if claims.len() <= CHUNK_MIN {
            return self.verify_chunk(claims);
        }
        let chunks = claims.par_chunks(chunk(claims.len(), self.pool.current_num_threads()));
        self.pool.install(|| {
            chunks
                .flat_map_iter(|chunk| self.verify_chunk(chunk))
                .collect()
        })
    }

    /// The verdict on each of a few claims, on this thread.
    fn verify_chunk<C: Borrow<SignatureClaim>>(&self, claims: &[C]) -> Vec<bool> {
        let payers = claims.iter().map(|claim| payer(claim.borrow()));
        let tables = self.keys.tables(payers);
        let mut verdicts = vec![false; claims.len()];
        let (mut known, mut places) = (Vec::new(), Vec::new());
        for ((claim, table), (place, verdict)) in claims
            .iter()
            .zip(tables)
            .zip(verdicts.iter_mut().enumerate())
        {
            match (claim.borrow(), table) {
                (
                    SignatureClaim::Secp256k1 {
                        digest, signature, ..
                    },
                    Some(table),
                ) => {
                    if let Some(signature) = Signature::from_bytes(signature) {
                        known.push(Claim {
                            digest,
                            signature,
                            table,
                        });
                        places.push(place);
                    }
                }
                (
                    SignatureClaim::Secp256k1 {
                        digest,
                        signature,
                        address,
                    },
                    None,
                ) => {
                    *verdict = self.recovers(digest, signature, address);
                }
                (
                    SignatureClaim::Ed25519 {
                        message,
                        signature,
                        key,
                    },
                    _,
                ) => {
                    *verdict = self.ed25519_keys.holds(message, signature, key);
                }
                (SignatureClaim::Other { .. }, _) => {}
            }
        }
        if !known.is_empty() {
            for (place, holds) in places.into_iter().zip(self.verify_known(&known)) {
                verdicts[place] = holds;
            }
        }
        verdicts
    }

    fn verify_known(&self, claims: &[Claim<'_>]) -> Vec<bool> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let mut sums = idle.unwrap_or_else(|| Sums::new(self.arithmetic));
        let verdicts = known::verify(&mut sums, &GENERATOR, claims);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // Callers with few claims work on their own threads, and the number of such callers is not
        // limited.
        if idle.len() < WORKERS_MAX {
            idle.push(sums);
        }
        verdicts
    }

    fn recovers(&self, digest: &[u8; 32], signature: &[u8; 65], address: &[u8; 20]) -> bool {
        if *address == [0; 20] {
            return false;
        }
        let parsed = Signature::from_bytes(signature);
        let key = parsed.and_then(|parsed| secp256k1::signer(digest, signature, &parsed, address));
        if let Some(key) = &key {
            self.keys.recovered(address, key);
        }
        key.is_some()
    }
}

/// How many of the claims each thread takes at a time: equal parts, as far as possible.
fn chunk(claims: usize, threads: usize) -> usize {
    let turns = claims.div_ceil(threads * CHUNK);
    claims.div_ceil(threads * turns).max(CHUNK_MIN)
}

/// The address of a claim, if its kind of key has tables.
fn payer(claim: &SignatureClaim) -> Option<&[u8; 20]> {
    match claim {
        SignatureClaim::Secp256k1 { address, .. } => Some(address),
        SignatureClaim::Ed25519 { .. } | SignatureClaim::Other { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use k256::ecdsa::SigningKey;
    use sha3::{Digest, Keccak256};

    use super::*;
    use crate::keys::RECOVERIES_BEFORE_TABLE;

    fn signed(digest: [u8; 32]) -> ([u8; 20], SignatureClaim) {
        let key = SigningKey::from_slice(&[7; 32]).unwrap();
        let (numbers, parity) = key.sign_prehash_recoverable(&digest).unwrap();
        let mut signature = [27 + parity.to_byte(); 65];
        signature[..64].copy_from_slice(&numbers.to_bytes());
        let point = key.verifying_key().to_encoded_point(false);
        let address = *Keccak256::digest(&point.as_bytes()[1..])
            .last_chunk()
            .unwrap();
        let claim = SignatureClaim::Secp256k1 {
            digest,
            signature,
            address,
        };
        (address, claim)
    }

    fn forged(claim: &SignatureClaim) -> SignatureClaim {
        let mut claim = claim.clone();
        if let SignatureClaim::Secp256k1 { digest, .. } = &mut claim {
            digest[0] ^= 1;
        }
        claim
    }

    #[test]
    fn table_of_a_frequent_payer_changes_no_verdict() {
        for arithmetic in Arithmetic::available() {
            for together in [1, 2, 3, 8, 9, 64, 65] {
                let config = VerifierConfig {
                    workers: 1,
                    arithmetic,
                    ..VerifierConfig::default()
                };
                let verifier = Verifier::new(config).unwrap();
                let (address, _) = signed([0; 32]);
                let knows = || verifier.keys.tables([Some(&address)].into_iter())[0].is_some();
                for round in 0..RECOVERIES_BEFORE_TABLE {
                    assert!(!knows());
                    let (_, claim) = signed([round as u8; 32]);
                    assert_eq!(verifier.verify(&[forged(&claim), claim]), [false, true]);
                }
                assert!(knows());
                let claims: Vec<_> = (0..together).map(|at| signed([at as u8; 32]).1).collect();
                assert_eq!(verifier.verify(&claims), vec![true; together]);
                let claims: Vec<_> = claims.iter().map(forged).collect();
                assert_eq!(verifier.verify(&claims), vec![false; together]);
            }
        }
    }

    #[test]
    fn a_batch_is_shared_out_evenly() {
        assert_eq!(chunk(17, 1), 17);
        assert_eq!(chunk(65, 1), 33);
        assert_eq!(chunk(1024, 2), 64);
        assert_eq!(chunk(100, 2), 50);
        assert_eq!(chunk(20, 32), CHUNK_MIN);
    }
}
