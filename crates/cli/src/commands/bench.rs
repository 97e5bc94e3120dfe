//! `quittance bench`: the cost of a verification on this machine.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::CommandResult;
use crate::bench::{Measured, measure};
use crate::families::Families;

/// The examples below the options in `--help`.
const EXAMPLE: &str = "\
Example:
  quittance bench --seconds 60 --svg bench.svg";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct Bench {
    /// The duration of the measurement in seconds. A longer one gives steadier figures.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Draw the figures as an SVG plot into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

impl Bench {
    pub(super) async fn run(self, families: &Families) -> CommandResult {
        if cfg!(debug_assertions) {
            eprintln!("This program was built without optimisations; build it with --release.");
        }
        eprintln!("signing payments for the benchmark");
        let mut cases = families.benchmarks().await?;
        eprintln!("measuring for {} seconds", self.seconds);
        let time = Duration::from_secs(self.seconds);
        let measured = tokio::task::block_in_place(|| measure(&mut cases, time));
        let machine = machine();
        print!("{}", table(&machine, &measured));
        if let Some(path) = self.svg {
            let written = std::fs::write(&path, plot(&machine, &measured));
            written.map_err(|error| format!("{}: {error}", path.display()))?;
            eprintln!("drew {}", path.display());
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The program, the processor and the number of cores.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or(std::env::consts::ARCH, |(_, model)| model);
    let version = env!("CARGO_PKG_VERSION");
    format!("quittance {version}, {model}, {cores} cores")
}

/// A table in Markdown.
fn table(machine: &str, measured: &[Measured]) -> String {
    let mut text = format!("{machine}\n\n");
    text.push_str("| what | threads | payments/s | µs each (median) | quartiles |\n");
    text.push_str("|---|--:|--:|--:|--:|\n");
    for case in measured {
        let (low, high) = case.quartiles;
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} | {:.2} | {:.2} to {:.2} |",
            case.name,
            case.threads,
            case.per_second(),
            case.nanos / 1e3,
            low / 1e3,
            high / 1e3,
        );
    }
    text
}

/// A bar chart, one bar for each case.
fn plot(machine: &str, measured: &[Measured]) -> String {
    const LEFT: f64 = 330.0;
    const RIGHT: f64 = 120.0;
    const LINE: f64 = 22.0;
    const WIDTH: f64 = 900.0;
    let most = measured
        .iter()
        .map(Measured::per_second)
        .fold(1.0, f64::max);
    let height = LINE * (measured.len() as f64 + 2.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"16\" font-weight=\"bold\">Payments verified per second: {machine}</text>\n"
    );
    for (at, case) in measured.iter().enumerate() {
        let y = LINE * (at as f64 + 1.5);
        let length = case.per_second() / most * (WIDTH - LEFT - RIGHT);
        let text = y + 12.0;
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{text:.0}\" text-anchor=\"end\">{} ({} {})</text>\
             <rect x=\"{LEFT:.0}\" y=\"{y:.0}\" width=\"{length:.1}\" height=\"16\" fill=\"#3b6ea5\"/>\
             <text x=\"{:.1}\" y=\"{text:.0}\">{:.0}</text>",
            LEFT - 8.0,
            case.name,
            case.threads,
            if case.threads == 1 {
                "thread"
            } else {
                "threads"
            },
            LEFT + length + 6.0,
            case.per_second(),
        );
    }
    svg.push_str("</svg>\n");
    svg
}
