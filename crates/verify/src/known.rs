//! Signatures of payers whose key is known. Each has its own equation.
//!
//! Ethereum's `v` says which of the two points with x = r is the signer's R. So a signature (r, s,
//! v) over a digest z by the key Q is valid exactly if
//!
//! ```text
//! u₁·G + u₂·Q = R,  where u₁ = z/s and u₂ = r/s modulo n,
//! ```
//!
//! and R is the point with x = r and the parity of v. Recovery checks the same: it computes R from
//! r and v and then Q' = (s·R − z·G)/r, and Q' = Q is that equation solved for Q. Here the left
//! side is computed and compared with r and v. So no square root is needed for R, and an r that is
//! not the x of a point fails the comparison.
//!
//! Both u are split in halves and looked up in the tables of G and Q ([`Table`]). So the left side
//! is a sum of a few dozen table points. Signatures share only inversions: of all s here, and of
//! denominators in [`Sums`]. Each sum is compared with its own r, so no signature can change the
//! verdict on another.
//!
//! A bad signature costs as much as a good one. A payer can choose its own secret so that table
//! points are equal in the sum. Such a signature costs the batch a second pass (see `sums.rs`),
//! which is still less than recovery.

use std::sync::Arc;

use crate::field::FieldElement;
use crate::lanes::Sums;
use crate::point::Point;
use crate::scalar::Scalar;
use crate::signature::Signature;
use crate::sums::Terms;
use crate::tables::Table;

/// The claim that the key of this table signed this digest.
pub(crate) struct Claim<'a> {
    pub(crate) digest: &'a [u8; 32],
    pub(crate) signature: Signature,
    pub(crate) table: Arc<Table>,
}

/// The verdict on each claim. All tables must have the same width.
pub(crate) fn verify(sums: &mut Sums, generator: &Table, claims: &[Claim<'_>]) -> Vec<bool> {
    let points = sums.sums(&left_sides(generator, claims));
    let claimed = claims.iter().map(|claim| &claim.signature);
    points
        .iter()
        .zip(claimed)
        .map(|(point, signature)| is_r(point, signature))
        .collect()
}

/// Whether a point is the R of a signature. (An x between n and p would need a `v` that Ethereum
/// does not have.)
fn is_r(point: &Point, signature: &Signature) -> bool {
    let x = point.x.normalize();
    !point.is_infinity()
        && x.0 == FieldElement::from_be_bytes(&signature.r_bytes).0
        && point.y.is_odd() == signature.odd
}

/// The terms of the left sides. For each half: first those of u₁ in the generator's table, then
/// those of u₂ in the payer's.
fn left_sides<'a>(generator: &'a Table, claims: &'a [Claim<'_>]) -> Terms<'a> {
    let of_u1 = generator.places();
    let of_u2 = claims.first().map_or(0, |claim| claim.table.places());
    let mut terms = Terms::new(claims.len(), of_u1 + of_u2);
    for (item, (claim, inverse)) in claims.iter().zip(inverses_of_s(claims)).enumerate() {
        let u1 = Scalar::from_be_bytes_reduced(claim.digest).mul(&inverse);
        let u2 = claim.signature.r.mul(&inverse);
        for (half, (u1, u2)) in u1.split().into_iter().zip(u2.split()).enumerate() {
            terms.set(item, half, 0, generator.terms(u1));
            terms.set(item, half, of_u1, claim.table.terms(u2));
        }
    }
    terms
}

/// 1/s of each claim, with one inversion for all. No s is zero, because a [`Signature`] has none.
fn inverses_of_s(claims: &[Claim<'_>]) -> Vec<Scalar> {
    let mut product = Scalar::ONE;
    let mut inverses = Vec::with_capacity(claims.len());
    for claim in claims {
        inverses.push(product);
        product = product.mul(&claim.signature.s);
    }
    let mut inverse = product.invert();
    for (before, claim) in inverses.iter_mut().zip(claims).rev() {
        *before = before.mul(&inverse);
        inverse = inverse.mul(&claim.signature.s);
    }
    inverses
}

#[cfg(test)]
mod tests {
    use k256::elliptic_curve::PrimeField;
    use k256::{ProjectivePoint, Scalar as Number};
    use proptest::prelude::*;

    use super::*;
    use crate::lanes::Arithmetic;
    use crate::point::tests::ours;
    use crate::secp256k1;

    /// Narrower than in production, so that the tests make tables quickly.
    const WIDTH: u32 = 5;

    /// A number that is special half of the time: small, near the order, or of a form that makes
    /// terms collide.
    fn number() -> impl Strategy<Value = Number> {
        let from_limbs = |limbs: [u64; 4]| {
            limbs.iter().fold(Number::ZERO, |number, limb| {
                number * Number::from_u128(1 << 64) + Number::from(*limb)
            })
        };
        prop_oneof![
            4 => any::<[u64; 4]>().prop_map(from_limbs),
            1 => (0u64..20).prop_map(Number::from),
            1 => (0u64..20).prop_map(|number| -Number::from(number)),
            1 => (0u32..256).prop_map(|bit| (0..bit).fold(Number::ONE, |power, _| power + power)),
        ]
    }

    /// All parts of a claim as numbers, so that degenerate claims can be made: the payer's secret,
    /// the secret of R, and s. The digest follows from them: z = s·k − r·d.
    #[derive(Debug, Clone)]
    struct Made {
        digest: [u8; 32],
        signature: [u8; 65],
        key: ProjectivePoint,
    }

    fn made(secret: Number, k: Number, s: Number) -> Option<Made> {
        if [secret, k, s].contains(&Number::ZERO) {
            return None;
        }
        let point = ours(ProjectivePoint::GENERATOR * k);
        let mut signature = [0; 65];
        for (bytes, limb) in signature
            .as_chunks_mut::<8>()
            .0
            .iter_mut()
            .zip(point.x.normalize().0.iter().rev())
        {
            *bytes = limb.to_be_bytes();
        }
        let r =
            Option::<Number>::from(Number::from_repr((*signature.first_chunk::<32>()?).into()))?;
        let low = !bool::from(k256::elliptic_curve::scalar::IsHigh::is_high(&s));
        let digest = (if low { s } else { -s }) * (if low { k } else { -k }) - r * secret;
        signature[32..64].copy_from_slice(&(if low { s } else { -s }).to_repr());
        signature[64] = u8::from(point.y.is_odd() == low);
        Some(Made {
            digest: digest.to_repr().into(),
            signature,
            key: ProjectivePoint::GENERATOR * secret,
        })
    }

    fn address(key: &ProjectivePoint) -> [u8; 20] {
        use k256::elliptic_curve::sec1::ToEncodedPoint;
        use sha3::Digest;
        let encoded = key.to_affine().to_encoded_point(false);
        *sha3::Keccak256::digest(&encoded.as_bytes()[1..])
            .last_chunk()
            .unwrap()
    }

    /// Each implementation's verdicts are those of recovery.
    fn agree(claims: &[Made]) {
        let expected: Vec<bool> = claims
            .iter()
            .map(|claim| {
                secp256k1::recover(&claim.digest, &claim.signature) == Some(address(&claim.key))
            })
            .collect();
        let generator = Table::new(&Point::GENERATOR, 6);
        let (mut parsed, mut places) = (Vec::new(), Vec::new());
        for (place, made) in claims.iter().enumerate() {
            if let Some(signature) = Signature::from_bytes(&made.signature) {
                let table = Arc::new(Table::new(&ours(made.key), WIDTH));
                parsed.push(Claim {
                    digest: &made.digest,
                    signature,
                    table,
                });
                places.push(place);
            }
        }
        for path in Arithmetic::available() {
            let mut verdicts = vec![false; claims.len()];
            for (place, verdict) in
                places
                    .iter()
                    .zip(verify(&mut Sums::new(path), &generator, &parsed))
            {
                verdicts[*place] = verdict;
            }
            assert_eq!(verdicts, expected, "on the path {path:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn verdicts_are_those_of_recovery_also_for_made_up_numbers(
            numbers in prop::collection::vec((number(), number(), number()), 1..20),
            harm in prop::collection::vec((0usize..20, 0usize..97, any::<u8>()), 0..6),
        ) {
            let mut claims: Vec<Made> = numbers.into_iter().filter_map(|(d, k, s)| made(d, k, s)).collect();
            for (claim, at, byte) in harm {
                if let Some(claim) = claims.get_mut(claim) {
                    match at.checked_sub(65) {
                        None => claim.signature[at] = byte,
                        Some(at) => claim.digest[at] = byte,
                    }
                }
            }
            agree(&claims);
        }
    }

    #[test]
    fn made_up_numbers_are_good_signatures_until_they_are_harmed() {
        let [d, k, s] = [5u64, 7, 11].map(Number::from);
        let claim = made(d, k, s).unwrap();
        assert_eq!(
            secp256k1::recover(&claim.digest, &claim.signature),
            Some(address(&claim.key))
        );
    }

    /// Table points of the two tables that are equal, opposite, or cancel to infinity within the
    /// sum.
    #[test]
    fn terms_that_collide_are_added_exactly() {
        let small: Vec<Number> = (1u64..6)
            .flat_map(|n| [Number::from(n), -Number::from(n)])
            .collect();
        let mut claims = Vec::new();
        for secret in &small {
            for k in &small {
                claims.extend(small.iter().filter_map(|s| made(*secret, *k, *s)));
            }
        }
        assert_eq!(claims.len(), 1000);
        for claims in claims.chunks(50) {
            agree(claims);
        }
    }

    #[test]
    fn a_zero_digest_and_a_digest_at_the_order_are_read_as_zero() {
        let [d, k] = [3u64, 9].map(Number::from);
        // z = 0 if s = r·d/k.
        let r = made(d, k, Number::ONE).unwrap();
        let r = Number::from_repr((*r.signature.first_chunk::<32>().unwrap()).into()).unwrap();
        let mut claim = made(d, k, r * d * k.invert().unwrap()).unwrap();
        assert_eq!(claim.digest, [0; 32]);
        agree(&[claim.clone()]);
        claim.digest = (-Number::ONE).to_repr().into();
        let last = &mut claim.digest[31];
        *last += 1;
        assert_eq!(
            secp256k1::recover(&claim.digest, &claim.signature),
            Some(address(&claim.key))
        );
        agree(&[claim]);
    }

    /// u₁·G + u₂·Q is infinite if z = −r·d.
    #[test]
    fn infinite_left_side_is_never_a_valid_r() {
        let [d, k, s] = [3u64, 9, 4].map(Number::from);
        let mut claim = made(d, k, s).unwrap();
        let r = Number::from_repr((*claim.signature.first_chunk::<32>().unwrap()).into()).unwrap();
        claim.digest = (-(r * d)).to_repr().into();
        agree(&[claim]);
    }
}
