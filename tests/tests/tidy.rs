//! The rules of CONTRIBUTING.md that a program can check, for every source and guide.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::{BTreeMap, BTreeSet};

use quittance_tests::sources::{Source, sources};

/// Words that hide the subject of a sentence or belong to no standard, and what to write instead.
const FORBIDDEN: &[(&str, &str)] = &[
    ("whoever", "name the subject, such as `a caller that`"),
    ("nobody", "name the subject, such as `no other caller`"),
    ("somebody", "name the subject, such as `another caller`"),
    ("anybody", "name the subject, such as `any caller`"),
    ("told", "`reported`, `answered`, `distinguished`"),
    ("learnt", "`read`, `fetched`, `known`"),
    ("in vain", "what failed"),
    ("all the same", "`nevertheless`"),
    ("is content", "`Valid`, `accepts`"),
    ("taken up", "`resumed`"),
    ("given back", "`returned`"),
];

/// The longest comment line, in characters.
const COMMENT_WIDTH: usize = 100;

/// The longest name of a test, in characters.
const TEST_NAME_MAX: usize = 60;

/// Public types that share a name with another public type, and why.
const SHARED_NAMES: &[(&str, &str)] = &[
    // Each chain's crate has the same types, and the crate's name says which chain.
    ("Evidence", "one for each chain"),
    ("Exact", "one for each chain"),
    ("ExactConfig", "one for each chain"),
    ("ExactConfigError", "one for each chain"),
    ("ExactOffer", "one for each chain"),
    ("ExactPayer", "one for each chain"),
    ("Signer", "one for each chain"),
    ("Token", "one for each chain"),
    (
        "Authorization",
        "one for each chain, the simulated one included",
    ),
    ("Transfer", "one for each chain, the simulated one included"),
    ("Account", "one for each chain, local ones included"),
    // A module of its own has the messages of version 1, under the specification's names.
    ("PaymentPayload", "one for each protocol version"),
    ("PaymentRequired", "one for each protocol version"),
    ("PaymentRequirements", "one for each protocol version"),
    // Local chains for tests have the names of the chains.
    ("Evm", "a chain, and a local one"),
    ("Solana", "a chain, and a local one"),
    (
        "Object",
        "a JSON object as text, and one as a type of a node's result",
    ),
];

/// Crates whose modules may use each other in a circle, and why.
const CIRCLES: &[(&str, &str)] = &[
    (
        "crates/verify",
        "an implementation of lanes starts sums, and sums are computed over lanes",
    ),
    (
        "crates/cli",
        "a configuration is read with the families, and their entries are a part of it",
    ),
    (
        "crates/service",
        "the router has the handlers, and the handlers have the router's state",
    ),
];

/// Files whose own text has the forbidden words: these rules, and the columns of an old format.
const ABOUT_WORDS: [&str; 4] = [
    "tests/tests/tidy.rs",
    "crates/journal/src/sqlite/to_format_",
    "docs/journal.md",
    "tests/fixtures/journal-format-1.sql",
];

/// Files that are being rewritten. TEMPORARY: this list must become empty.
const EXEMPT: &[&str] = &["CHANGELOG.md"];

fn is_exempt(path: &str) -> bool {
    [&ABOUT_WORDS[..], EXEMPT]
        .concat()
        .iter()
        .any(|start| path.starts_with(start))
}

/// Fails with one line for each violation.
fn assert_none(violations: &[String]) {
    let count = violations.len();
    assert!(count == 0, "{count} violations:\n{}", violations.join("\n"));
}

/// The numbered lines of a file, from 1.
fn lines(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    source
        .text
        .lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line))
}

/// Whether `text` has `phrase`, and not as a part of longer words.
fn has_phrase(text: &str, phrase: &str) -> bool {
    text.match_indices(phrase).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + phrase.len()..].chars().next();
        [before, after]
            .iter()
            .flatten()
            .all(|near| !near.is_alphanumeric())
    })
}

/// The forbidden phrases of one line. Identifiers count as their words.
fn forbidden(line: &str) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    let text = line.to_lowercase().replace('_', " ");
    FORBIDDEN
        .iter()
        .filter(move |(phrase, _)| has_phrase(&text, phrase))
}

#[test]
fn sources_and_guides_have_no_forbidden_phrase() {
    let mut violations = Vec::new();
    for source in ["rs", "md", "toml", "sql", "sol", "yul"]
        .iter()
        .flat_map(|end| sources(end))
    {
        for (number, line) in lines(&source).filter(|_| !is_exempt(&source.path)) {
            for (phrase, instead) in forbidden(line) {
                let place = format!("{}:{number}", source.path);
                violations.push(format!("{place}: {phrase:?}: write {instead}"));
            }
        }
    }
    assert_none(&violations);
}

#[test]
fn comment_lines_are_at_most_100_columns() {
    let mut violations = Vec::new();
    for source in sources("rs")
        .iter()
        .filter(|source| !is_exempt(&source.path))
    {
        for (number, line) in lines(source).filter(|(_, line)| line.trim_start().starts_with("//"))
        {
            // A row of a table cannot be wrapped.
            let is_row = line
                .trim_start()
                .trim_start_matches(['/', '!', ' '])
                .starts_with('|');
            let width = line.chars().count();
            if width > COMMENT_WIDTH && !is_row {
                let place = format!("{}:{number}", source.path);
                violations.push(format!("{place}: {width} columns: wrap at {COMMENT_WIDTH}"));
            }
        }
    }
    assert_none(&violations);
}

/// The test functions of a source, with their lines. Each public function of a conformance suite
/// becomes a test.
fn tests_of(source: &Source) -> Vec<(usize, &str)> {
    let is_suite = source.path.contains("/conformance/");
    let (mut tests, mut is_marked) = (Vec::new(), false);
    for (number, line) in lines(source) {
        let line = line.trim();
        if line.starts_with("#[") && line.contains("test") {
            is_marked = true;
        } else if let Some(name) = function(line) {
            if is_marked || (is_suite && line.starts_with("pub ")) {
                tests.push((number, name));
            }
            is_marked = false;
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

#[test]
fn test_names_have_at_most_60_characters() {
    let mut violations = Vec::new();
    for source in sources("rs")
        .iter()
        .filter(|source| !is_exempt(&source.path))
    {
        for (number, name) in tests_of(source) {
            if name.len() > TEST_NAME_MAX {
                let place = format!("{}:{number}", source.path);
                let length = name.len();
                violations.push(format!(
                    "{place}: {name} has {length}: name subject, condition, result"
                ));
            }
        }
    }
    assert_none(&violations);
}

/// The code of a library or program: without comments, and without the tests at its end.
fn code(source: &Source) -> String {
    let text = source.text.split("\n#[cfg(test)]\n").next().unwrap();
    let lines = text.lines().map(|line| line.split("//").next().unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

/// The sources of the published crates, without those of tests.
fn crate_sources() -> Vec<Source> {
    let is_test = |path: &str| path.ends_with("/tests.rs") || path.contains("/tests/");
    let in_crate = |path: &str| {
        (path.starts_with("crates/") || path.starts_with("chains/")) && path.contains("/src/")
    };
    let all = sources("rs").into_iter();
    all.filter(|source| in_crate(&source.path) && !is_test(&source.path))
        .collect()
}

/// The name of the public type that a line declares.
fn public_type(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("pub ")?;
    let (kind, rest) = rest.split_once(' ')?;
    let is_type = ["struct", "enum", "trait", "type", "union"].contains(&kind);
    is_type.then(|| rest.split(|end: char| !end.is_alphanumeric()).next())?
}

#[test]
fn public_types_have_names_of_their_own() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in crate_sources() {
        for (number, line) in code(&source).lines().enumerate() {
            if let Some(name) = public_type(line) {
                let place = format!("{}:{}", source.path, number + 1);
                places.entry(name.to_owned()).or_default().push(place);
            }
        }
    }
    let allowed = |name: &str| SHARED_NAMES.iter().any(|(shared, _)| *shared == name);
    let mut violations = Vec::new();
    for (name, places) in &places {
        if places.len() > 1 && !allowed(name) {
            violations.push(format!(
                "{}: {name}: name one of them otherwise",
                places.join(", ")
            ));
        }
    }
    for (name, _) in SHARED_NAMES {
        if places.get(*name).is_none_or(|places| places.len() < 2) {
            violations.push(format!("SHARED_NAMES: {name} is not shared: remove it"));
        }
    }
    assert_none(&violations);
}

/// The modules and types that a `use` tree names first, such as `a` and `b` for `{a::C, b}`.
fn first_names(tree: &str) -> Vec<String> {
    let tree = tree.trim_start();
    let Some(inner) = tree.strip_prefix('{') else {
        let end = tree.find(|end: char| !end.is_alphanumeric() && end != '_');
        return vec![tree[..end.unwrap_or(tree.len())].to_owned()];
    };
    let (mut names, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, letter) in inner.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' | ',' if depth == 0 => {
                names.push(inner[start..at].to_owned());
                start = at + 1;
                if letter == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    names.iter().flat_map(|name| first_names(name)).collect()
}

/// The top-level module of a file in a crate's `src`, and its depth. `None` for the root.
fn module(path: &str) -> Option<(&str, usize)> {
    let (_, inside) = path.split_once("/src/")?;
    let parts: Vec<&str> = inside.trim_end_matches(".rs").split('/').collect();
    if matches!(parts[..], ["lib" | "main"]) || parts[0] == "bin" {
        return None;
    }
    let depth = parts.len() - usize::from(parts.last() == Some(&"mod"));
    Some((parts[0], depth))
}

/// The modules that a crate's root re-exports names from, by name.
fn re_exports(root: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for statement in root.split("use ").skip(1) {
        let Some((module, rest)) = statement.split_once("::") else {
            continue;
        };
        let tree = rest.split(';').next().unwrap_or_default();
        let words = tree.split(|end: char| !end.is_alphanumeric() && end != '_');
        all.extend(words.map(|name| (name.to_owned(), module.trim().to_owned())));
    }
    all
}

/// The top-level modules that this code uses. `depth` is the depth of its file.
fn used_modules(
    code: &str,
    depth: usize,
    modules: &BTreeSet<String>,
    re_exports: &BTreeMap<String, String>,
) -> BTreeSet<String> {
    let root = "super::".repeat(depth);
    let mut used = BTreeSet::new();
    for prefix in ["crate::", root.as_str()] {
        for tree in code.split(prefix).skip(1) {
            used.extend(first_names(tree).into_iter().filter_map(|name| {
                let is_module = modules.contains(&name);
                if is_module {
                    Some(name)
                } else {
                    re_exports.get(&name).cloned()
                }
            }));
        }
    }
    used
}

/// A circle in a graph, if there is one.
fn circle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    let mut left = graph.clone();
    // Removes modules that use none of the rest, as long as there are any.
    while let Some(leaf) = left
        .iter()
        .find(|(_, used)| used.iter().all(|name| !left.contains_key(name)))
        .map(|(name, _)| name.clone())
    {
        left.remove(&leaf);
    }
    let mut path = vec![left.keys().next()?.clone()];
    loop {
        let next = left[path.last()?]
            .iter()
            .find(|name| left.contains_key(*name))?;
        if let Some(start) = path.iter().position(|name| name == next) {
            path.push(next.clone());
            return Some(path.split_off(start));
        }
        path.push(next.clone());
    }
}

#[test]
fn modules_of_a_crate_use_each_other_in_no_circle() {
    let mut crates: BTreeMap<String, Vec<Source>> = BTreeMap::new();
    for source in crate_sources() {
        let (name, _) = source.path.split_once("/src/").unwrap();
        crates.entry(name.to_owned()).or_default().push(source);
    }
    let mut violations = Vec::new();
    for (name, sources) in &crates {
        let modules: BTreeSet<String> = sources
            .iter()
            .filter_map(|source| Some(module(&source.path)?.0.to_owned()))
            .collect();
        let root = sources
            .iter()
            .find(|source| source.path.ends_with("/src/lib.rs"));
        let re_exports = root.map(|root| re_exports(&code(root))).unwrap_or_default();
        let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for source in sources {
            let Some((own, depth)) = module(&source.path) else {
                continue;
            };
            let mut used = used_modules(&code(source), depth, &modules, &re_exports);
            used.remove(own);
            graph.entry(own.to_owned()).or_default().extend(used);
        }
        let is_allowed = CIRCLES.iter().any(|(allowed, _)| allowed == name);
        if let Some(circle) = circle(&graph).filter(|_| !is_allowed) {
            let circle = circle.join(" uses ");
            violations.push(format!(
                "{name}/src: {circle}: move what they share to a module below"
            ));
        }
    }
    assert_none(&violations);
}

#[test]
fn helpers_of_these_tests_read_what_they_must() {
    assert!(has_phrase("// so nobody, then", "nobody"));
    assert!(!has_phrase("untold", "told"));
    assert_eq!(first_names("{a::{B, c::D}, e, f::G};"), ["a", "e", "f"]);
    assert_eq!(first_names("chain::Chain;"), ["chain"]);
    assert_eq!(module("crates/x/src/a/b.rs"), Some(("a", 2)));
    assert_eq!(module("crates/x/src/a/mod.rs"), Some(("a", 1)));
    assert_eq!(module("crates/x/src/lib.rs"), None);
    let graph = |edges: &[(&str, &str)]| {
        let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in edges {
            graph
                .entry((*from).to_owned())
                .or_default()
                .insert((*to).to_owned());
            graph.entry((*to).to_owned()).or_default();
        }
        graph
    };
    assert_eq!(circle(&graph(&[("a", "b"), ("b", "c")])), None);
    let found = circle(&graph(&[("a", "b"), ("b", "c"), ("c", "b")])).unwrap();
    assert_eq!(found, ["b", "c", "b"]);
}
