//! Tables between marks in `docs/benchmarks.md`, and a plot beside it.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use crate::load::{IN_FLIGHT, Loaded, Rate};
use crate::offline::{Measured, PAYERS};
use crate::{HERE, Result};

/// Which number of payers the ratios and the plot are of: agents that pay again and again.
const PAYERS_AT: usize = 1;

/// Writes what was measured; what was not stays as it is.
pub fn write(measured: Option<&Vec<Measured>>, loaded: Option<&Vec<Loaded>>) -> Result<()> {
    let docs = PathBuf::from(HERE).join("../../docs");
    let path = docs.join("benchmarks.md");
    let mut text = std::fs::read_to_string(&path)?;
    let conditions = conditions();
    if let Some(measured) = measured {
        text = replaced(
            &text,
            "offline",
            &format!("{conditions}\n\n{}", offline_table(measured)),
        )?;
    }
    if let Some(loaded) = loaded {
        text = replaced(
            &text,
            "load",
            &format!("{conditions}\n\n{}", load_table(loaded)),
        )?;
    }
    std::fs::write(&path, text)?;
    if let (Some(measured), Some(loaded)) = (measured, loaded) {
        std::fs::write(docs.join("benchmarks-peers.svg"), plot(measured, loaded))?;
    }
    Ok(())
}

/// The text with something new between two marks.
fn replaced(text: &str, part: &str, new: &str) -> Result<String> {
    let (begin, end) = (
        format!("<!-- peers {part}: begin -->\n"),
        format!("<!-- peers {part}: end -->"),
    );
    let (before, rest) = text
        .split_once(&begin)
        .ok_or("docs/benchmarks.md lacks the marks")?;
    let (_, after) = rest
        .split_once(&end)
        .ok_or("docs/benchmarks.md lacks the marks")?;
    Ok(format!("{before}{begin}{new}{end}{after}"))
}

/// What was measured, on what, and when.
fn conditions() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        cpus.lines().find_map(|line| {
            line.strip_prefix(name)?
                .split_once(": ")
                .map(|(_, value)| value)
        })
    };
    let ifma = if field("flags").is_some_and(|flags| flags.contains("avx512ifma")) {
        " with AVX-512 IFMA"
    } else {
        ""
    };
    format!(
        "{}, commit {}; {}{ifma}, {cores} cores; {}, Node {}, {}.",
        said("date", &["-u", "+%F"]),
        said("git", &["rev-parse", "--short", "HEAD"]),
        field("model name").unwrap_or(std::env::consts::ARCH),
        said("rustc", &["--version"]),
        said("node", &["--version"]),
        said("python/venv/bin/python", &["--version"]),
    )
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(HERE)
        .output();
    output.map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

fn offline_table(measured: &[Measured]) -> String {
    let mut text = "| from JSON to verdict, one core |".to_owned();
    for payers in PAYERS {
        let _ = write!(
            text,
            " µs each, {payers} {} |",
            if payers == 1 { "payer" } else { "payers" }
        );
    }
    text.push_str(
        " payments/s | times of Quittance, at once | times of Quittance, one by one | calls to the chain | a changed nonce |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|---|\n",
    );
    let [at_once, one_by_one] = [0, 1].map(|row| measured[row].micros[PAYERS_AT][1]);
    for row in measured {
        let _ = write!(text, "| {} |", row.name);
        for [low, median, high] in &row.micros {
            let _ = write!(text, " {median:.1} ({low:.1} to {high:.1}) |");
        }
        let [_, median, _] = row.micros[PAYERS_AT];
        let _ = writeln!(
            text,
            " {:.0} | {:.1} | {:.1} | {:.0} | {} |",
            1e6 / median,
            median / at_once,
            median / one_by_one,
            row.calls,
            if row.accepts_changed {
                "accepted as valid"
            } else {
                "refused"
            }
        );
    }
    let _ = writeln!(
        text,
        "\nMedians, with quartiles. Payments a second, and how many times as long as Quittance, are of {} payers.",
        PAYERS[PAYERS_AT]
    );
    text
}

fn load_table(loaded: &[Loaded]) -> String {
    let mut text = "| good answers a second (median ms) |".to_owned();
    for endpoint in ["verify", "settle"] {
        for in_flight in IN_FLIGHT {
            let _ = write!(text, " /{endpoint}, {in_flight} |");
        }
    }
    text.push_str(" calls to the chain for each |\n|---|--:|--:|--:|--:|--:|--:|--:|\n");
    for row in loaded {
        let _ = write!(text, "| {} |", row.name);
        for rate in row.verify.iter().chain(&row.settle) {
            let _ = write!(text, " {} |", shown(rate));
        }
        let [verify, settle] = row.calls;
        let _ = writeln!(text, " {verify:.1}; {settle:.1} |");
    }
    for row in &loaded[1..] {
        let ratio = |rates: fn(&Loaded) -> &Vec<Rate>| {
            let ratios = rates(&loaded[0])
                .iter()
                .zip(rates(row))
                .map(|(ours, theirs)| ours.per_second / theirs.per_second);
            ratios
                .map(|ratio| format!("{ratio:.1}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let (verify, settle) = (ratio(|row| &row.verify), ratio(|row| &row.settle));
        let _ = write!(
            text,
            "\nQuittance against {}: /verify {verify} times, /settle {settle} times.",
            row.name
        );
    }
    text.push_str("\n\n");
    text.push_str(&cpu_table(loaded));
    let failures = loaded.iter().flat_map(|row| {
        row.verify
            .iter()
            .chain(&row.settle)
            .map(move |rate| (row.name, rate))
    });
    for (name, failure) in failures.filter_map(|(name, rate)| Some((name, rate.failure.as_ref()?)))
    {
        let _ = writeln!(
            text,
            "\nOne of the failures of {name}: `{}`.",
            failure.chars().take(300).collect::<String>()
        );
    }
    text
}

/// Where the time goes with the most requests in flight.
fn cpu_table(loaded: &[Loaded]) -> String {
    let most = IN_FLIGHT.len() - 1;
    let in_flight = IN_FLIGHT[most];
    let mut text = format!(
        "| µs of processor time for a good answer, {in_flight} in flight | /verify | anvil for it | /settle | anvil for it |\n\
         |---|--:|--:|--:|--:|\n"
    );
    for row in loaded {
        let ([verify, verify_chain], [settle, settle_chain]) =
            (row.verify[most].cpu_micros, row.settle[most].cpu_micros);
        let _ = writeln!(
            text,
            "| {} | {verify:.0} | {verify_chain:.0} | {settle:.0} | {settle_chain:.0} |",
            row.name
        );
    }
    text
}

fn shown(rate: &Rate) -> String {
    let failed = if rate.failed > 0.0 {
        format!(", {:.0} % failed", rate.failed * 100.0)
    } else {
        String::new()
    };
    // Some answer once in seven seconds.
    let digits = if rate.per_second < 10.0 { 2 } else { 0 };
    format!("{:.digits$} ({:.1}{failed})", rate.per_second, rate.millis)
}

/// Bars, one below the other, in three panels.
fn plot(measured: &[Measured], loaded: &[Loaded]) -> String {
    const WIDTH: f64 = 900.0;
    let most = IN_FLIGHT.len() - 1;
    let offline = measured
        .iter()
        .map(|row| (row.name, 1e6 / row.micros[PAYERS_AT][1]))
        .collect();
    let rates = |of: fn(&Loaded) -> &Vec<Rate>| {
        loaded
            .iter()
            .map(|row| (row.name, of(row)[most].per_second))
            .collect()
    };
    let panels: [(String, Vec<(&str, f64)>); 3] = [
        (
            "Payments verified offline per second, one core, 100 payers".to_owned(),
            offline,
        ),
        (
            format!(
                "/verify per second, {} in flight, the same chain behind each",
                IN_FLIGHT[most]
            ),
            rates(|row| &row.verify),
        ),
        (
            format!(
                "/settle per second, {} in flight, the same chain behind each",
                IN_FLIGHT[most]
            ),
            rates(|row| &row.settle),
        ),
    ];
    let mut y = 0.0;
    let mut bars = String::new();
    for (title, rows) in &panels {
        y = panel(&mut bars, y, title, rows);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{bars}</svg>\n"
    )
}

/// Draws a panel from `y` on, and says where it ends.
fn panel(svg: &mut String, y: f64, title: &str, rows: &[(&str, f64)]) -> f64 {
    const LEFT: f64 = 330.0;
    const LENGTH: f64 = 450.0;
    const LINE: f64 = 22.0;
    let most = rows.iter().map(|(_, rate)| *rate).fold(1.0, f64::max);
    let _ = writeln!(
        svg,
        "<text x=\"8\" y=\"{:.0}\" font-weight=\"bold\">{title}</text>",
        y + 18.0
    );
    for (at, (name, rate)) in rows.iter().enumerate() {
        let top = y + LINE * (at as f64 + 1.5);
        let length = (rate / most * LENGTH).max(1.0);
        let colour = if name.starts_with("Quittance") {
            "#3b6ea5"
        } else {
            "#9a9a9a"
        };
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LEFT:.0}\" y=\"{top:.0}\" width=\"{length:.1}\" height=\"16\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{:.0}\">{rate:.0}</text>",
            LEFT - 8.0,
            top + 12.0,
            name.replace('`', ""),
            LEFT + length + 6.0,
            top + 12.0,
        );
    }
    y + LINE * (rows.len() as f64 + 2.0)
}
