//! The settings of the scheme.

use solana_pubkey::Pubkey;

use crate::fee::{SIGNATURES_FEE, fee};
use crate::instruction;

/// What the scheme `exact` accepts, and the most that a payment may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExactConfig {
    /// The smart wallets that may pay; `None` for none. Without it every payment is a transfer that
    /// its payer signs.
    pub smart_wallets: Option<SmartWallets>,
    /// Whether assertions of Lighthouse may mention a fee payer, as some wallets write them. The
    /// runtime passes that program a writable account that signs. Allow it only if you trust the
    /// program's upgrade authority.
    pub allow_lighthouse_on_fee_payer: bool,
    /// The most compute units that a payment may request.
    pub compute_units_max: u32,
    /// The highest price for a compute unit, in micro-lamports.
    pub compute_unit_price_max: u64,
    /// The most that a payment may cost a fee payer, in lamports: its signatures and its priority
    /// fee. The two limits above do not bound the fee enough: together they allow a hundred times
    /// as much.
    pub fee_max: u64,
}

impl Default for ExactConfig {
    fn default() -> Self {
        Self {
            smart_wallets: None,
            allow_lighthouse_on_fee_payer: false,
            // A transfer takes less than 10,000, with a memo and guards less than 100,000. This is
            // the specification's limit for smart wallets.
            compute_units_max: 400_000,
            // The specification's limit.
            compute_unit_price_max: 5_000_000,
            // Two signatures (10,000) and the highest priority fee that the specification allows
            // smart wallets: 400,000 units at 50,000 micro-lamports (20,000). The reference client
            // pays less than 1 as priority fee, ours at most 400. A wallet that sets its own price
            // for a transfer of 100,000 units may use up to 200,000 micro-lamports.
            fee_max: 30_000,
        }
    }
}

/// A fault in the settings of the scheme.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExactConfigError {
    /// The limit for fees is below what the signatures cost.
    #[error(
        "a payment may cost at most {0} lamports, but its signatures alone cost {SIGNATURES_FEE}: raise the limit"
    )]
    FeeMax(u64),
    /// A program in the list of smart wallets can never be one.
    #[error("{0} is a system program and cannot be allowed as a smart wallet")]
    NotAWallet(Pubkey),
}

impl ExactConfig {
    /// The highest possible fee of a payment, in lamports.
    pub fn fee_highest(&self) -> u64 {
        self.fee_max
            .min(fee(self.compute_units_max, self.compute_unit_price_max))
    }

    pub(super) fn check(&self) -> Result<(), ExactConfigError> {
        if self.fee_max < SIGNATURES_FEE {
            return Err(ExactConfigError::FeeMax(self.fee_max));
        }
        let wallets = self.smart_wallets.as_ref();
        match wallets.and_then(SmartWallets::not_a_wallet) {
            Some(program) => Err(ExactConfigError::NotAWallet(program)),
            None => Ok(()),
        }
    }
}

/// The smart wallets that may pay, and the limits for their payments.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SmartWallets {
    /// The programs that a payment may call and that may make its transfer. A wallet may call any
    /// program. Each wallet listed here can make payments that succeed in simulation and fail when
    /// included, which costs the fee.
    pub programs: Vec<Pubkey>,
    /// The most compute units that a payment may request.
    pub compute_units_max: u32,
    /// The highest price for a compute unit, in micro-lamports.
    pub compute_unit_price_max: u64,
}

impl Default for SmartWallets {
    /// The specification's wallets and limits (sections 2.2.1 and 2.2.2) without SPL Governance.
    /// Anyone may execute an approved proposal there, and could use it to buy something.
    fn default() -> Self {
        Self {
            programs: [
                // Squads: Multisig version 4, Smart Account.
                "SQDS4ep65T869zMMBKyuUq6aD6EgTu8psMjkvj52pCf",
                "SMRTzfY6DfH5ik3TKiyLFfXexV8uSG3d2UksSCYdunG",
                // Swig: versions 1 and 2.
                "SWiGmQedKzMz1tiTqoJCWeGDnGXfNBp2PkXLkpCAtQo",
                "swigypWHEksbC64pWKwah1WTeh9JXwx8H1rJHLdbQMB",
                // Metaplex Core.
                "CoREENxT6tW1HoK8ypY1SxRMZTcVPm7R94rH4PZNhX7d",
            ]
            .map(Pubkey::from_str_const)
            .to_vec(),
            compute_units_max: 400_000,
            compute_unit_price_max: 50_000,
        }
    }
}

impl SmartWallets {
    /// The first of the programs that can never be allowed. The System program starts durable
    /// nonces, and each signature check costs a fee. The other programs have separate rules.
    fn not_a_wallet(&self) -> Option<Pubkey> {
        let never = |program: &&Pubkey| instruction::NEVER_WALLETS.contains(program);
        self.programs.iter().find(never).copied()
    }
}
