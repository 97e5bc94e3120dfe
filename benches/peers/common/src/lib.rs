//! What the candidates written in Rust share: the loop that is measured, and a chain that answers
//! at once.
//!
//! A candidate is a process of its own, so that no two of them share a build, a cache or an
//! allocator. Its standard input says what to verify, and its standard output how long that took:
//! see [`rounds`].

#[cfg(feature = "chain")]
mod chain;

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::time::Instant;

#[cfg(feature = "chain")]
pub use chain::InstantChain;

/// One way to verify payments.
pub trait Candidate {
    /// Makes ready what is not to be measured.
    fn prepare(&mut self) {}

    /// Verifies payments from the bytes of their requests, and says how many of them are good.
    fn verify(&mut self, bodies: &[Vec<u8>]) -> usize;

    /// How often the chain was asked so far.
    fn calls(&self) -> u64 {
        0
    }
}

/// Requests, and how many of them were verified.
struct Set {
    bodies: Vec<Vec<u8>>,
    next: usize,
}

/// Verifies the payments of each line, until its standard input ends. A line `SET COUNT` asks for
/// the next so many requests of the file `SET.jsonl` in this folder, starting anew at its end; the
/// answer is a line `NANOSECONDS GOOD CALLS`.
///
/// # Errors
/// When a line or a file cannot be read.
pub fn rounds(folder: &Path, mut candidate: impl Candidate) -> io::Result<()> {
    let mut sets: HashMap<String, Set> = HashMap::new();
    let bad = || io::Error::new(io::ErrorKind::InvalidInput, "a line is `SET COUNT`");
    for line in io::stdin().lock().lines() {
        let line = line?;
        let (name, count) = line.split_once(' ').ok_or_else(bad)?;
        let count: usize = count.parse().map_err(|_| bad())?;
        if !sets.contains_key(name) {
            sets.insert(name.to_owned(), Set::read(folder, name)?);
        }
        let set = sets.get_mut(name).ok_or_else(bad)?;
        let bodies = set.take(count).ok_or_else(bad)?;
        candidate.prepare();
        let calls = candidate.calls();
        let started = Instant::now();
        let good = candidate.verify(bodies);
        let nanos = started.elapsed().as_nanos();
        println!("{nanos} {good} {}", candidate.calls() - calls);
        io::stdout().flush()?;
    }
    Ok(())
}

impl Set {
    fn read(folder: &Path, name: &str) -> io::Result<Self> {
        let text = std::fs::read_to_string(folder.join(format!("{name}.jsonl")))?;
        Ok(Self {
            bodies: text.lines().map(|line| line.as_bytes().to_vec()).collect(),
            next: 0,
        })
    }

    /// The next so many, or `None` if there are not so many at all.
    fn take(&mut self, count: usize) -> Option<&[Vec<u8>]> {
        if self.next + count > self.bodies.len() {
            self.next = 0;
        }
        let bodies = self.bodies.get(self.next..self.next + count);
        self.next += count;
        bodies
    }
}
