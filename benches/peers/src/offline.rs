//! From the bytes of a request to the verdict, without a chain: every candidate in turn, round
//! after round, on one core.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::payments;
use crate::{HERE, Result};

/// How many payments there are for each number of payers; Quittance takes as many at once.
pub const PAYMENTS: usize = 1024;

/// From one agent that pays all the time to as many payers as payments.
pub const PAYERS: [u64; 3] = [1, 100, PAYMENTS as u64];

/// How long is measured for each number of payers: some 50 rounds.
const TIME: Duration = Duration::from_secs(30);

/// A candidate is warm after having verified every payment so often: Quittance knows a payer after
/// 20 of them, and the just-in-time compiler has seen the others' code often enough.
const WARM_UPS: usize = 24;

/// The one core that the candidates share.
const CORE: &str = "1";

/// What is measured.
struct Candidate {
    name: &'static str,
    /// How many payments one round takes: about a tenth of a second, and for those that take them
    /// one by one, more would change nothing.
    round: usize,
    /// How many payments warm it up.
    warm_up: usize,
    program: &'static str,
    arguments: &'static [&'static str],
}

/// Quittance first, at once and one by one: the others are compared with these two. Paths are
/// relative to this crate's folder, and FOLDER is where the payments are.
const CANDIDATES: [Candidate; 8] = [
    Candidate {
        name: "Quittance, 1024 at once",
        round: PAYMENTS,
        warm_up: PAYMENTS * WARM_UPS,
        program: "target/release/peer-quittance",
        arguments: &["offline", "FOLDER", "batch"],
    },
    Candidate {
        name: "Quittance, one by one",
        round: PAYMENTS,
        warm_up: PAYMENTS * WARM_UPS,
        program: "target/release/peer-quittance",
        arguments: &["offline", "FOLDER", "one"],
    },
    Candidate {
        name: "Quittance, 1024 at once of payers never seen before",
        round: PAYMENTS,
        warm_up: PAYMENTS,
        program: "target/release/peer-quittance",
        arguments: &["offline", "FOLDER", "strangers"],
    },
    Candidate {
        name: "x402-rs 2.0.2 with alloy's `secp256k1`",
        round: PAYMENTS,
        warm_up: PAYMENTS,
        program: "target/release/peer-x402-rs-secp256k1",
        arguments: &["offline", "FOLDER"],
    },
    Candidate {
        name: "x402-rs 2.0.2",
        round: 256,
        warm_up: PAYMENTS,
        program: "target/release/peer-x402-rs",
        arguments: &["offline", "FOLDER"],
    },
    Candidate {
        name: "r402 0.21.0",
        round: 256,
        warm_up: PAYMENTS,
        program: "target/release/peer-r402",
        arguments: &["offline", "FOLDER"],
    },
    Candidate {
        name: "x402 2.25.0 for Python, coincurve",
        round: 64,
        warm_up: 256,
        program: "python/venv/bin/python",
        arguments: &["python/offline.py", "FOLDER"],
    },
    Candidate {
        name: "@x402/evm 2.27.0 on Node",
        round: 32,
        warm_up: PAYMENTS,
        program: "node",
        arguments: &["typescript/offline.mjs", "FOLDER"],
    },
];

/// What a candidate was measured to take.
pub struct Measured {
    /// Which one it is.
    pub name: &'static str,
    /// For each number of payers, microseconds for a payment: lower quartile, median, upper
    /// quartile.
    pub micros: Vec<[f64; 3]>,
    /// How often it asked the chain, for each payment.
    pub calls: f64,
    /// Whether it accepts a payment as valid whose nonce was changed after it was signed.
    pub accepts_changed: bool,
}

/// Measures everything.
pub fn measure(folder: &Path) -> Result<Vec<Measured>> {
    eprintln!("signing payments");
    payments::write(folder, &PAYERS, PAYMENTS)?;
    let mut running = CANDIDATES
        .iter()
        .map(|candidate| Running::start(candidate, folder))
        .collect::<Result<Vec<_>>>()?;
    let mut measured = Vec::new();
    for running in &mut running {
        let (_, good, _) = running.ask("changed", 1)?;
        measured.push(Measured {
            name: running.candidate.name,
            micros: Vec::new(),
            calls: 0.0,
            accepts_changed: good == 1,
        });
    }
    for payers in PAYERS {
        eprintln!("verifying payments of {payers} payers");
        for running in &mut running {
            let rounds = running.candidate.warm_up / running.candidate.round;
            for _ in 0..rounds {
                running.verify(payers)?;
            }
        }
        let mut rounds = vec![Vec::new(); running.len()];
        let started = Instant::now();
        while started.elapsed() < TIME {
            for ((running, round), measured) in
                running.iter_mut().zip(&mut rounds).zip(&mut measured)
            {
                let (micros, calls) = running.verify(payers)?;
                round.push(micros);
                measured.calls = calls;
            }
        }
        for (mut round, measured) in rounds.into_iter().zip(&mut measured) {
            round.sort_unstable_by(f64::total_cmp);
            measured
                .micros
                .push([1, 2, 3].map(|part| round[round.len() * part / 4]));
        }
    }
    Ok(measured)
}

/// A candidate's process.
struct Running {
    candidate: &'static Candidate,
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Running {
    fn start(candidate: &'static Candidate, folder: &Path) -> Result<Self> {
        let mut process = Command::new("taskset")
            .args(["--cpu-list", CORE, candidate.program])
            .args(candidate.arguments.iter().map(|argument| match *argument {
                "FOLDER" => folder.as_os_str(),
                other => other.as_ref(),
            }))
            .current_dir(HERE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", candidate.name))?;
        let (questions, answers) = (process.stdin.take(), process.stdout.take());
        Ok(Self {
            candidate,
            process,
            questions: questions.ok_or("a candidate without input")?,
            answers: BufReader::new(answers.ok_or("a candidate without output")?),
        })
    }

    /// One round: microseconds, and calls to the chain, for each payment.
    fn verify(&mut self, payers: u64) -> Result<(f64, f64)> {
        let count = self.candidate.round;
        let (nanos, good, calls) = self.ask(&payers.to_string(), count)?;
        if good as usize != count {
            return Err(format!(
                "{}: only {good} of {count} payments are good",
                self.candidate.name
            )
            .into());
        }
        Ok((
            nanos as f64 / 1e3 / count as f64,
            calls as f64 / count as f64,
        ))
    }

    /// Nanoseconds, good payments, and calls to the chain.
    fn ask(&mut self, set: &str, count: usize) -> Result<(u64, u64, u64)> {
        writeln!(self.questions, "{set} {count}")?;
        self.questions.flush()?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        let numbers: Vec<u64> = answer
            .split_whitespace()
            .map(str::parse)
            .collect::<std::result::Result<_, _>>()?;
        match numbers[..] {
            [nanos, good, calls] => Ok((nanos, good, calls)),
            _ => Err(format!("{}: it ended, or answered {answer:?}", self.candidate.name).into()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
