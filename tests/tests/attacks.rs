//! `docs/attacks.md` names only tests that exist, and the code cites only rows that exist.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The name of the table in citations. A row number follows it.
const CITED: &str = "attacks.md";

/// Folders with other people's sources or with build output.
const NOT_OURS: [&str; 2] = ["node_modules", "target"];

/// A row of the table.
struct Row {
    number: u32,
    /// The last column: the test that covers the attack, the reason why it does not apply, or what
    /// is missing.
    cover: String,
}

/// The rows of the table, in order.
fn rows(table: &str) -> Vec<Row> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').collect();
        let number = cells[0].trim().parse().ok()?;
        assert_eq!(cells.len(), 4, "row {number} has another number of cells");
        let cover = cells[3].trim().to_owned();
        Some(Row { number, cover })
    };
    let lines = table.lines().filter(|line| line.starts_with('|'));
    lines.filter_map(row).collect()
}

/// The texts between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Our Rust sources with their paths.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for folder in ["benches", "chains", "crates", "examples", "tests"] {
        collect(&Path::new(ROOT).join(folder), &mut found);
    }
    assert!(found.len() > 100, "{} sources", found.len());
    found
}

fn collect(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !NOT_OURS.contains(&&*name) {
            collect(&path, found);
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
}

/// The test functions of this source. Each function of a conformance suite becomes a test of every
/// fixture.
fn tests_of(path: &Path, text: &str) -> Vec<String> {
    let conformance = path
        .components()
        .any(|part| part.as_os_str() == "conformance");
    let (mut tests, mut marked) = (Vec::new(), false);
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[") && line.contains("test") {
            marked = true;
        } else if let Some(name) = function(line) {
            if marked || (conformance && line.starts_with("pub ")) {
                tests.push(name.to_owned());
            }
            marked = false;
        }
    }
    tests
}

/// The name of the function that begins on this line.
fn function(line: &str) -> Option<&str> {
    let line = line.strip_prefix("pub ").unwrap_or(line);
    let line = line.strip_prefix("async ").unwrap_or(line);
    line.strip_prefix("fn ")?.split(['(', '<']).next()
}

/// The rows that a source cites: "attacks.md 3", "attacks.md 3, 4 and 5", "attacks.md 3 to 5".
fn cited(text: &str) -> BTreeSet<u32> {
    let mut all = BTreeSet::new();
    for behind in text.split(CITED).skip(1) {
        let (mut last, mut range) = (None, false);
        for word in behind.split_whitespace() {
            let number = word.trim_end_matches(|end: char| !end.is_ascii_digit());
            match (number.parse::<u32>(), word) {
                (Ok(number), _) => {
                    let from = last.filter(|_| range).unwrap_or(number);
                    all.extend(from..=number);
                    (last, range) = (Some(number), false);
                    if !matches!(word.strip_prefix(&number.to_string()), Some("" | ",")) {
                        break;
                    }
                }
                (Err(_), "and") => {}
                (Err(_), "to") if last.is_some() => range = true,
                (Err(_), _) => break,
            }
        }
    }
    all
}

fn table() -> Vec<Row> {
    rows(&fs::read_to_string(Path::new(ROOT).join("docs/attacks.md")).unwrap())
}

#[test]
fn every_row_has_its_number_and_says_what_covers_it() {
    for (expected, row) in (1..).zip(table()) {
        let number = row.number;
        assert_eq!(number, expected, "a row is missing, repeated or misplaced");
        let (status, rest) = row.cover.split_once(": ").unwrap_or_default();
        assert!(!rest.is_empty(), "row {number} says nothing: {}", row.cover);
        match status {
            "covered" => assert!(quoted(rest).next().is_some(), "row {number} names no test"),
            "open" | "does not apply" => {}
            other => panic!("row {number} is {other:?}"),
        }
    }
}

#[test]
fn every_test_that_the_table_names_exists() {
    let tests: BTreeSet<String> = sources()
        .iter()
        .flat_map(|(path, text)| tests_of(path, text))
        .collect();
    for row in table() {
        for name in quoted(&row.cover) {
            assert!(tests.contains(name), "row {}: no test {name}", row.number);
        }
    }
}

#[test]
fn every_row_that_the_code_cites_exists() {
    let rows: BTreeSet<u32> = table().iter().map(|row| row.number).collect();
    let mut count = 0;
    for (path, text) in sources() {
        for number in cited(&text) {
            count += 1;
            // The examples in this file are not citations.
            let own = path.ends_with("tests/tests/attacks.rs");
            assert!(
                own || rows.contains(&number),
                "{}: no row {number}",
                path.display()
            );
        }
    }
    assert!(count > 50, "{count} citations found");
}

#[test]
fn citations_are_read_in_every_form() {
    let read = |words: &str| Vec::from_iter(cited(&format!("/// {CITED}{words}")));
    assert_eq!(read(" 83."), [83]);
    assert_eq!(read(" 83: seven of 12 keys"), [83]);
    assert_eq!(read(" 121, 187. A browser asks 3 times"), [121, 187]);
    assert_eq!(read(" 104, 149 and 150: a node"), [104, 149, 150]);
    assert_eq!(read(" 25 to 29: wrappers"), [25, 26, 27, 28, 29]);
    assert_eq!(read(" 60 to 62 and pains A13"), [60, 61, 62]);
    assert_eq!(read(" 109).\n let first = 7"), [109]);
    assert_eq!(read(", resource_spoof. 5"), Vec::<u32>::new());
}
