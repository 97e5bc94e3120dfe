//! The fields that every scheme reads from a request before its own payload.

use serde::de::DeserializeOwned;

use crate::{Malformed, Network, PaymentRequest, Reason, Refusal, Rejection};

/// The asset and the recipient of a request, as addresses of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parties<A> {
    /// The asset that is paid in.
    pub asset: A,
    /// The recipient.
    pub pay_to: A,
}

impl PaymentRequest {
    /// Checks that the client chose the scheme with this name.
    ///
    /// # Errors
    /// A rejection with `reason` otherwise.
    pub fn check_scheme(&self, name: &str, reason: Reason) -> Result<(), Rejection> {
        if self.accepted.scheme == name {
            return Ok(());
        }
        let detail = format_args!("the scheme of the payment is not {name}");
        Err(Rejection::new(reason, detail))
    }

    /// Checks that the client chose this network, under any of its names.
    ///
    /// # Errors
    /// A rejection with `reason` otherwise.
    pub fn check_network(&self, network: &Network, reason: Reason) -> Result<(), Rejection> {
        if network.is(&self.accepted.network) {
            return Ok(());
        }
        let detail = format_args!("the network of the payment is not {network}");
        Err(Rejection::new(reason, detail))
    }

    /// The `extra` of the requirements, as a type of the scheme. If `extra` is absent, the type's
    /// default.
    ///
    /// # Errors
    /// When a field of `extra` cannot be read. The error names the field.
    pub fn extra<E: DeserializeOwned + Default>(&self) -> Result<E, Malformed> {
        match &self.requirements.extra {
            Some(extra) => extra.read("paymentRequirements.extra"),
            None => Ok(E::default()),
        }
    }

    /// The asset and the recipient, if the client accepted the same ones and the same amount.
    ///
    /// `address` parses an address of the chain. Its first argument is the field's name, for its
    /// error.
    ///
    /// # Errors
    /// The error of `address`, and [`Reason::INVALID_PAYMENT_REQUIREMENTS`] if the accepted
    /// requirements differ.
    pub fn parties<A: PartialEq>(
        &self,
        address: impl Fn(&str, &str) -> Result<A, Malformed>,
    ) -> Result<Parties<A>, Refusal> {
        let required = &self.requirements;
        let asset = address("paymentRequirements.asset", &required.asset)?;
        let pay_to = address("paymentRequirements.payTo", &required.pay_to)?;
        if let Some(accepted) = &self.accepted.requirements {
            accepted.check(address, &asset, &pay_to, required.amount)?;
        }
        Ok(Parties { asset, pay_to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const REASON: Reason = Reason::new("wrong");

    fn request(change: impl Fn(&mut serde_json::Value)) -> PaymentRequest {
        let terms = json!({
            "scheme": "exact", "network": "test:1", "amount": "5", "asset": "coin", "payTo": "shop",
            "maxTimeoutSeconds": 60,
        });
        let mut body = json!({
            "x402Version": 2,
            "paymentPayload": { "x402Version": 2, "accepted": terms, "payload": {} },
            "paymentRequirements": terms,
        });
        change(&mut body);
        PaymentRequest::decode(body.to_string().as_bytes()).unwrap()
    }

    fn text(field: &str, text: &str) -> Result<String, Malformed> {
        match text {
            "" => Err(Malformed::new(field, "empty")),
            text => Ok(text.to_lowercase()),
        }
    }

    #[test]
    fn equal_terms_give_their_parties() {
        let parties = request(|_| ()).parties(text).unwrap();
        assert_eq!(
            (parties.asset.as_str(), parties.pay_to.as_str()),
            ("coin", "shop")
        );
    }

    #[test]
    fn another_spelling_is_the_same_address() {
        let spelled = request(|body| body["paymentPayload"]["accepted"]["payTo"] = json!("SHOP"));
        assert!(spelled.parties(text).is_ok());
    }

    #[test]
    fn accepted_terms_that_differ_are_rejected() {
        for (field, value) in [("asset", "gold"), ("payTo", "thief"), ("amount", "4")] {
            let other = request(|body| body["paymentPayload"]["accepted"][field] = json!(value));
            let Err(Refusal::Rejected(rejection)) = other.parties(text) else {
                panic!("{field} differs")
            };
            assert_eq!(
                rejection.reason,
                Reason::INVALID_PAYMENT_REQUIREMENTS,
                "{field}"
            );
        }
    }

    #[test]
    fn an_unreadable_address_names_its_field() {
        let empty = request(|body| body["paymentRequirements"]["payTo"] = json!(""));
        let Err(Refusal::Malformed(malformed)) = empty.parties(text) else {
            panic!("an empty address")
        };
        assert_eq!(malformed.field, "paymentRequirements.payTo");
    }

    #[test]
    fn another_scheme_or_network_is_rejected_with_the_given_reason() {
        let network = Network::new("test:1").unwrap().with_alias("test");
        let good = request(|_| ());
        assert!(good.check_scheme("exact", REASON).is_ok());
        assert!(good.check_network(&network, REASON).is_ok());
        let scheme = request(|body| body["paymentPayload"]["accepted"]["scheme"] = json!("upto"));
        assert_eq!(
            scheme.check_scheme("exact", REASON).unwrap_err().reason,
            REASON
        );
        let alias = request(|body| body["paymentPayload"]["accepted"]["network"] = json!("test"));
        assert!(alias.check_network(&network, REASON).is_ok());
        let other = request(|body| body["paymentPayload"]["accepted"]["network"] = json!("test:2"));
        assert_eq!(
            other.check_network(&network, REASON).unwrap_err().reason,
            REASON
        );
    }
}
