//! The field of the curve's coordinates: integers modulo p = 2^256 − 2^32 − 977.
//!
//! An element has four limbs of 64 bits, the least significant first. Every value below 2^256
//! represents its residue. So most residues have one representation, and the smallest 2^32 + 977
//! have two; [`FieldElement::normalize`] selects the one below p. Because 2^256 ≡ 2^32 + 977 =:
//! [`FOLD`], the part above 256 bits is multiplied by `FOLD` and added to the rest.
//!
//! No value here is secret, so the time may depend on values.

use crate::inverse::Modulus;

/// p.
const P: Modulus = Modulus::new([0xffff_fffe_ffff_fc2f, u64::MAX, u64::MAX, u64::MAX]);

/// 2^256 mod p.
const FOLD: u64 = 0x1_0000_03d1;

/// An integer modulo p, in any representation below 2^256.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FieldElement(pub(crate) [u64; 4]);

impl FieldElement {
    pub(crate) const ZERO: Self = Self([0; 4]);
    pub(crate) const ONE: Self = Self([1, 0, 0, 0]);

    /// The residue of 32 bytes, big endian.
    pub(crate) fn from_be_bytes(bytes: &[u8; 32]) -> Self {
        Self(limbs_from_be_bytes(bytes))
    }

    /// Whether the representation is below p.
    pub(crate) fn is_canonical(&self) -> bool {
        self.normalize().0 == self.0
    }

    /// The representation below p.
    #[inline(always)]
    pub(crate) fn normalize(&self) -> Self {
        // value ≥ p exactly if value + FOLD overflows. Then the remaining 256 bits are value − p.
        let (reduced, overflow) = add_word(self.0, FOLD);
        if overflow { Self(reduced) } else { *self }
    }

    #[inline(always)]
    pub(crate) fn is_zero(&self) -> bool {
        self.normalize().0 == [0; 4]
    }

    pub(crate) fn is_odd(&self) -> bool {
        self.normalize().0[0] & 1 == 1
    }

    #[inline(always)]
    pub(crate) fn add(&self, other: &Self) -> Self {
        let (sum, overflow) = add_limbs(self.0, other.0);
        let (mut sum, overflow) = add_word(sum, FOLD * u64::from(overflow));
        // After a second overflow the value is below FOLD, so the lowest limb can take another one.
        sum[0] = sum[0].wrapping_add(FOLD * u64::from(overflow));
        Self(sum)
    }

    #[inline(always)]
    pub(crate) fn sub(&self, other: &Self) -> Self {
        let (difference, borrow) = sub_limbs(self.0, other.0);
        let (mut difference, borrow) = sub_word(difference, FOLD * u64::from(borrow));
        // After a second borrow the value is above 2^256 − FOLD, so the lowest limb can take
        // another one.
        difference[0] = difference[0].wrapping_sub(FOLD * u64::from(borrow));
        Self(difference)
    }

    #[cfg(test)]
    pub(crate) fn neg(&self) -> Self {
        Self::ZERO.sub(self)
    }

    #[inline(always)]
    pub(crate) fn double(&self) -> Self {
        self.add(self)
    }

    #[inline(always)]
    pub(crate) fn mul(&self, other: &Self) -> Self {
        Self(reduce(mul_wide(&self.0, &other.0)))
    }

    #[inline(always)]
    pub(crate) fn square(&self) -> Self {
        Self(reduce(square_wide(&self.0)))
    }

    /// The inverse; zero for zero.
    pub(crate) fn invert(&self) -> Self {
        Self(P.invert(self.normalize().0))
    }
}

impl PartialEq for FieldElement {
    fn eq(&self, other: &Self) -> bool {
        self.normalize().0 == other.normalize().0
    }
}

impl Eq for FieldElement {}

/// 256 bits, big endian, as limbs.
pub(crate) fn limbs_from_be_bytes(bytes: &[u8; 32]) -> [u64; 4] {
    let mut limbs = [0; 4];
    for (limb, word) in limbs.iter_mut().rev().zip(bytes.as_chunks::<8>().0) {
        *limb = u64::from_be_bytes(*word);
    }
    limbs
}

#[inline(always)]
pub(crate) fn add_limbs(left: [u64; 4], right: [u64; 4]) -> ([u64; 4], bool) {
    let (a, carry) = left[0].overflowing_add(right[0]);
    let (b, carry) = left[1].carrying_add(right[1], carry);
    let (c, carry) = left[2].carrying_add(right[2], carry);
    let (d, carry) = left[3].carrying_add(right[3], carry);
    ([a, b, c, d], carry)
}

#[inline(always)]
pub(crate) fn sub_limbs(left: [u64; 4], right: [u64; 4]) -> ([u64; 4], bool) {
    let (a, borrow) = left[0].overflowing_sub(right[0]);
    let (b, borrow) = left[1].borrowing_sub(right[1], borrow);
    let (c, borrow) = left[2].borrowing_sub(right[2], borrow);
    let (d, borrow) = left[3].borrowing_sub(right[3], borrow);
    ([a, b, c, d], borrow)
}

#[inline(always)]
fn add_word(limbs: [u64; 4], word: u64) -> ([u64; 4], bool) {
    add_limbs(limbs, [word, 0, 0, 0])
}

#[inline(always)]
fn sub_word(limbs: [u64; 4], word: u64) -> ([u64; 4], bool) {
    sub_limbs(limbs, [word, 0, 0, 0])
}

/// The product, 512 bits.
#[inline(always)]
pub(crate) fn mul_wide(left: &[u64; 4], right: &[u64; 4]) -> [u64; 8] {
    let mut product = [0; 8];
    for row in 0..4 {
        let mut carry = 0;
        for column in 0..4 {
            (product[row + column], carry) =
                left[row].carrying_mul_add(right[column], product[row + column], carry);
        }
        product[row + 4] = carry;
    }
    product
}

/// The square: the products of different limbs, doubled, and the squares of the limbs.
#[inline(always)]
fn square_wide(a: &[u64; 4]) -> [u64; 8] {
    let (t1, carry) = a[0].carrying_mul(a[1], 0);
    let (t2, carry) = a[0].carrying_mul(a[2], carry);
    let (t3, t4) = a[0].carrying_mul(a[3], carry);
    let (t3, carry) = a[1].carrying_mul_add(a[2], t3, 0);
    let (t4, t5) = a[1].carrying_mul_add(a[3], t4, carry);
    let (t5, t6) = a[2].carrying_mul_add(a[3], t5, 0);
    let double = |high: u64, low: u64| (high << 1) | (low >> 63);
    let doubled = [
        t1 << 1,
        double(t2, t1),
        double(t3, t2),
        double(t4, t3),
        double(t5, t4),
        double(t6, t5),
        t6 >> 63,
    ];

    let (s0, high) = a[0].carrying_mul(a[0], 0);
    let (s1, carry) = doubled[0].overflowing_add(high);
    let (low, high) = a[1].carrying_mul(a[1], 0);
    let (s2, carry) = doubled[1].carrying_add(low, carry);
    let (s3, carry) = doubled[2].carrying_add(high, carry);
    let (low, high) = a[2].carrying_mul(a[2], 0);
    let (s4, carry) = doubled[3].carrying_add(low, carry);
    let (s5, carry) = doubled[4].carrying_add(high, carry);
    let (low, high) = a[3].carrying_mul(a[3], 0);
    let (s6, carry) = doubled[5].carrying_add(low, carry);
    let (s7, _) = doubled[6].carrying_add(high, carry);
    [s0, s1, s2, s3, s4, s5, s6, s7]
}

/// Reduces 512 bits to a representation below 2^256. Adds the folded upper half, then the 34 bits
/// that overflow, then the one bit that overflows.
#[inline(always)]
fn reduce(wide: [u64; 8]) -> [u64; 4] {
    let (a, carry) = wide[4].carrying_mul_add(FOLD, wide[0], 0);
    let (b, carry) = wide[5].carrying_mul_add(FOLD, wide[1], carry);
    let (c, carry) = wide[6].carrying_mul_add(FOLD, wide[2], carry);
    let (d, carry) = wide[7].carrying_mul_add(FOLD, wide[3], carry);
    let (low, high) = carry.carrying_mul(FOLD, 0);
    let (mut folded, overflow) = add_limbs([a, b, c, d], [low, high, 0, 0]);
    // After an overflow the value is below 2^68. So its lowest limb can have any value, but the
    // next one can take a carry.
    let (lowest, carry) = folded[0].overflowing_add(FOLD * u64::from(overflow));
    folded[0] = lowest;
    folded[1] = folded[1].wrapping_add(u64::from(carry));
    folded
}

#[cfg(test)]
pub(crate) mod tests {
    use k256::elliptic_curve::PrimeField;
    use k256::elliptic_curve::sec1::ToEncodedPoint;
    use proptest::prelude::*;

    use super::*;

    /// The reference for the arithmetic: integers of 512 bits, reduced by subtraction.
    mod reference {
        /// p, as 512 bits.
        const P: [u64; 4] = [0xffff_fffe_ffff_fc2f, u64::MAX, u64::MAX, u64::MAX];

        /// The remainder of 512 bits by p, by long division bit by bit.
        pub(super) fn remainder(wide: [u64; 8]) -> [u64; 4] {
            let mut rest = [0u64; 5];
            for bit in (0..512).rev() {
                for limb in (1..5).rev() {
                    rest[limb] = (rest[limb] << 1) | (rest[limb - 1] >> 63);
                }
                rest[0] = (rest[0] << 1) | ((wide[bit / 64] >> (bit % 64)) & 1);
                let mut less = [0; 5];
                let mut borrow = false;
                for limb in 0..5 {
                    let subtrahend = P.get(limb).copied().unwrap_or(0);
                    (less[limb], borrow) = rest[limb].borrowing_sub(subtrahend, borrow);
                }
                if !borrow {
                    rest = less;
                }
            }
            [rest[0], rest[1], rest[2], rest[3]]
        }

        pub(super) fn product(left: [u64; 4], right: [u64; 4]) -> [u64; 4] {
            let mut wide = [0u64; 8];
            for (i, a) in left.iter().enumerate() {
                let mut carry = 0u128;
                for (j, b) in right.iter().enumerate() {
                    let sum = u128::from(*a) * u128::from(*b) + u128::from(wide[i + j]) + carry;
                    wide[i + j] = sum as u64;
                    carry = sum >> 64;
                }
                wide[i + 4] = carry as u64;
            }
            remainder(wide)
        }

        pub(super) fn sum(left: [u64; 4], right: [u64; 4]) -> [u64; 4] {
            let mut wide = [0u64; 8];
            let mut carry = false;
            for i in 0..4 {
                (wide[i], carry) = left[i].carrying_add(right[i], carry);
            }
            wide[4] = u64::from(carry);
            remainder(wide)
        }
    }

    /// Limbs at the limits of 64 bits as often as others, because carries occur there.
    pub(crate) fn element() -> impl Strategy<Value = FieldElement> {
        let limb = prop_oneof![
            any::<u64>(),
            Just(0),
            Just(1),
            Just(u64::MAX),
            Just(u64::MAX - 1),
            Just(0xffff_fffe_ffff_fc2f),
            Just(0xffff_fffe_ffff_fc2e),
            Just(FOLD),
            Just(1 << 63),
        ];
        [limb.clone(), limb.clone(), limb.clone(), limb].prop_map(FieldElement)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn sums_and_products_are_those_of_whole_numbers(a in element(), b in element()) {
            prop_assert_eq!(a.mul(&b).normalize().0, reference::product(a.0, b.0));
            prop_assert_eq!(a.square().normalize().0, reference::product(a.0, a.0));
            prop_assert_eq!(a.add(&b).normalize().0, reference::sum(a.0, b.0));
            prop_assert_eq!(a.sub(&b).add(&b), a);
            prop_assert_eq!(a.neg().add(&a), FieldElement::ZERO);
            prop_assert_eq!(a.double(), a.add(&a));
            prop_assert_eq!(a.normalize().0, reference::sum(a.0, [0; 4]));
            prop_assert_eq!(a.is_canonical(), a.0 == reference::sum(a.0, [0; 4]));
        }

        #[test]
        fn an_inverse_times_its_element_is_one(a in element()) {
            let expected = if a.is_zero() { FieldElement::ZERO } else { FieldElement::ONE };
            prop_assert_eq!(a.invert().mul(&a), expected);
        }
    }

    #[test]
    fn coordinates_of_k256_points_satisfy_the_curve_equation() {
        for secret in 1u64..50 {
            let secret = k256::Scalar::from_u128(secret.into());
            let point = (k256::ProjectivePoint::GENERATOR * secret).to_affine();
            let point = point.to_encoded_point(false);
            let [x, y] = [point.x(), point.y()]
                .map(|word| FieldElement::from_be_bytes(&(*word.unwrap()).into()));
            let seven = FieldElement([7, 0, 0, 0]);
            assert_eq!(y.square(), x.square().mul(&x).add(&seven));
            assert_ne!(y.square(), x.square().mul(&x));
        }
    }
}
