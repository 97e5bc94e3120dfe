//! The modules that decide about payments use no HTTP library.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::fs;
use std::path::Path;

/// The crates of HTTP servers and of HTTP types, and the module that uses them.
const HTTP: [&str; 6] = [
    "http::",
    "http_body",
    "hyper",
    "axum",
    "tower",
    "crate::http",
];

#[test]
fn only_the_module_http_uses_an_http_library() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut checked = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_source = path.extension().is_some_and(|end| end == "rs");
        if !is_source || path.ends_with("lib.rs") {
            continue;
        }
        checked += 1;
        let text = fs::read_to_string(&path).unwrap();
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            let line = line.replace("quittance_http::", "");
            let found = HTTP.iter().find(|name| line.contains(*name));
            assert_eq!(found, None, "{}: {line}", path.display());
        }
    }
    assert!(checked > 8, "{checked}");
}
