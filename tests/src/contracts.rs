//! Contracts compiled for tests, with the compiler from npm.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

/// The init code of every contract in a Solidity or Yul file, in hex.
///
/// # Panics
/// When it does not compile.
pub fn compile(path: &Path) -> BTreeMap<String, String> {
    let node = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/devnet/node");
    let output = Command::new("node")
        .arg("compile.js")
        .arg(path.canonicalize().expect("the file is there"))
        .current_dir(node)
        .output()
        .expect("node is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).expect("the compiler's answer")
}

/// The contracts of `contracts/Hostile.sol`.
pub fn hostile(name: &str) -> &'static str {
    static COMPILED: LazyLock<BTreeMap<String, String>> =
        LazyLock::new(|| compile_own("Hostile.sol"));
    find(&COMPILED, name)
}

/// The contracts of `contracts/Delegation.sol`.
pub fn delegation(name: &str) -> &'static str {
    static COMPILED: LazyLock<BTreeMap<String, String>> =
        LazyLock::new(|| compile_own("Delegation.sol"));
    find(&COMPILED, name)
}

fn compile_own(file: &str) -> BTreeMap<String, String> {
    compile(
        &Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("contracts")
            .join(file),
    )
}

fn find(compiled: &'static BTreeMap<String, String>, name: &str) -> &'static str {
    let code = compiled.get(name);
    code.unwrap_or_else(|| panic!("there is no contract {name}"))
}
