//! Claims of rules that were added to the engine, beside those that it knows.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use quittance_core::{Fault, FaultKind, SignatureClaim, SignatureRule};
use tracing::error;

/// The added rules, by name.
#[derive(Clone, Default)]
pub(crate) struct Rules(BTreeMap<String, Arc<dyn SignatureRule>>);

impl Rules {
    /// Rules with different names.
    ///
    /// # Errors
    /// When two have the same name.
    pub(crate) fn new(all: Vec<Arc<dyn SignatureRule>>) -> Result<Self, Fault> {
        let mut rules = Self::default();
        for rule in all {
            let name = rule.name().to_owned();
            if rules.0.insert(name.clone(), rule).is_some() {
                let what = format_args!("the signature rule {name:?} was added twice: remove one");
                return Err(Fault::new(FaultKind::Misconfigured, what));
            }
        }
        Ok(rules)
    }

    /// Checks that these claims can be verified.
    ///
    /// # Errors
    /// When a claim has a rule that was not added.
    pub(crate) fn check(&self, claims: &[SignatureClaim]) -> Result<(), Fault> {
        let mut rules = claims.iter().filter_map(SignatureClaim::rule);
        match rules.find(|rule| !self.0.contains_key(*rule)) {
            None => Ok(()),
            Some(rule) => {
                let what = format_args!(
                    "a signature needs the rule {rule:?}: add it to the engine's builder"
                );
                Err(Fault::new(FaultKind::Misconfigured, what))
            }
        }
    }

    /// The verdict on each claim, in their order. `known` verifies those that need no rule. A rule
    /// that fails leaves its own claims without a verdict, and no others.
    pub(crate) fn verify(
        &self,
        claims: &[&SignatureClaim],
        known: impl Fn(&[&SignatureClaim]) -> Vec<bool>,
    ) -> Vec<Option<bool>> {
        let mut verdicts = vec![None; claims.len()];
        let mut by_rule: BTreeMap<Option<&str>, Vec<usize>> = BTreeMap::new();
        for (at, claim) in claims.iter().enumerate() {
            by_rule.entry(claim.rule()).or_default().push(at);
        }
        for (rule, places) in by_rule {
            let own: Vec<&SignatureClaim> = places.iter().map(|at| claims[*at]).collect();
            let verify = || match rule {
                None => Some(known(&own)),
                Some(rule) => Some(self.0.get(rule)?.verify(&bytes(&own))),
            };
            match catch_unwind(AssertUnwindSafe(verify)) {
                Ok(Some(found)) if found.len() == places.len() => {
                    for (at, verdict) in places.into_iter().zip(found) {
                        verdicts[at] = Some(verdict);
                    }
                }
                Ok(_) => error!(rule, "a signature verifier gave no verdict for each claim"),
                Err(_) => error!(rule, "a signature verifier panicked"),
            }
        }
        verdicts
    }
}

/// The claims of a rule, in its own encoding.
fn bytes<'a>(claims: &[&'a SignatureClaim]) -> Vec<&'a [u8]> {
    claims
        .iter()
        .filter_map(|claim| match claim {
            SignatureClaim::Other { claim, .. } => Some(&**claim),
            _ => None,
        })
        .collect()
}

/// The fault of a payment whose signatures have no verdict.
pub(crate) fn no_verdict() -> Fault {
    Fault::new(FaultKind::Internal, "a signature could not be checked")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Its claims are valid if their first byte is even. It fails on the byte 13 and on the byte
    /// 14.
    struct Even(&'static str);

    impl SignatureRule for Even {
        fn name(&self) -> &str {
            self.0
        }

        fn verify(&self, claims: &[&[u8]]) -> Vec<bool> {
            assert!(!claims.contains(&&[13][..]), "planted");
            let is_even = |claim: &&[u8]| claim[0].is_multiple_of(2);
            let all = claims.iter().map(is_even);
            all.skip(claims.contains(&&[14][..]).into()).collect()
        }
    }

    fn other(rule: &str, byte: u8) -> SignatureClaim {
        SignatureClaim::Other {
            rule: rule.into(),
            claim: [byte].into(),
        }
    }

    fn known(byte: u8) -> SignatureClaim {
        SignatureClaim::Secp256k1 {
            digest: [byte; 32],
            signature: [0; 65],
            address: [0; 20],
        }
    }

    fn verify_known(claims: &[&SignatureClaim]) -> Vec<bool> {
        claims
            .iter()
            .map(|claim| {
                matches!(claim, SignatureClaim::Secp256k1 { digest, .. } if digest[0] % 2 == 0)
            })
            .collect()
    }

    fn rules() -> Rules {
        Rules::new(vec![Arc::new(Even("a")), Arc::new(Even("b"))]).unwrap()
    }

    #[test]
    fn a_rule_that_is_missing_or_twice_is_a_fault() {
        let twice = Rules::new(vec![Arc::new(Even("a")), Arc::new(Even("a"))]);
        assert_eq!(twice.err().unwrap().kind, FaultKind::Misconfigured);
        let claims = [known(2), other("a", 2), other("c", 2)];
        let fault = rules().check(&claims).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Misconfigured);
        assert!(fault.detail.contains("\"c\""), "{fault}");
        assert!(rules().check(&claims[..2]).is_ok());
        let claims: Vec<_> = claims.iter().collect();
        let verdicts = rules().verify(&claims, verify_known);
        assert_eq!(verdicts, [Some(true), Some(true), None]);
    }

    #[test]
    fn a_rule_that_fails_spoils_only_its_own_claims() {
        for bad in [13, 14] {
            let claims = [other("a", bad), known(2), other("b", 3), other("a", 2)];
            let claims: Vec<_> = claims.iter().collect();
            let verdicts = rules().verify(&claims, verify_known);
            assert_eq!(verdicts, [None, Some(true), Some(false), None], "{bad}");
        }
    }

    proptest! {
        #[test]
        fn each_claim_gets_its_own_verdict(claims in prop::collection::vec((0_u8..3, 20_u8..40), 0..50)) {
            let all: Vec<SignatureClaim> = claims
                .iter()
                .map(|(kind, byte)| match kind {
                    0 => known(*byte),
                    1 => other("a", *byte),
                    _ => other("b", *byte),
                })
                .collect();
            let expected: Vec<_> = claims.iter().map(|(_, byte)| Some(byte % 2 == 0)).collect();
            let all: Vec<_> = all.iter().collect();
            prop_assert_eq!(rules().verify(&all, verify_known), expected);
        }
    }
}
