//! Measuring the cost of a verification. The cases come from the families of chains.

use std::time::{Duration, Instant};

/// A case of the benchmark.
pub struct Case {
    /// What is measured.
    pub name: String,
    /// The number of threads.
    pub threads: usize,
    /// The number of payments in one run.
    pub payments: usize,
    run: Box<dyn FnMut() + Send>,
}

/// The time that a case takes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Measured {
    /// What is measured.
    pub name: String,
    /// The number of threads.
    pub threads: usize,
    /// The median time for one payment, in nanoseconds.
    pub nanos: f64,
    /// The lower and the upper quartile, in nanoseconds.
    pub quartiles: (f64, f64),
}

impl Case {
    /// A case whose `run` verifies this number of payments on this number of threads.
    pub fn new(
        name: impl Into<String>,
        threads: usize,
        payments: usize,
        run: impl FnMut() + Send + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            threads,
            payments,
            run: Box::new(run),
        }
    }

    /// Runs the case once.
    pub fn run(&mut self) {
        (self.run)();
    }
}

impl Measured {
    /// The number of payments per second.
    pub fn per_second(&self) -> f64 {
        1e9 / self.nanos
    }
}

/// Measures all cases in turn, round after round, so that other work on the machine affects all of
/// them alike.
pub fn measure(cases: &mut [Case], time: Duration) -> Vec<Measured> {
    /// Quartiles need at least this many rounds.
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
