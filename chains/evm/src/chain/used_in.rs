//! The authorizations that a transaction of ours has used, by its calls and its logs.
//!
//! A journal that was lost knew them. Only what both the call and the log show is taken: a call in
//! a batch may have reverted, and a log alone does not name a permit.

use alloy::primitives::{Address, B256, Log, U256};
use alloy::sol_types::{SolCall, SolEvent};
use quittance_books::UsedAuthorization;
use quittance_core::{Amount, PaymentId};

use super::batch;
use crate::abi::{
    DelegationManager, Eip3009, Erc20, ExactPermit2Proxy, PermitTransferFrom, UptoPermit2Proxy,
};
use crate::eip3009::Authorization;
use crate::erc7710::PermissionContext;
use crate::permit2::{EXACT_PERMIT2_PROXY, UPTO_PERMIT2_PROXY, permit_id};

/// A transaction that succeeded.
pub(super) struct SentCalls<'a> {
    pub(super) chain_id: u64,
    /// `None` for init code.
    pub(super) to: Option<Address>,
    pub(super) input: &'a [u8],
    pub(super) logs: &'a [Log],
}

/// A payment, as a call or a log names it.
struct Named {
    id: PaymentId,
    scheme: &'static str,
    token: Address,
    from: Address,
    to: Address,
    /// `None` if only the transfer shows it.
    amount: Option<U256>,
}

impl SentCalls<'_> {
    /// Every authorization that was used, with its transfer.
    pub(super) fn used(&self) -> Vec<UsedAuthorization> {
        let mut transfers: Vec<(Address, Erc20::Transfer)> = self
            .logs
            .iter()
            .filter_map(|log| {
                let transfer = Erc20::Transfer::decode_log_data(&log.data).ok()?;
                Some((log.address, transfer))
            })
            .collect();
        let mut used = Vec::new();
        for named in self.named() {
            let is_its = |(token, transfer): &(Address, Erc20::Transfer)| {
                (*token, transfer.from, transfer.to) == (named.token, named.from, named.to)
                    && named.amount.is_none_or(|amount| amount == transfer.value)
            };
            let Some(at) = transfers.iter().position(is_its) else {
                continue;
            };
            let (_, transfer) = transfers.remove(at);
            used.push(UsedAuthorization {
                id: named.id,
                scheme: named.scheme,
                payer: named.from.to_checksum(None),
                pay_to: named.to.to_checksum(None),
                asset: named.token.to_checksum(None),
                amount: Amount::new(transfer.value),
            });
        }
        used
    }

    /// The payments that the calls name, and the authorizations that tokens logged as used.
    fn named(&self) -> Vec<Named> {
        let calls = match self.to {
            Some(to) => vec![(to, self.input)],
            None => batch::calls_of(self.input).unwrap_or_default(),
        };
        let by_calls = calls
            .into_iter()
            .filter_map(|(to, data)| self.called(to, data));
        let mut named: Vec<Named> = by_calls.collect();
        for (at, log) in self.logs.iter().enumerate() {
            let Ok(used) = Eip3009::AuthorizationUsed::decode_log_data(&log.data) else {
                continue;
            };
            let id =
                authorization(used.authorizer, used.nonce).payment_id(self.chain_id, log.address);
            if named.iter().any(|known| known.id == id) {
                continue;
            }
            // Another contract passed it on. Its transfer is the payer's next one in the token.
            let mut after = self.logs[at..]
                .iter()
                .filter(|after| after.address == log.address);
            let to = after.find_map(|after| {
                let transfer = Erc20::Transfer::decode_log_data(&after.data).ok()?;
                (transfer.from == used.authorizer).then_some(transfer.to)
            });
            named.extend(to.map(|to| Named {
                id,
                scheme: "exact",
                token: log.address,
                from: used.authorizer,
                to,
                amount: None,
            }));
        }
        named
    }

    /// The payment that a call names.
    fn called(&self, target: Address, data: &[u8]) -> Option<Named> {
        match () {
            () if target == EXACT_PERMIT2_PROXY => self.exact_permit(data),
            () if target == UPTO_PERMIT2_PROXY => self.upto_permit(data),
            () => self
                .transfer(target, data)
                .or_else(|| self.delegated(target, data)),
        }
    }

    fn transfer(&self, token: Address, data: &[u8]) -> Option<Named> {
        let with_key = Eip3009::transferWithAuthorization_0Call::abi_decode(data);
        let with_key = with_key.map(|call| (call.from, call.to, call.value, call.nonce));
        let (from, to, amount, nonce) = with_key
            .or_else(|_| {
                let by_contract = Eip3009::transferWithAuthorization_1Call::abi_decode(data);
                by_contract.map(|call| (call.from, call.to, call.value, call.nonce))
            })
            .ok()?;
        Some(Named {
            id: authorization(from, nonce).payment_id(self.chain_id, token),
            scheme: "exact",
            token,
            from,
            to,
            amount: Some(amount),
        })
    }

    /// A transfer by a delegation (ERC-7710): the manager is called with one context and one
    /// execution, which is the token, no value and the call data, packed (ERC-7579).
    fn delegated(&self, manager: Address, data: &[u8]) -> Option<Named> {
        let call = DelegationManager::redeemDelegationsCall::abi_decode(data).ok()?;
        let ([context], [execution]) = (&*call.permissionContexts, &*call.executionCallDatas)
        else {
            return None;
        };
        let context = PermissionContext::decode(context).ok()?;
        let (token, execution) = execution.split_first_chunk::<20>()?;
        let (_, transfer) = execution.split_first_chunk::<32>()?;
        let transfer = Erc20::transferCall::abi_decode(transfer).ok()?;
        Some(Named {
            id: context.payment_id(self.chain_id, manager),
            scheme: "exact",
            token: Address::from(*token),
            from: context.delegator(),
            to: transfer.to,
            amount: Some(transfer.value),
        })
    }

    fn exact_permit(&self, data: &[u8]) -> Option<Named> {
        let plain = ExactPermit2Proxy::settleCall::abi_decode(data);
        let plain = plain.map(|call| (call.permit, call.owner, call.witness.to));
        let (permit, owner, to) = plain
            .or_else(|_| {
                let call = ExactPermit2Proxy::settleWithPermitCall::abi_decode(data);
                call.map(|call| (call.permit, call.owner, call.witness.to))
            })
            .ok()?;
        let amount = permit.permitted.amount;
        Some(self.permitted("exact", &permit, owner, to, amount))
    }

    fn upto_permit(&self, data: &[u8]) -> Option<Named> {
        let plain = UptoPermit2Proxy::settleCall::abi_decode(data);
        let plain = plain.map(|call| (call.permit, call.amount, call.owner, call.witness.to));
        let (permit, amount, owner, to) = plain
            .or_else(|_| {
                let call = UptoPermit2Proxy::settleWithPermitCall::abi_decode(data);
                call.map(|call| (call.permit, call.amount, call.owner, call.witness.to))
            })
            .ok()?;
        Some(self.permitted("upto", &permit, owner, to, amount))
    }

    fn permitted(
        &self,
        scheme: &'static str,
        permit: &PermitTransferFrom,
        owner: Address,
        to: Address,
        amount: U256,
    ) -> Named {
        Named {
            id: permit_id(self.chain_id, owner, permit.nonce),
            scheme,
            token: permit.permitted.token,
            from: owner,
            to,
            amount: Some(amount),
        }
    }
}

/// An authorization of which only the identity is needed.
fn authorization(from: Address, nonce: B256) -> Authorization {
    Authorization {
        from,
        to: Address::ZERO,
        value: U256::ZERO,
        valid_after: U256::ZERO,
        valid_before: U256::ZERO,
        nonce,
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Bytes, address};
    use alloy::sol_types::SolValue;
    use proptest::prelude::*;

    use super::*;
    use crate::abi::{Delegation, TokenPermissions};
    use crate::call::Call;
    use crate::erc7710::transfer_execution;
    use crate::signature::EcdsaSignature;

    const CHAIN: u64 = 8453;
    const TOKEN: Address = address!("036CbD53842c5426634e7929541eC2318f3dCF7e");

    fn logged(from: Address, to: Address, value: U256) -> Log {
        let transfer = Erc20::Transfer { from, to, value };
        Log {
            address: TOKEN,
            data: transfer.encode_log_data(),
        }
    }

    fn used(to: Option<Address>, input: &[u8], logs: &[Log]) -> Vec<UsedAuthorization> {
        let sent = SentCalls {
            chain_id: CHAIN,
            to,
            input,
            logs,
        };
        sent.used()
    }

    fn payment(from: u8, nonce: u8) -> Authorization {
        Authorization {
            value: U256::from(nonce),
            to: Address::repeat_byte(9),
            ..authorization(Address::repeat_byte(from), B256::repeat_byte(nonce))
        }
    }

    fn signature() -> EcdsaSignature {
        EcdsaSignature([1; 65])
    }

    proptest! {
        /// Of the calls in a batch, those count whose transfer was logged.
        #[test]
        fn used_authorizations_of_a_batch_are_found(moved in prop::collection::vec(any::<bool>(), 1..9)) {
            let payments: Vec<Authorization> =
                (1..).zip(&moved).map(|(nonce, _)| payment(nonce, nonce)).collect();
            let calls: Vec<Call> = payments.iter()
                .map(|payment| {
                    let data = payment.transfer_with_key(&signature());
                    Call::new(TOKEN, data, 50_000, B256::ZERO)
                })
                .collect();
            let code = batch::program(&calls.iter().collect::<Vec<_>>());
            let moved: Vec<&Authorization> =
                payments.iter().zip(moved).filter_map(|(it, moved)| moved.then_some(it)).collect();
            let logs: Vec<Log> =
                moved.iter().map(|it| logged(it.from, it.to, it.value)).collect();
            let found: Vec<PaymentId> = used(None, &code, &logs).iter().map(|it| it.id).collect();
            let expected: Vec<PaymentId> =
                moved.iter().map(|it| it.payment_id(CHAIN, TOKEN)).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn no_input_panics(input: Vec<u8>, is_code: bool) {
            let to = (!is_code).then_some(TOKEN);
            prop_assert_eq!(used(to, &input, &[]), []);
        }
    }

    /// A contract in between, such as a collector, passes the authorization on.
    #[test]
    fn authorization_behind_a_contract_is_found_by_its_log() {
        let payment = payment(1, 2);
        let log = Eip3009::AuthorizationUsed {
            authorizer: payment.from,
            nonce: payment.nonce,
        };
        let log = Log {
            address: TOKEN,
            data: log.encode_log_data(),
        };
        let logs = [log, logged(payment.from, payment.to, U256::from(5))];
        let found = used(Some(Address::repeat_byte(7)), &[1, 2, 3, 4], &logs);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].id, payment.payment_id(CHAIN, TOKEN));
        assert_eq!(found[0].amount, Amount::from(5));
    }

    #[test]
    fn permits_of_both_proxies_are_found() {
        let (owner, to, nonce) = (
            Address::repeat_byte(1),
            Address::repeat_byte(2),
            U256::from(3),
        );
        let permit = PermitTransferFrom {
            permitted: TokenPermissions {
                token: TOKEN,
                amount: U256::from(9),
            },
            nonce,
            deadline: U256::MAX,
        };
        let exact = ExactPermit2Proxy::settleCall {
            permit: permit.clone(),
            owner,
            witness: ExactPermit2Proxy::Witness {
                to,
                validAfter: U256::ZERO,
            },
            signature: Bytes::new(),
        };
        let upto = UptoPermit2Proxy::settleCall {
            permit,
            amount: U256::from(4),
            owner,
            witness: UptoPermit2Proxy::Witness {
                to,
                facilitator: owner,
                validAfter: U256::ZERO,
            },
            signature: Bytes::new(),
        };
        for (proxy, data, amount, scheme) in [
            (EXACT_PERMIT2_PROXY, exact.abi_encode(), 9_u64, "exact"),
            (UPTO_PERMIT2_PROXY, upto.abi_encode(), 4, "upto"),
        ] {
            let logs = [logged(owner, to, U256::from(amount))];
            let found = used(Some(proxy), &data, &logs);
            assert_eq!(found.len(), 1, "{scheme}");
            assert_eq!(found[0].id, permit_id(CHAIN, owner, nonce));
            assert_eq!(
                (found[0].scheme, found[0].amount),
                (scheme, Amount::from(amount))
            );
        }
    }

    /// Only its row in the journal refuses a second payment by such a delegation.
    #[test]
    fn delegation_is_found() {
        let (delegator, to) = (Address::repeat_byte(1), Address::repeat_byte(2));
        let chain = vec![Delegation {
            delegate: Address::repeat_byte(3),
            delegator,
            authority: B256::repeat_byte(0xff),
            caveats: Vec::new(),
            salt: U256::ZERO,
            signature: Bytes::new(),
        }];
        let context = PermissionContext::decode(&chain.abi_encode()).expect("one delegation");
        let manager = Address::repeat_byte(8);
        let data = context.redeem(transfer_execution(TOKEN, to, U256::from(5)));
        let found = used(
            Some(manager),
            &data,
            &[logged(delegator, to, U256::from(5))],
        );
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].id, context.payment_id(CHAIN, manager));
    }
}
