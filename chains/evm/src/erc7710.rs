//! ERC-7710: calls from an account that its owner has delegated, in the format of the [Delegation
//! Framework](https://github.com/MetaMask/delegation-framework).
//!
//! ERC-7710 leaves the format of a permission context to the delegation manager. In that framework
//! it is a chain of signed delegations, from the leaf to the root. The leaf names the account that
//! may redeem, and the root is from the account that makes the call.

use alloy::primitives::{Address, B256, Bytes, U256, address, b256, keccak256};
use alloy::sol_types::abi::AbiDecoderConfig;
use alloy::sol_types::{SolCall, SolValue};
use quittance_core::PaymentId;

use crate::abi::{Caveat, Delegation, DelegationManager, Erc20};

/// The delegate of an open delegation, which every account may redeem.
pub const ANY_DELEGATE: Address = address!("0000000000000000000000000000000000000a11");

/// The authority of a root: the delegator itself.
pub const ROOT_AUTHORITY: B256 = B256::repeat_byte(0xff);

/// The longest permission context that is read, in bytes. A request has at most 8 KiB, and
/// hexadecimal digits take twice as much.
pub const CONTEXT_MAX: usize = 4 * 1024;

/// The hash of `Delegation(address delegate,address delegator,bytes32 authority,Caveat[] caveats,
/// uint256 salt)Caveat(address enforcer,bytes terms)`.
const DELEGATION_TYPE_HASH: B256 =
    b256!("88c1d2ecf185adf710588203a5f263f0ff61be0d33da39792cde19ba9aa4331e");

/// The hash of `Caveat(address enforcer,bytes terms)`.
const CAVEAT_TYPE_HASH: B256 =
    b256!("80ad7e1b04ee6d994a125f4714ca0720908bd80ed16063ec8aee4b88e9253e2d");

/// The mode of ERC-7579 for one call, which reverts if the call does.
const SINGLE_CALL: B256 = B256::ZERO;

/// A chain of delegations that may be redeemed as a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PermissionContext {
    bytes: Bytes,
    /// The account that may redeem it; `None` if every account may.
    redeemer: Option<Address>,
    /// The account that makes the call.
    delegator: Address,
    leaf_hash: B256,
}

/// Why a permission context is not one of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// The bytes are not the canonical ABI encoding of a list of delegations. A manager may accept
    /// other encodings. Then one chain would have many spellings.
    #[error("it is not the canonical ABI encoding of Delegation[]")]
    Encoding,
    /// There is no delegation. Managers then make the call from the redeemer's own account.
    #[error("it has no delegation")]
    Empty,
    /// An open delegation is redelegated. Every account can do that, so the leaf would say nothing
    /// about the payer.
    #[error("a delegation to every account is redelegated: only the last one may be open")]
    Redelegated,
}

impl PermissionContext {
    /// Decodes a permission context. The manager checks its signatures and caveats.
    ///
    /// # Errors
    /// If it is not a chain that can identify a payment.
    pub fn decode(bytes: &[u8]) -> Result<Self, ContextError> {
        let config = AbiDecoderConfig::new().strict(true);
        let chain = Vec::<Delegation>::abi_decode_with_config(bytes, config);
        let chain = chain.map_err(|_| ContextError::Encoding)?;
        let (Some((leaf, above)), Some(root)) = (chain.split_first(), chain.last()) else {
            return Err(ContextError::Empty);
        };
        if above.iter().any(|link| link.delegate == ANY_DELEGATE) {
            return Err(ContextError::Redelegated);
        }
        Ok(Self {
            bytes: Bytes::copy_from_slice(bytes),
            redeemer: (leaf.delegate != ANY_DELEGATE).then_some(leaf.delegate),
            delegator: root.delegator,
            leaf_hash: delegation_hash(leaf),
        })
    }

    /// The account that may redeem it; `None` if every account may.
    pub fn redeemer(&self) -> Option<Address> {
        self.redeemer
    }

    /// The account that makes the call.
    pub fn delegator(&self) -> Address {
        self.delegator
    }

    /// The hash of the leaf. It has no signature and no `args` in it, which others could change. It
    /// has the hashes of all delegations above it.
    pub fn leaf_hash(&self) -> B256 {
        self.leaf_hash
    }

    /// The identity of a payment by this context: that of the leaf. A seller that holds a context
    /// can present it for any amount and recipient, so a leaf pays once, whatever its caveats
    /// allow.
    pub fn payment_id(&self, chain_id: u64, manager: Address) -> PaymentId {
        PaymentId::from_parts(&[
            b"erc7710",
            &chain_id.to_be_bytes(),
            manager.as_slice(),
            self.leaf_hash.as_slice(),
        ])
    }

    /// The call data with which the manager makes one call from the delegator.
    pub fn redeem(&self, execution: Bytes) -> Bytes {
        let call = DelegationManager::redeemDelegationsCall {
            permissionContexts: vec![self.bytes.clone()],
            modes: vec![SINGLE_CALL],
            executionCallDatas: vec![execution],
        };
        call.abi_encode().into()
    }
}

/// A transfer of tokens as an execution of ERC-7579: the token, no value, and the call data, packed
/// and not ABI-encoded.
pub fn transfer_execution(token: Address, to: Address, value: U256) -> Bytes {
    let transfer = Bytes::from(Erc20::transferCall { to, value }.abi_encode());
    (token, U256::ZERO, transfer).abi_encode_packed().into()
}

/// The EIP-712 hash of a delegation, as its manager computes it.
pub fn delegation_hash(delegation: &Delegation) -> B256 {
    let caveats = delegation
        .caveats
        .iter()
        .flat_map(|caveat| caveat_hash(caveat).0);
    let caveats = keccak256(caveats.collect::<Vec<u8>>());
    let fields = (
        DELEGATION_TYPE_HASH,
        delegation.delegate,
        delegation.delegator,
        delegation.authority,
        caveats,
        delegation.salt,
    );
    keccak256(fields.abi_encode())
}

fn caveat_hash(caveat: &Caveat) -> B256 {
    let terms = keccak256(&caveat.terms);
    keccak256((CAVEAT_TYPE_HASH, caveat.enforcer, terms).abi_encode())
}

#[cfg(test)]
mod tests {
    use alloy::sol;
    use alloy::sol_types::SolStruct;
    use proptest::prelude::*;

    use super::*;

    /// The messages that are signed, in the words of EIP-712.
    mod signed {
        alloy::sol! {
            struct Caveat { address enforcer; bytes terms; }
            struct Delegation {
                address delegate; address delegator; bytes32 authority; Caveat[] caveats;
                uint256 salt;
            }
        }
    }

    prop_compose! {
        fn any_caveat()(enforcer: [u8; 20], terms: Vec<u8>, args: Vec<u8>) -> Caveat {
            Caveat { enforcer: enforcer.into(), terms: terms.into(), args: args.into() }
        }
    }

    prop_compose! {
        fn any_delegation()(
            accounts: [[u8; 20]; 2], authority: [u8; 32], salt: [u64; 4], signature: Vec<u8>,
            caveats in prop::collection::vec(any_caveat(), 0..3),
        ) -> Delegation {
            let [delegate, delegator] = accounts.map(Address::from);
            Delegation {
                delegate, delegator, authority: authority.into(), caveats,
                salt: U256::from_limbs(salt), signature: signature.into(),
            }
        }
    }

    fn any_chain() -> impl Strategy<Value = Vec<Delegation>> {
        prop::collection::vec(any_delegation(), 1..4)
    }

    proptest! {
        #[test]
        fn hash_equals_that_of_an_independent_implementation(delegation in any_delegation()) {
            let caveats = delegation.caveats.iter().map(|caveat| signed::Caveat {
                enforcer: caveat.enforcer,
                terms: caveat.terms.clone(),
            });
            let other = signed::Delegation {
                delegate: delegation.delegate,
                delegator: delegation.delegator,
                authority: delegation.authority,
                caveats: caveats.collect(),
                salt: delegation.salt,
            };
            prop_assert_eq!(delegation_hash(&delegation), other.eip712_hash_struct());
        }

        #[test]
        fn context_has_the_accounts_of_its_two_ends(chain in any_chain()) {
            let context = PermissionContext::decode(&chain.abi_encode()).unwrap();
            let (leaf, root) = (&chain[0], &chain[chain.len() - 1]);
            prop_assert_eq!(context.redeemer(), Some(leaf.delegate));
            prop_assert_eq!(context.delegator(), root.delegator);
            prop_assert_eq!(context.leaf_hash(), delegation_hash(leaf));
        }

        /// Otherwise a seller could present one delegation in many spellings.
        #[test]
        fn chain_has_one_encoding(chain in any_chain(), at: prop::sample::Index, bit in 0..8, end: Vec<u8>) {
            let good = chain.abi_encode();
            let mut changed = good.clone();
            changed[at.index(good.len())] ^= 1_u8 << bit;
            for bytes in [changed, [good.clone(), end].concat()] {
                if PermissionContext::decode(&bytes).is_ok() {
                    let chain = Vec::<Delegation>::abi_decode(&bytes).unwrap();
                    prop_assert_eq!(chain.abi_encode(), bytes);
                }
            }
        }

        #[test]
        fn identity_has_no_signature_and_no_args(chain in any_chain(), other: Vec<u8>) {
            let id = |chain: &Vec<Delegation>| {
                let context = PermissionContext::decode(&chain.abi_encode()).unwrap();
                context.payment_id(1, Address::ZERO)
            };
            let mut changed = chain.clone();
            for link in &mut changed {
                link.signature = other.clone().into();
                link.caveats.iter_mut().for_each(|caveat| caveat.args = other.clone().into());
            }
            prop_assert_eq!(id(&changed), id(&chain));
            changed[0].salt = !changed[0].salt;
            prop_assert_ne!(id(&changed), id(&chain));
        }

        #[test]
        fn no_context_panics(bytes: Vec<u8>) {
            let _ = PermissionContext::decode(&bytes);
        }
    }

    fn link(delegate: Address, delegator: Address) -> Delegation {
        Delegation {
            delegate,
            delegator,
            authority: ROOT_AUTHORITY,
            caveats: vec![],
            salt: U256::ZERO,
            signature: Bytes::new(),
        }
    }

    /// A manager makes the call of an empty chain from the account of the redeemer: ours.
    #[test]
    fn chain_without_a_delegation_is_refused() {
        let empty = Vec::<Delegation>::new().abi_encode();
        let refused = PermissionContext::decode(&empty);
        assert_eq!(refused, Err(ContextError::Empty));
        let refused = PermissionContext::decode(&[]);
        assert_eq!(refused, Err(ContextError::Encoding));
    }

    /// Every account can redelegate an open delegation, and so change the leaf's hash.
    #[test]
    fn only_the_leaf_may_be_open() {
        let [one, two, three] = [1, 2, 3].map(Address::repeat_byte);
        let decoded = |chain: Vec<Delegation>| PermissionContext::decode(&chain.abi_encode());
        let open = decoded(vec![link(ANY_DELEGATE, one)]).unwrap();
        assert_eq!((open.redeemer(), open.delegator()), (None, one));
        assert!(decoded(vec![link(ANY_DELEGATE, two), link(two, one)]).is_ok());
        for leaf in [three, ANY_DELEGATE] {
            let wrapped = vec![link(leaf, two), link(ANY_DELEGATE, one)];
            assert_eq!(decoded(wrapped), Err(ContextError::Redelegated));
        }
    }

    sol! {
        function redeemDelegations(bytes[] contexts, bytes32[] modes, bytes[] executions) external;
    }

    #[test]
    fn call_of_the_manager_is_that_of_the_standard() {
        let selector = DelegationManager::redeemDelegationsCall::SELECTOR;
        assert_eq!(selector, [0xce, 0xf6, 0xd2, 0x09]);
        let [token, to] = [5, 6].map(Address::repeat_byte);
        let execution = transfer_execution(token, to, U256::from(7));
        // Packed: target (20), value (32), call data (4 + 2 * 32).
        assert_eq!(execution.len(), 20 + 32 + 68);
        assert_eq!(&execution[..20], token.as_slice());
        assert_eq!(execution[20..52], [0; 32]);
        assert_eq!(execution[52..56], [0xa9, 0x05, 0x9c, 0xbb]);
        let chain = vec![link(token, to)].abi_encode();
        let context = PermissionContext::decode(&chain).unwrap();
        let call = redeemDelegationsCall::abi_decode(&context.redeem(execution.clone())).unwrap();
        assert_eq!(call.contexts, [Bytes::from(chain)]);
        assert_eq!(call.modes, [B256::ZERO]);
        assert_eq!(call.executions, [execution]);
    }
}
