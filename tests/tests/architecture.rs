//! The dependencies between crates have one direction.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use quittance_tests::sources::{source, sources};
use serde_json::Value;

/// The crates of this workspace that each crate may use, outside of its tests.
const ALLOWED: &[(&str, &[&str])] = &[
    ("quittance-books", &["quittance-core"]),
    ("quittance-cached", &[]),
    ("quittance-core", &[]),
    ("quittance-verify", &["quittance-core"]),
    ("quittance-journal", &["quittance-core"]),
    (
        "quittance-engine",
        &["quittance-core", "quittance-journal", "quittance-verify"],
    ),
    ("quittance-buyer", &["quittance-core", "quittance-http"]),
    ("quittance-http", &["quittance-core"]),
    (
        "quittance-seller",
        &["quittance-cached", "quittance-core", "quittance-http"],
    ),
    ("quittance-nodes", &["quittance-core"]),
    (
        "quittance-evm",
        &[
            "quittance-books",
            "quittance-cached",
            "quittance-core",
            "quittance-nodes",
        ],
    ),
    (
        "quittance-solana",
        &[
            "quittance-books",
            "quittance-cached",
            "quittance-core",
            "quittance-nodes",
        ],
    ),
    (
        "quittance-devnet",
        &[
            "quittance-buyer",
            "quittance-core",
            "quittance-engine",
            "quittance-evm",
            "quittance-http",
            "quittance-seller",
            "quittance-service",
            "quittance-solana",
            "quittance-verify",
        ],
    ),
    (
        "quittance-service",
        // The signatures of webhooks, which sellers verify.
        &["quittance-core", "quittance-engine", "quittance-http"],
    ),
    (
        "quittance-cli",
        &[
            "quittance-books",
            "quittance-buyer",
            "quittance-core",
            "quittance-engine",
            "quittance-evm",
            "quittance-http",
            "quittance-seller",
            "quittance-service",
            "quittance-solana",
            "quittance-verify",
        ],
    ),
    (
        "quittance-tests",
        &[
            "quittance-buyer",
            "quittance-core",
            "quittance-devnet",
            "quittance-engine",
            "quittance-evm",
            "quittance-examples",
            "quittance-http",
            "quittance-seller",
            "quittance-service",
            "quittance-solana",
            "quittance-testing",
        ],
    ),
    (
        "quittance-testing",
        &["quittance-core", "quittance-engine", "quittance-verify"],
    ),
    (
        "quittance",
        &[
            "quittance-buyer",
            "quittance-core",
            "quittance-engine",
            "quittance-evm",
            "quittance-http",
            "quittance-journal",
            "quittance-seller",
            "quittance-service",
            "quittance-solana",
            "quittance-verify",
        ],
    ),
];

/// Crates by which the core would name a chain, wait, or do I/O.
const NEVER_IN_CORE: [&str; 12] = [
    "alloy",
    "alloy-primitives",
    "tokio",
    "reqwest",
    "hyper",
    "axum",
    "sqlx",
    "solana-sdk",
    "solana-client",
    "solana-message",
    "solana-pubkey",
    "solana-transaction",
];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Each crate of the workspace with its dependencies, outside of its tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata();
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    let used = |package: &Value| {
        let all = package["dependencies"].as_array().unwrap().iter();
        all.filter(|dependency| dependency["kind"].is_null())
            .map(name)
            .collect()
    };
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (name(package), used(package)))
        .collect()
}

#[test]
fn crates_depend_only_on_allowed_crates() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    for (package, used) in dependencies() {
        let ours: BTreeSet<&str> = used
            .iter()
            .map(String::as_str)
            .filter(|name| name.starts_with("quittance-"))
            .collect();
        if package == "quittance-examples" || package == "quittance-benches" {
            continue;
        }
        let may = allowed
            .get(package.as_str())
            .unwrap_or_else(|| panic!("say here what {package} may use"));
        let may: BTreeSet<&str> = may.iter().copied().collect();
        assert!(
            ours.is_subset(&may),
            "{package} uses {:?}",
            ours.difference(&may)
        );
    }
}

#[test]
fn core_depends_on_no_chain_runtime_or_io() {
    let core = &dependencies()["quittance-core"];
    for name in NEVER_IN_CORE {
        assert!(!core.contains(name), "the core uses {name}");
    }
}

#[test]
fn engine_names_no_scheme_and_no_chain() {
    let sources = sources("rs");
    let is_engine = |path: &str| path.starts_with("crates/engine/src/");
    let engine = sources.iter().filter(|source| is_engine(&source.path));
    let mut violations = Vec::new();
    for source in engine {
        let lines = source.text.lines().enumerate();
        // Comments may have examples. Unit tests name a scheme where any name would do.
        let code = lines.take_while(|(_, line)| !line.starts_with("#[cfg(test)]"));
        for (at, line) in code.filter(|(_, line)| !line.trim_start().starts_with("//")) {
            let words = line.to_lowercase();
            let mut words = words.split(|end: char| !end.is_alphanumeric());
            let named = words.find(|word| NAMES.contains(word));
            violations.extend(named.map(|name| format!("{}:{}: {name}", source.path, at + 1)));
        }
    }
    assert!(violations.is_empty(), "{violations:?}");
}

/// Names of schemes, and of chains and their parts, that the engine must not have.
const NAMES: [&str; 11] = [
    "exact", "upto", "evm", "eip155", "ethereum", "solana", "alloy", "erc20", "eip3009", "usdc",
    "spl",
];

/// The crates of HTTP clients, servers and types, and the module of a crate that uses them.
const HTTP: [&str; 7] = [
    "reqwest",
    "http::",
    "http_body",
    "hyper",
    "axum",
    "tower",
    "crate::http",
];

/// The modules that decide about payments at both ends use no HTTP library.
#[test]
fn only_the_module_http_uses_an_http_library() {
    for folder in ["crates/buyer/src/", "crates/seller/src/"] {
        let sources = sources("rs").into_iter().filter(|source| {
            let name = source.path.strip_prefix(folder);
            name.is_some_and(|name| !name.contains('/') && name != "lib.rs")
        });
        let mut checked = 0;
        for source in sources {
            checked += 1;
            let lines = source.text.lines();
            for line in lines.filter(|line| !line.trim_start().starts_with("//")) {
                let line = line.replace("quittance_http::", "");
                let found = HTTP.iter().find(|name| line.contains(*name));
                assert_eq!(found, None, "{}: {line}", source.path);
            }
        }
        assert!(checked > 8, "{folder}: {checked}");
    }
}

/// The methods of a trait or an implementation, which begins with this text.
fn methods(source: &str, beginning: &str) -> BTreeSet<String> {
    let begins = source.find(beginning);
    let text = &source[begins.unwrap_or_else(|| panic!("no {beginning}"))..];
    let text = &text[..text.find("\n}\n").unwrap()];
    let signature = |line: &str| {
        let line = line.strip_prefix("    ")?;
        let line = line.strip_prefix("async ").unwrap_or(line);
        let name = line.strip_prefix("fn ")?;
        name.split(['(', '<']).next().map(str::to_owned)
    };
    text.lines().filter_map(signature).collect()
}

/// A method that is not forwarded has its default, so what it decides is not tested any more.
#[test]
fn planted_faults_forward_every_method() {
    let chain = "crates/core/src/chain.rs";
    let scheme = "crates/core/src/scheme.rs";
    let ends = "crates/core/src/ends.rs";
    let faulty_scheme = "crates/testing/src/faults/scheme.rs";
    let faulty_ends = "crates/testing/src/faults/ends.rs";
    let faulty_chain = "crates/testing/src/faults/chain.rs";
    let mut missing = Vec::new();
    for (path, name, in_path, of) in [
        (
            chain,
            "trait Chain",
            faulty_chain,
            "> Chain for FaultyChain",
        ),
        (
            scheme,
            "trait Scheme",
            faulty_scheme,
            "> Scheme<FaultyChain<C>> for",
        ),
        (
            scheme,
            "trait Payment",
            faulty_scheme,
            "> Payment<FaultyChain<C>> for",
        ),
        (ends, "trait Offer", faulty_ends, "Offer for FaultyOffer"),
        (ends, "trait Payer", faulty_ends, "Payer for FaultyPayer"),
    ] {
        let declared = methods(&source(path), name);
        assert!(declared.len() > 4, "{name}: {declared:?}");
        let forwarded = methods(&source(in_path), of);
        let absent = declared.difference(&forwarded);
        missing.extend(absent.map(|method| format!("{in_path}: {method} of {name}")));
    }
    assert!(missing.is_empty(), "{missing:#?}");
}
