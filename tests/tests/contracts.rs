//! The programs that ship as bytes are what their sources say.

use std::path::Path;

#[test]
fn the_programs_that_ship_are_the_ones_that_are_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../chains/evm/contracts");
    for name in ["Probe", "Batch"] {
        let source = folder.join(name).with_extension("yul");
        let compiled = quittance_tests::contracts::compile(&source);
        let shipped = std::fs::read_to_string(folder.join(name).with_extension("hex"));
        assert_eq!(compiled.get(name), shipped.ok().as_ref(), "{name}");
    }
}
