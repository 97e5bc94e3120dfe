//! The programs that ship as bytes are what their sources say.

use std::path::Path;

#[test]
fn the_probe_that_ships_is_the_probe_that_is_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../chains/evm/contracts");
    let compiled = quittance_tests::contracts::compile(&folder.join("Probe.yul"));
    let shipped = std::fs::read_to_string(folder.join("Probe.hex")).expect("the file is there");
    assert_eq!(compiled.get("Probe"), Some(&shipped));
}
