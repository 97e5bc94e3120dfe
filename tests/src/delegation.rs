//! Payments by delegation (ERC-7710), for the suites that make them.

use std::sync::Arc;

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolStruct, SolValue, eip712_domain};
use async_trait::async_trait;
use quittance_core::json::Object;
use quittance_core::wire::{PaymentRequirements, Rest, SupportedKind};
use quittance_core::{Offer, PayerError, PaymentRequest, Scheme};
use quittance_devnet::{Account, Evm as Local};
use quittance_evm::abi::{Caveat, Delegation};
use quittance_evm::erc7710::{ANY_DELEGATE, ROOT_AUTHORITY};
use quittance_evm::{
    DelegationOffer, DelegationPayer, DelegationTerms, DelegationWallet, Evm, EvmConfig, Exact,
    ExactConfig, GrantedDelegation,
};
use serde_json::json;

use crate::contracts::delegation;
use crate::evm::Setting;

/// The messages that delegators sign.
mod signed {
    alloy::sol! {
        struct Caveat { address enforcer; bytes terms; }
        struct Delegation {
            address delegate; address delegator; bytes32 authority; Caveat[] caveats; uint256 salt;
        }
    }
}

/// Where a request has its permission context.
pub const CONTEXT: &str = "/paymentPayload/payload/permissionContext";

/// The contracts of delegations on a local chain.
#[derive(Debug, Clone, Copy)]
pub struct Delegations {
    /// The delegation manager.
    pub manager: Address,
    /// The enforcer of a token, a recipient and an amount.
    pub transfers: Address,
    /// The enforcer of redeemers.
    pub redeemers: Address,
}

/// A chain whose first buyers have accounts that delegate.
pub async fn start() -> (Setting, Delegations) {
    let setting = Setting::start().await;
    let deploy = async |name: &str| {
        let deployed = setting.local.deploy(delegation(name)).await;
        deployed.expect("a contract")
    };
    let delegations = Delegations {
        manager: deploy("DelegationManager").await,
        transfers: deploy("TransferEnforcer").await,
        redeemers: deploy("RedeemerEnforcer").await,
    };
    for buyer in buyers() {
        delegations
            .give_code(&setting, buyer.address, "DelegatorAccount")
            .await;
    }
    (setting, delegations)
}

/// The buyer, and another account with money.
pub fn buyers() -> [Account; 2] {
    [Setting::buyer(), Local::accounts()[3].clone()]
}

impl Delegations {
    /// Gives an account with a key the code of this contract (EIP-7702).
    pub async fn give_code(&self, setting: &Setting, account: Address, name: &str) {
        let manager = alloy::hex::encode(self.manager.abi_encode());
        let code = format!("{}{manager}", delegation(name));
        let code = setting.local.deploy(&code).await.expect("a contract");
        let code = format!("ef0100{}", alloy::hex::encode(code));
        let given = setting.local.set_code(account, &code).await;
        given.expect("a node that accepts it");
    }

    /// The scheme that accepts the manager.
    pub fn scheme(&self, config: EvmConfig) -> Arc<dyn Scheme<Evm>> {
        let evm = Evm::new(config).expect("a configuration that makes sense");
        let exact = Exact::new(&evm).with_config(self.settings());
        Arc::new(exact.expect("settings that make sense"))
    }

    /// The settings that allow the manager.
    pub fn settings(&self) -> ExactConfig {
        let mut settings = ExactConfig::default();
        settings.delegation_managers = [self.manager].into();
        settings
    }

    /// The seller's requirements, with the facilitator's signers of this configuration.
    pub fn requirements(&self, config: EvmConfig) -> PaymentRequirements {
        let kind = self.kind(config);
        offer().requirements(&kind).expect("an offer")
    }

    /// What the facilitator says of the scheme.
    pub fn kind(&self, config: EvmConfig) -> SupportedKind {
        SupportedKind {
            x402_version: 2,
            scheme: "exact".to_owned(),
            network: offer().network().id().to_owned(),
            extra: self.scheme(config).extra(),
            rest: Rest::default(),
        }
    }

    /// A wallet of this account, which delegates each payment to the first redeemer.
    pub fn wallet(&self, account: &Account) -> Wallet {
        Wallet {
            contracts: *self,
            key: account.signer.clone(),
        }
    }

    /// The payer with that wallet.
    pub fn payer(&self, account: &Account) -> DelegationPayer {
        DelegationPayer::new(self.wallet(account))
    }

    /// The caveat that allows transfers of this much in all.
    pub fn only(&self, token: Address, to: Address, amount: U256) -> Caveat {
        Caveat {
            enforcer: self.transfers,
            terms: (token, to, amount).abi_encode_packed().into(),
            args: Bytes::new(),
        }
    }

    /// The caveat that allows these redeemers.
    pub fn only_by(&self, redeemers: &[Address]) -> Caveat {
        let terms: Vec<u8> = redeemers.iter().flat_map(|redeemer| redeemer.0.0).collect();
        Caveat {
            enforcer: self.redeemers,
            terms: terms.into(),
            args: Bytes::new(),
        }
    }

    /// A delegation with a signature of this key.
    pub fn sign(&self, key: &PrivateKeySigner, delegation: Delegation) -> Delegation {
        let domain = eip712_domain! {
            name: "DelegationManager", version: "1", chain_id: 84532,
            verifying_contract: self.manager,
        };
        let digest = message(&delegation).eip712_signing_hash(&domain);
        let signature = key.sign_hash_sync(&digest).expect("a key in memory");
        Delegation {
            signature: Bytes::copy_from_slice(&signature.as_bytes()),
            ..delegation
        }
    }

    /// A request with this chain of delegations.
    pub fn request(
        &self,
        chain: &[Delegation],
        delegator: Address,
        requirements: &PaymentRequirements,
    ) -> PaymentRequest {
        let payload = json!({
            "delegationManager": self.manager,
            "permissionContext": Bytes::from(chain.to_vec().abi_encode()),
            "delegator": delegator,
        });
        let payload = Object::of(&payload).expect("an object");
        crate::request(crate::payload_of(requirements, payload), requirements)
    }
}

/// The seller's offer.
pub fn offer() -> DelegationOffer {
    let seller = Setting::seller().address.to_string();
    DelegationOffer::usdc("base-sepolia", "0.01", &seller).expect("an offer")
}

/// The hash of a delegation, which a redelegation has as its authority.
pub fn hash(delegation: &Delegation) -> B256 {
    message(delegation).eip712_hash_struct()
}

fn message(delegation: &Delegation) -> signed::Delegation {
    let caveats = delegation.caveats.iter().map(|caveat| signed::Caveat {
        enforcer: caveat.enforcer,
        terms: caveat.terms.clone(),
    });
    signed::Delegation {
        delegate: delegation.delegate,
        delegator: delegation.delegator,
        authority: delegation.authority,
        caveats: caveats.collect(),
        salt: delegation.salt,
    }
}

/// A root delegation that is not signed yet, with a salt that no other has.
pub fn root(delegate: Address, delegator: Address, caveats: Vec<Caveat>) -> Delegation {
    Delegation {
        delegate,
        delegator,
        authority: ROOT_AUTHORITY,
        caveats,
        salt: U256::from_be_bytes(PrivateKeySigner::random().to_bytes().0),
        signature: Bytes::new(),
    }
}

/// A root delegation to every account, which is not signed yet.
pub fn open_root(delegator: Address, caveats: Vec<Caveat>) -> Delegation {
    root(ANY_DELEGATE, delegator, caveats)
}

/// The chain of a request, from the leaf to the root.
pub fn chain_of(request: &PaymentRequest) -> Vec<Delegation> {
    let payload = request.payload.tree();
    let context: Bytes =
        serde_json::from_value(payload["permissionContext"].clone()).expect("hexadecimal digits");
    Vec::<Delegation>::abi_decode(&context).expect("a chain")
}

/// The request with another chain, and nothing signed again.
pub fn with_chain(request: &PaymentRequest, chain: &[Delegation]) -> PaymentRequest {
    let context = Bytes::from(chain.to_vec().abi_encode());
    crate::evm::set(request, CONTEXT, json!(context))
}

/// A wallet with a key, whose account has the code of a delegator.
pub struct Wallet {
    contracts: Delegations,
    key: PrivateKeySigner,
}

#[async_trait]
impl DelegationWallet for Wallet {
    fn delegator(&self) -> Address {
        self.key.address()
    }

    async fn delegate(&self, terms: &DelegationTerms) -> Result<GrantedDelegation, PayerError> {
        let amount = terms.amount.units();
        let caveat = self.contracts.only(terms.asset, terms.pay_to, amount);
        let delegation = root(terms.redeemers[0], self.key.address(), vec![caveat]);
        let delegation = self.contracts.sign(&self.key, delegation);
        Ok(GrantedDelegation {
            manager: self.contracts.manager,
            context: vec![delegation].abi_encode().into(),
        })
    }
}
