//! Quittance beside other implementations of x402, in one run on one machine: `peers [offline]
//! [load]`, both if none is named. See the Makefile's `bench-peers` for what must be built and
//! installed before.
//!
//! It writes tables between marks into `docs/benchmarks.md`, and a plot beside it.

mod load;
mod offline;
mod payments;
mod report;

use std::error::Error;
use std::path::Path;

/// Whatever goes wrong ends the run: half a comparison is none.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// This crate's folder, below which everything is found.
const HERE: &str = env!("CARGO_MANIFEST_DIR");

// One thread: the load generator leaves the cores to those who are measured.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |part: &str| named.is_empty() || named.iter().any(|name| name == part);
    let folder = Path::new(HERE).join("target/payments");
    let measured = if wanted("offline") {
        Some(offline::measure(&folder)?)
    } else {
        None
    };
    let loaded = if wanted("load") {
        Some(load::measure(&folder).await?)
    } else {
        None
    };
    report::write(measured.as_ref(), loaded.as_ref())
}
