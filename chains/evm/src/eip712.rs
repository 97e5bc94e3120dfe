//! EIP-712: the digests that wallets sign.

use alloy::primitives::{Address, B256, U256, keccak256};
use alloy::sol_types::Eip712Domain;

/// The domain separator of a contract. It is hashed once per token, not once per payment.
pub fn domain_separator(name: &str, version: &str, chain_id: u64, contract: Address) -> B256 {
    Eip712Domain {
        name: Some(name.to_owned().into()),
        version: Some(version.to_owned().into()),
        chain_id: Some(U256::from(chain_id)),
        verifying_contract: Some(contract),
        salt: None,
    }
    .separator()
}

/// The digest that is signed: `keccak256(0x1901 ‖ domain separator ‖ struct hash)`.
pub fn digest(domain_separator: &B256, struct_hash: &B256) -> B256 {
    let mut message = [0; 66];
    message[..2].copy_from_slice(&[0x19, 0x01]);
    message[2..34].copy_from_slice(domain_separator.as_slice());
    message[34..].copy_from_slice(struct_hash.as_slice());
    keccak256(message)
}
