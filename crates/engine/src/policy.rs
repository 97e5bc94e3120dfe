//! What the operator allows, beyond what the protocol does.

use std::collections::{BTreeMap, BTreeSet};

use quittance_core::{Amount, Network, PaymentInfo, Reason, Rejection};

/// Says which payments the operator settles. Asked after a payment was decoded and before anything costs a round trip,
/// at /verify and again at /settle.
///
/// Pure and fast: it stands in the way of every payment.
pub trait Policy: Send + Sync + 'static {
    /// Whether this payment may be settled.
    ///
    /// # Errors
    /// The verdict against it.
    fn allows(&self, network: &Network, info: &PaymentInfo) -> Result<(), Rejection>;
}

/// What the engine refuses, whatever a scheme or an operator says: a payment that moves nothing, and one that moves money
/// from an account to itself. Either would cost the operator a fee and pay no seller.
///
/// # Errors
/// The verdict against it.
pub(crate) fn check_facts(info: &PaymentInfo) -> Result<(), Rejection> {
    if info.amount.is_zero() {
        let detail = "the amount is zero";
        return Err(Rejection::new(Reason::AMOUNT_TOO_LOW, detail));
    }
    if info.payer == info.pay_to {
        let detail = "the payer pays itself";
        return Err(Rejection::new(Reason::INVALID_PAYMENT_REQUIREMENTS, detail));
    }
    Ok(())
}

/// Everything that is valid may be settled.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllowAll;

impl Policy for AllowAll {
    fn allows(&self, _: &Network, _: &PaymentInfo) -> Result<(), Rejection> {
        Ok(())
    }
}

/// Lists of what may be settled. What is not listed is not restricted.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The recipients for whom payments are settled, by the network's CAIP-2 identifier, as the chain spells them.
    pub recipients: BTreeMap<String, BTreeSet<String>>,
    /// The smallest amount that is settled, by network and asset, as the chain spells it.
    pub amounts_min: BTreeMap<(String, String), Amount>,
}

impl Policy for Rules {
    fn allows(&self, network: &Network, info: &PaymentInfo) -> Result<(), Rejection> {
        if let Some(recipients) = self.recipients.get(network.id())
            && !recipients.contains(&info.pay_to)
        {
            return Err(Rejection::new(
                Reason::RECIPIENT_NOT_ALLOWED,
                "this facilitator does not settle for payTo",
            ));
        }
        let key = (network.id().to_owned(), info.asset.clone());
        match self.amounts_min.get(&key) {
            Some(least) if info.amount < *least => Err(Rejection::new(
                Reason::AMOUNT_TOO_LOW,
                format_args!("the minimum amount is {least}"),
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quittance_core::{PaymentId, Timestamp};

    #[test]
    fn only_listed_recipients_and_sufficient_amounts_are_allowed() {
        let network = Network::new("test:1").unwrap();
        let info = |pay_to: &str, amount: u64| PaymentInfo {
            id: PaymentId::from_parts(&[]),
            payer: "payer".to_owned(),
            pay_to: pay_to.to_owned(),
            asset: "coin".to_owned(),
            amount: Amount::from(amount),
            expires: Timestamp::default(),
        };
        let rules = Rules {
            recipients: [("test:1".to_owned(), ["seller".to_owned()].into())].into(),
            amounts_min: [(("test:1".to_owned(), "coin".to_owned()), Amount::from(10))].into(),
        };
        let verdict = |info: &PaymentInfo| {
            rules
                .allows(&network, info)
                .map_err(|rejection| rejection.reason)
        };
        assert_eq!(verdict(&info("seller", 10)), Ok(()));
        assert_eq!(verdict(&info("seller", 9)), Err(Reason::AMOUNT_TOO_LOW));
        assert_eq!(
            verdict(&info("stranger", 10)),
            Err(Reason::RECIPIENT_NOT_ALLOWED)
        );
        assert_eq!(
            Rules::default().allows(&network, &info("stranger", 1)),
            Ok(())
        );
    }
}
