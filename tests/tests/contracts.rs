//! The programs that ship as bytes are what their sources say.

use std::path::Path;

#[test]
fn shipped_bytecode_matches_its_source() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let contracts = [
        ("Probe", "chains/evm/contracts/Probe.yul"),
        ("Batch", "chains/evm/contracts/Batch.yul"),
        (
            "ExactPermit2Proxy",
            "crates/devnet/contracts/ExactPermit2Proxy.sol",
        ),
        (
            "UptoPermit2Proxy",
            "crates/devnet/contracts/UptoPermit2Proxy.sol",
        ),
        (
            "BatchSettlement",
            "crates/devnet/contracts/BatchSettlement.sol",
        ),
        (
            "Eip3009DepositCollector",
            "crates/devnet/contracts/Eip3009DepositCollector.sol",
        ),
        (
            "Permit2DepositCollector",
            "crates/devnet/contracts/Permit2DepositCollector.sol",
        ),
        (
            "AuthCaptureEscrow",
            "crates/devnet/contracts/AuthCaptureEscrow.sol",
        ),
        (
            "Eip3009PaymentCollector",
            "crates/devnet/contracts/Eip3009PaymentCollector.sol",
        ),
        (
            "Permit2PaymentCollector",
            "crates/devnet/contracts/Permit2PaymentCollector.sol",
        ),
        (
            "OperatorRefundCollector",
            "crates/devnet/contracts/OperatorRefundCollector.sol",
        ),
        (
            "SmartWalletFactory",
            "crates/devnet/contracts/SmartWalletFactory.sol",
        ),
    ];
    for (name, source) in contracts {
        let source = root.join(source);
        let compiled = quittance_tests::contracts::compile(&source);
        let shipped = std::fs::read_to_string(source.with_extension("hex"));
        assert_eq!(compiled.get(name), shipped.ok().as_ref(), "{name}");
    }
}
