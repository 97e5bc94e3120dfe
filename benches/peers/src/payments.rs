//! Really signed payments, the same ones in every run of a day.

use std::path::Path;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use alloy::primitives::{Address, B256, U256, address, keccak256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol;
use alloy::sol_types::eip712_domain;
use quittance_devnet::USDC;
use serde_json::{Value, json};

use crate::Result;

/// Base Sepolia, which every candidate knows.
pub const CHAIN: u64 = 84532;

/// Who is paid.
pub const SELLER: Address = address!("0x70997970C51812dc3A010C7d01b50e0d17dc79C8");

/// What is paid, in millionths of a dollar: a cent.
pub const AMOUNT: u64 = 10_000;

sol! {
    struct TransferWithAuthorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }
}

/// Makes payments of some payers in turn. No two of them are alike.
pub struct Payments {
    payers: Vec<PrivateKeySigner>,
    valid_before: u64,
    next: u64,
}

impl Payments {
    /// Payments of so many payers.
    pub fn new(payers: u64) -> Result<Self> {
        /// Valid at any time of the day they are made on, and shorter than the week that Quittance
        /// allows.
        const DAY: u64 = 24 * 3600;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let payers = (0..payers)
            .map(|at| PrivateKeySigner::from_bytes(&B256::from(U256::from(1_000_000 + at))))
            .collect::<std::result::Result<_, _>>()?;
        Ok(Self {
            payers,
            valid_before: now / DAY * DAY + 2 * DAY,
            next: 0,
        })
    }

    /// Who pays.
    pub fn payers(&self) -> impl Iterator<Item = Address> {
        self.payers.iter().map(PrivateKeySigner::address)
    }

    /// The bodies of the next so many requests, to `/verify` or `/settle`.
    pub fn bodies(&mut self, count: usize) -> Result<Vec<String>> {
        let indices: Vec<u64> = (self.next..).take(count).collect();
        self.next += count as u64;
        let share = count
            .div_ceil(thread::available_parallelism().map_or(1, usize::from))
            .max(1);
        let this = &*self;
        thread::scope(|scope| {
            let sign = |indices: &[u64]| {
                indices
                    .iter()
                    .map(|index| this.body(*index))
                    .collect::<Result<Vec<_>>>()
            };
            let threads: Vec<_> = indices
                .chunks(share)
                .map(|part| scope.spawn(move || sign(part)))
                .collect();
            let parts = threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| "a signing thread panicked")?);
            Ok(parts.collect::<Result<Vec<_>>>()?.concat())
        })
    }

    fn body(&self, index: u64) -> Result<String> {
        let payer = &self.payers[index as usize % self.payers.len()];
        let authorization = TransferWithAuthorization {
            from: payer.address(),
            to: SELLER,
            value: U256::from(AMOUNT),
            validAfter: U256::ZERO,
            validBefore: U256::from(self.valid_before),
            nonce: keccak256(index.to_be_bytes()),
        };
        let domain = eip712_domain! { name: "USDC", version: "2", chain_id: CHAIN, verifying_contract: USDC, };
        let signature = payer.sign_typed_data_sync(&authorization, &domain)?;
        let terms = json!({
            "scheme": "exact", "network": format!("eip155:{CHAIN}"), "amount": AMOUNT.to_string(), "asset": USDC.to_string(),
            "payTo": SELLER.to_string(), "maxTimeoutSeconds": 300, "extra": { "name": "USDC", "version": "2" },
        });
        let payload = json!({
            "signature": signature.to_string(),
            "authorization": {
                "from": authorization.from.to_string(), "to": authorization.to.to_string(),
                "value": authorization.value.to_string(), "validAfter": authorization.validAfter.to_string(),
                "validBefore": authorization.validBefore.to_string(), "nonce": authorization.nonce.to_string(),
            },
        });
        let body = json!({
            "x402Version": 2,
            "paymentPayload": { "x402Version": 2, "accepted": terms, "payload": payload },
            "paymentRequirements": terms,
        });
        Ok(body.to_string())
    }
}

/// A payment whose nonce is not the one that was signed.
fn changed(body: &str) -> Result<String> {
    let mut body: Value = serde_json::from_str(body)?;
    body["paymentPayload"]["payload"]["authorization"]["nonce"] =
        B256::repeat_byte(7).to_string().into();
    Ok(body.to_string())
}

/// Writes requests for the candidates that verify offline: `count` for each number of payers, and
/// one that was changed after it was signed.
pub fn write(folder: &Path, payers: &[u64], count: usize) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for payers in payers {
        let bodies = Payments::new(*payers)?.bodies(count)?;
        std::fs::write(
            folder.join(format!("{payers}.jsonl")),
            bodies.join("\n") + "\n",
        )?;
        std::fs::write(folder.join("changed.jsonl"), changed(&bodies[0])? + "\n")?;
    }
    Ok(())
}
