//! Which payments the operator settles.

use std::collections::{BTreeMap, BTreeSet};

use quittance_core::{Amount, Network, PaymentInfo, Reason, Rejection};

/// Decides which payments the operator settles.
///
/// **The engine** calls it for every payment at /verify and again at /settle: after decoding, and
/// before the first round trip. It calls it from many tasks at once. If only the chain can name the
/// payer, it calls it again with that payer. The amount is what the payment moves
/// ([`Payment::moves`](quittance_core::Payment::moves)): with schemes that settle less than was
/// authorized, the maximum at /verify and the charge at /settle. A charge can be zero.
///
/// **An implementation must** be pure and fast, because every payment waits for it.
///
/// ```
/// use quittance_core::{Amount, Network, PaymentInfo, Reason, Rejection};
/// use quittance_engine::Policy;
///
/// /// Settles at most this amount.
/// struct AtMost(Amount);
///
/// impl Policy for AtMost {
///     fn allows(&self, _: &Network, info: &PaymentInfo) -> Result<(), Rejection> {
///         match info.amount <= self.0 {
///             true => Ok(()),
///             false => Err(Rejection::new(Reason::INVALID_PAYMENT_REQUIREMENTS, "too much")),
///         }
///     }
/// }
/// ```
pub trait Policy: Send + Sync + 'static {
    /// Whether this payment may be settled.
    ///
    /// # Errors
    /// The verdict against it.
    fn allows(&self, network: &Network, info: &PaymentInfo) -> Result<(), Rejection>;

    /// Whether this refund may be settled. Its payer is a seller and its recipient a buyer. The
    /// journal limits its amount.
    ///
    /// # Errors
    /// The verdict against it.
    fn allows_refund(&self, _network: &Network, _info: &PaymentInfo) -> Result<(), Rejection> {
        Ok(())
    }
}

/// Rejects a payment of zero, and one from an account to itself, whatever the scheme and the
/// operator say. Both would cost the operator a fee and pay no seller.
///
/// # Errors
/// The verdict against it.
pub(crate) fn check_info(info: &PaymentInfo) -> Result<(), Rejection> {
    if info.amount.is_zero() {
        let detail = "the amount is zero";
        return Err(Rejection::new(Reason::AMOUNT_TOO_LOW, detail));
    }
    if info.payer == info.pay_to {
        let detail = "the payer is the recipient";
        return Err(Rejection::new(Reason::INVALID_PAYMENT_REQUIREMENTS, detail));
    }
    Ok(())
}

/// Settles every valid payment.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllowAll;

impl Policy for AllowAll {
    fn allows(&self, _: &Network, _: &PaymentInfo) -> Result<(), Rejection> {
        Ok(())
    }
}

/// Lists of recipients and minimum amounts. Networks and assets without an entry are not
/// restricted.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Rules {
    /// The recipients whose payments are settled, as the chain spells them. The key is the
    /// network's CAIP-2 identifier.
    pub recipients: BTreeMap<String, BTreeSet<String>>,
    /// The smallest amount that is settled. The key is the network and the asset, as the chain
    /// spells it.
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
            // A charge of nothing costs the operator nothing.
            Some(least) if info.amount < *least && !info.amount.is_zero() => Err(Rejection::new(
                Reason::AMOUNT_TOO_LOW,
                format_args!("the minimum amount is {least}"),
            )),
            _ => Ok(()),
        }
    }

    /// A listed recipient may pay back any amount, to any buyer.
    fn allows_refund(&self, network: &Network, info: &PaymentInfo) -> Result<(), Rejection> {
        match self.recipients.get(network.id()) {
            Some(recipients) if !recipients.contains(&info.payer) => Err(Rejection::new(
                Reason::RECIPIENT_NOT_ALLOWED,
                "this facilitator does not settle for the seller that refunds",
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
        assert_eq!(verdict(&info("seller", 0)), Ok(()));
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
