//! A smart wallet on Solana: a program that makes any calls that its owner signs, from a vault that
//! no key can sign for. The program is `contracts/Wallet.s`.

use std::path::Path;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use quittance_core::PaymentRequest;
use quittance_core::json::Object;
use quittance_devnet::Solana as Local;
use quittance_solana::instruction::{COMPUTE_BUDGET, MEMO};
use quittance_solana::{Keypair, Pubkey, Token};
use sbpf_assembler::{Assembler, AssemblerOption, SbpfArch};
use serde_json::json;
use solana_hash::Hash;
use solana_instruction::{AccountMeta, Instruction};
use solana_message::{AddressLookupTableAccount, VersionedMessage, v0};
use solana_signature::Signature;
use solana_signer::Signer as _;
use solana_transaction::versioned::VersionedTransaction;

use crate::solana::Setting;

/// The address of Squads version 4: a wallet deployed there passes for it.
pub const SQUADS: Pubkey = Pubkey::from_str_const("SQDS4ep65T869zMMBKyuUq6aD6EgTu8psMjkvj52pCf");

/// The address of Swig.
pub const SWIG: Pubkey = Pubkey::from_str_const("swigypWHEksbC64pWKwah1WTeh9JXwx8H1rJHLdbQMB");

/// The owner of accounts that belong to no program.
const SYSTEM: Pubkey = Pubkey::new_from_array([0; 32]);

/// `Approve`, of both token programs.
const APPROVE: u8 = 4;
/// `Batch`, of both token programs.
const BATCH: u8 = 255;
/// `TransferChecked`, of both token programs.
const TRANSFER_CHECKED: u8 = 12;

/// The compute units that a wallet's payment requests.
const UNITS: u32 = 200_000;

/// The wallet's encoding of "no switch".
const NO_SWITCH: u8 = 255;

/// The wallet's mark of a writable account.
const WRITABLE: u8 = 1;
/// The wallet's mark of an account that signs a call.
const SIGNS: u8 = 2;

/// The program, assembled to the first version of the bytecode, which mainnet's programs have.
static PROGRAM: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("contracts/Wallet.s");
    let assembler = Assembler::new(AssemblerOption::default().with_arch(SbpfArch::V0));
    assembler
        .assemble_file(&source)
        .unwrap_or_else(|failed| panic!("{:?}", failed.errors))
});

/// A payment of any wallet.
#[derive(Debug, Clone)]
pub struct Payment {
    /// Its token.
    pub token: Token,
    /// The owner of the recipient's associated token account.
    pub pay_to: Pubkey,
    /// The amount, in atomic units.
    pub amount: u64,
}

/// The wallet's behaviour when it is to pay.
#[derive(Debug, Clone, Copy)]
pub enum Deed {
    /// It pays.
    Pay,
    /// It pays twice.
    PayTwice,
    /// It pays, and takes the same amount back: the recipient must have [approved](approve) the
    /// vault.
    PayAndTakeBack,
    /// It pays while this account's data begins with 0. Otherwise it does nothing, and succeeds.
    PayUnless(Pubkey),
    /// It has another wallet of the same owner pay, or calls itself: the payment is one level
    /// deeper.
    Nested(Wallet),
}

/// A smart wallet program on the local cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wallet {
    /// Its address.
    pub program: Pubkey,
}

impl Wallet {
    /// Deploys the program at an address.
    pub async fn deploy(local: &Local, program: Pubkey) -> Self {
        local
            .add_program(program, &PROGRAM)
            .await
            .expect("the wallet is a program");
        Self { program }
    }

    /// The address that holds an owner's money.
    pub fn vault(&self, owner: &Pubkey) -> Pubkey {
        self.vault_and_bump(owner).0
    }

    fn vault_and_bump(&self, owner: &Pubkey) -> (Pubkey, u8) {
        Pubkey::find_program_address(&[b"vault", owner.as_ref()], &self.program)
    }

    /// Creates the vault's associated token account with this balance in atomic units.
    pub async fn fund(&self, local: &Local, owner: &Pubkey, token: &Token, amount: u64) {
        local
            .put_tokens(self.vault(owner), token.mint, token.program.id(), amount)
            .await
            .expect("an account");
    }

    /// The instruction that has the wallet pay, with its behaviour.
    pub fn pay(&self, owner: &Pubkey, payment: &Payment, deed: Deed) -> Instruction {
        let vault = self.vault(owner);
        let pay = payment.by(&vault);
        match deed {
            Deed::Pay => self.execute(owner, &[pay]),
            Deed::PayTwice => self.execute(owner, &[pay.clone(), pay]),
            Deed::PayAndTakeBack => self.execute(owner, &[pay, payment.back_to(&vault)]),
            Deed::PayUnless(switch) => self.execute_unless(owner, &switch, &[pay]),
            Deed::Nested(inner) => self.execute(owner, &[inner.pay(owner, payment, Deed::Pay)]),
        }
    }

    /// The instruction that has the wallet make these calls in order; the vault signs those that
    /// say so.
    pub fn execute(&self, owner: &Pubkey, calls: &[Instruction]) -> Instruction {
        self.instruction(owner, None, calls)
    }

    /// The same, but nothing happens while the data of the account `switch` does not begin with 0.
    pub fn execute_unless(
        &self,
        owner: &Pubkey,
        switch: &Pubkey,
        calls: &[Instruction],
    ) -> Instruction {
        self.instruction(owner, Some(switch), calls)
    }

    fn instruction(
        &self,
        owner: &Pubkey,
        switch: Option<&Pubkey>,
        calls: &[Instruction],
    ) -> Instruction {
        let (vault, bump) = self.vault_and_bump(owner);
        let mut accounts = Accounts(vec![AccountMeta::new_readonly(*owner, true)]);
        let switch = switch.map_or(NO_SWITCH, |switch| {
            accounts.index(AccountMeta::new_readonly(*switch, false))
        });
        let mut data = vec![bump, switch];
        for call in calls {
            let program = AccountMeta::new_readonly(call.program_id, false);
            data.extend([accounts.index(program), byte(call.accounts.len())]);
            for meta in &call.accounts {
                let marks =
                    u8::from(meta.is_writable) * WRITABLE + u8::from(meta.is_signer) * SIGNS;
                // Only the wallet can sign for the vault.
                let is_signer = meta.is_signer && meta.pubkey != vault;
                let outside = AccountMeta {
                    is_signer,
                    ..meta.clone()
                };
                data.extend([accounts.index(outside), marks]);
            }
            data.push(byte(call.data.len()));
            data.extend(&call.data);
        }
        Instruction {
            program_id: self.program,
            accounts: accounts.0,
            data,
        }
    }
}

/// The accounts of an instruction without repetitions.
struct Accounts(Vec<AccountMeta>);

impl Accounts {
    /// The index of an account, with at least these rights.
    fn index(&mut self, meta: AccountMeta) -> u8 {
        let found = self.0.iter().position(|known| known.pubkey == meta.pubkey);
        let at = found.unwrap_or(self.0.len());
        match self.0.get_mut(at) {
            Some(known) => {
                known.is_signer |= meta.is_signer;
                known.is_writable |= meta.is_writable;
            }
            None => self.0.push(meta),
        }
        byte(at)
    }
}

fn byte(count: usize) -> u8 {
    u8::try_from(count).expect("the wallet counts in bytes")
}

impl Payment {
    /// The `TransferChecked` from the associated token account of `payer`, who signs.
    pub fn by(&self, payer: &Pubkey) -> Instruction {
        self.transfer(payer, &self.pay_to, payer)
    }

    /// The `TransferChecked` that takes the payment back, signed by the payer as the recipient's
    /// delegate.
    pub fn back_to(&self, payer: &Pubkey) -> Instruction {
        self.transfer(&self.pay_to, payer, payer)
    }

    fn transfer(&self, from: &Pubkey, to: &Pubkey, authority: &Pubkey) -> Instruction {
        let mut data = vec![TRANSFER_CHECKED];
        data.extend(self.amount.to_le_bytes());
        data.push(self.token.decimals);
        Instruction {
            program_id: self.token.program.id(),
            accounts: vec![
                AccountMeta::new(token_account(from, &self.token), false),
                AccountMeta::new_readonly(self.token.mint, false),
                AccountMeta::new(token_account(to, &self.token), false),
                AccountMeta::new_readonly(*authority, true),
            ],
            data,
        }
    }
}

/// The token account of an owner.
pub fn token_account(owner: &Pubkey, token: &Token) -> Pubkey {
    Local::token_account(owner, &token.mint, &token.program.id())
}

/// The `Approve` that lets `delegate` move this amount, in atomic units, from the associated token
/// account of `owner`, who signs.
pub fn approve(owner: &Pubkey, delegate: &Pubkey, token: &Token, amount: u64) -> Instruction {
    let mut data = vec![APPROVE];
    data.extend(amount.to_le_bytes());
    Instruction {
        program_id: token.program.id(),
        accounts: vec![
            AccountMeta::new(token_account(owner, token), false),
            AccountMeta::new_readonly(*delegate, false),
            AccountMeta::new_readonly(*owner, true),
        ],
        data,
    }
}

/// The `Batch` of these instructions of one token program. Nodes report it as one instruction.
pub fn batch(instructions: &[Instruction]) -> Instruction {
    let mut batch = Instruction {
        program_id: instructions.first().expect("some").program_id,
        accounts: Vec::new(),
        data: vec![BATCH],
    };
    for one in instructions {
        batch.accounts.extend_from_slice(&one.accounts);
        batch
            .data
            .extend([byte(one.accounts.len()), byte(one.data.len())]);
        batch.data.extend(&one.data);
    }
    batch
}

/// `SetComputeUnitLimit` and `SetComputeUnitPrice`.
pub fn budget(units: u32, price: u64) -> [Instruction; 2] {
    let instruction = |kind: u8, value: &[u8]| Instruction {
        program_id: COMPUTE_BUDGET,
        accounts: Vec::new(),
        data: [&[kind], value].concat(),
    };
    [
        instruction(2, &units.to_le_bytes()),
        instruction(3, &price.to_le_bytes()),
    ]
}

/// A memo without signers.
pub fn memo(text: &str) -> Instruction {
    Instruction {
        program_id: MEMO,
        accounts: Vec::new(),
        data: text.as_bytes().to_vec(),
    }
}

/// Sets a switch: the wallet does nothing while it is off.
pub async fn set_switch(local: &Local, switch: Pubkey, is_on: bool) {
    let data = [u8::from(!is_on)];
    local
        .put_account(switch, SYSTEM, &data, None)
        .await
        .expect("an account");
}

/// Creates a lookup table with these addresses, for [`transaction`] to use.
pub async fn lookup_table(local: &Local, addresses: &[Pubkey]) -> AddressLookupTableAccount {
    AddressLookupTableAccount {
        key: local.lookup_table(addresses).await.expect("a table"),
        addresses: addresses.to_vec(),
    }
}

/// A payment of a smart wallet: a request with a new transaction of these instructions, with
/// compute budget.
pub async fn request(
    setting: &Setting,
    owner: &Keypair,
    pays: &Instruction,
    tables: &[AddressLookupTableAccount],
) -> PaymentRequest {
    let requirements = setting.requirements();
    let extra = requirements.extra.as_ref().expect("a fee payer").tree();
    let fee_payer = extra["feePayer"].as_str().expect("a fee payer");
    let fee_payer = fee_payer.parse().expect("an address");
    let [limit, price] = budget(UNITS, 1);
    let unique = memo(&Keypair::new().pubkey().to_string());
    let all = [limit, price, pays.clone(), unique];
    let latest = blockhash(&setting.local).await;
    let bytes = transaction(&fee_payer, &[owner], &all, tables, latest);
    let payload = json!({ "transaction": BASE64.encode(bytes) });
    let payload = Object::of(&payload).expect("an object");
    crate::request(crate::payload_of(&requirements, payload), &requirements)
}

/// Includes a signed transaction in the next block.
pub async fn include(local: &Local, bytes: &[u8]) {
    let transaction: VersionedTransaction = wincode::deserialize(bytes).expect("a transaction");
    let sent = local.client().send_transaction(&transaction).await;
    sent.expect("a transaction that succeeds");
    local.mine(1).await.expect("a block");
}

/// The newest blockhash.
pub async fn blockhash(local: &Local) -> Hash {
    let latest = local.client().get_latest_blockhash().await;
    latest.expect("a blockhash")
}

/// A serialized transaction of version 0. Signers that are not in `signers` (such as a payment's
/// fee payer) have zeros as their signature. Accounts of the table are loaded from it, except
/// programs and signers.
pub fn transaction(
    fee_payer: &Pubkey,
    signers: &[&Keypair],
    instructions: &[Instruction],
    tables: &[AddressLookupTableAccount],
    blockhash: Hash,
) -> Vec<u8> {
    let message = v0::Message::try_compile(fee_payer, instructions, tables, blockhash)
        .expect("not too many accounts");
    let required = usize::from(message.header.num_required_signatures);
    let message = VersionedMessage::V0(message);
    let bytes = message.serialize();
    let signature = |key: &Pubkey| {
        let signer = signers.iter().find(|signer| signer.pubkey() == *key);
        signer.map_or_else(Signature::default, |signer| signer.sign_message(&bytes))
    };
    let keys = &message.static_account_keys()[..required];
    let signatures = keys.iter().map(signature).collect();
    wincode::serialize(&VersionedTransaction {
        signatures,
        message,
    })
    .expect("a transaction can be written")
}
