//! What a payment costs its fee payer.

/// The cost of a payment's two signatures, in lamports (Solana's documentation, "Fees": 5,000
/// each).
pub const SIGNATURES_FEE: u64 = 2 * 5_000;

/// The fee of a payment in lamports, for the compute units it requests and their price in
/// micro-lamports. The runtime charges for requested units, not for used ones.
pub fn fee(units: u32, price: u64) -> u64 {
    const MICRO_LAMPORTS: u128 = 1_000_000;
    let priority = (u128::from(units) * u128::from(price)).div_ceil(MICRO_LAMPORTS);
    u64::try_from(priority)
        .unwrap_or(u64::MAX)
        .saturating_add(SIGNATURES_FEE)
}
