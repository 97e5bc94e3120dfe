//! A build compiles only the crates that it needs: a buyer compiles no HTTP server, and a service
//! compiles no chain.
//!
//! `architecture.rs` checks which crates each crate names. This file checks every crate that a
//! build compiles, direct or not, as `cargo tree` resolves them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::process::Command;

/// What only EVM chains need. A name that ends in `*` is a prefix.
const EVM: &[&str] = &["quittance-evm", "alloy", "alloy-*"];

/// What only Solana needs.
const SOLANA: &[&str] = &["quittance-solana", "solana-*", "spl-*", "wincode"];

/// The client of the chains' nodes, which only chains need.
const NODES: &[&str] = &["quittance-nodes"];

/// HTTP servers. A name after `/` is a feature, because `hyper` is a client as well.
const HTTP_SERVERS: &[&str] = &[
    "actix-web",
    "axum",
    "axum-*",
    "hyper/server",
    "hyper-util/server",
    "quittance-seller",
    "quittance-service",
    "tonic",
    "warp",
];

/// The facilitator's engine and its database. A buyer has an embedded database of its own.
const FACILITATOR: &[&str] = &["quittance-engine", "quittance-journal", "sqlx", "sqlx-*"];

/// A crate of a build, with its features there.
struct Compiled {
    name: String,
    features: Vec<String>,
    /// The names from the built crate to this one, each of which depends on the next.
    path: Vec<String>,
}

impl Compiled {
    fn is(&self, forbidden: &str) -> bool {
        let (name, feature) = match forbidden.split_once('/') {
            Some((name, feature)) => (name, Some(feature)),
            None => (forbidden, None),
        };
        let has_name = match name.strip_suffix('*') {
            Some(prefix) => self.name.starts_with(prefix),
            None => self.name == name,
        };
        let has_feature = |wanted| self.features.iter().any(|feature| feature == wanted);
        has_name && feature.is_none_or(has_feature)
    }
}

/// The crates that a build of one package compiles on this platform, in the order of `cargo tree`.
/// Crates for tests are not among them.
fn compiled(package: &str, features: &str) -> Vec<Compiled> {
    // Of each crate: its depth in the tree, name, version, and features.
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--edges", "normal"])
        .args(["--prefix", "depth", "--format", " {p}|{f}"])
        .args(["--package", package, "--features", features])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo tree: {errors}");
    let mut above: Vec<String> = Vec::new();
    let mut all = Vec::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let (depth, line) = line.split_once(' ').unwrap();
        let (package, features) = line.split_once('|').unwrap();
        let name = package.split(' ').next().unwrap().to_owned();
        above.truncate(depth.parse().unwrap());
        above.push(name.clone());
        // `cargo tree` marks a crate whose own dependencies it has printed before.
        let features = features.trim_end_matches("(*)").trim();
        all.push(Compiled {
            name,
            features: features.split(',').map(str::to_owned).collect(),
            path: above.clone(),
        });
    }
    all
}

/// Asserts that a build of this package compiles none of the forbidden crates.
fn assert_without(package: &str, features: &str, forbidden: &[&[&str]]) {
    let all = compiled(package, features);
    assert_eq!(all[0].name, package);
    let mut found = String::new();
    for name in forbidden.concat() {
        // One path is enough to find the dependency that must go.
        if let Some(unwanted) = all.iter().find(|compiled| compiled.is(name)) {
            found += &format!("\n  {name}: {}", unwanted.path.join(" -> "));
        }
    }
    assert!(
        found.is_empty(),
        "{package} with the features [{features}] must not compile:{found}"
    );
}

#[test]
fn a_buyer_compiles_no_server_and_no_chain() {
    for (package, features) in [("quittance-buyer", ""), ("quittance", "buyer")] {
        let forbidden = [HTTP_SERVERS, FACILITATOR, EVM, SOLANA, NODES];
        assert_without(package, features, &forbidden);
    }
}

#[test]
fn a_seller_compiles_no_engine_and_no_chain() {
    for (package, features) in [("quittance-seller", ""), ("quittance", "seller")] {
        assert_without(package, features, &[FACILITATOR, EVM, SOLANA, NODES]);
    }
}

#[test]
fn a_service_compiles_no_chain() {
    for (package, features) in [("quittance-service", ""), ("quittance", "service")] {
        assert_without(package, features, &[EVM, SOLANA, NODES]);
    }
}

#[test]
fn an_engine_compiles_no_server_and_no_chain() {
    for (package, features) in [
        ("quittance-engine", ""),
        ("quittance-journal", ""),
        ("quittance", "engine"),
    ] {
        assert_without(package, features, &[HTTP_SERVERS, EVM, SOLANA, NODES]);
    }
}

#[test]
fn an_evm_build_compiles_no_solana() {
    for features in ["evm", "evm,buyer", "evm,seller", "evm,service"] {
        assert_without("quittance", features, &[SOLANA]);
    }
    assert_without("quittance", "evm,buyer", &[HTTP_SERVERS, FACILITATOR]);
}

#[test]
fn a_solana_build_compiles_no_evm() {
    for features in ["solana", "solana,buyer", "solana,seller", "solana,service"] {
        assert_without("quittance", features, &[EVM]);
    }
    assert_without("quittance", "solana,buyer", &[HTTP_SERVERS, FACILITATOR]);
}

/// A misspelt name would forbid nothing.
#[test]
fn every_forbidden_name_is_of_a_real_crate() {
    let all = compiled("quittance", "evm,postgres,seller,service,solana");
    let ours = [EVM, SOLANA, NODES, FACILITATOR].concat();
    let servers = ["axum", "axum-*", "hyper/server", "hyper-util/server"];
    for name in ours.into_iter().chain(servers) {
        let is_known = all.iter().any(|compiled| compiled.is(name));
        assert!(is_known, "no build compiles {name}: correct the name");
    }
}
