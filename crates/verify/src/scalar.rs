//! Integers modulo n, the order of the curve's group, and their halves under the endomorphism.
//!
//! A scalar has four limbs of 64 bits, the least significant first, and is always below n. 2^256 ≡
//! 2^256 − n =: [`FOLD`], a number of 129 bits. So three folds reduce a product of 512 bits to less
//! than 2^256.

use crate::field::{add_limbs, limbs_from_be_bytes, mul_wide, sub_limbs};
use crate::inverse::Modulus;

/// n.
const ORDER: [u64; 4] = [
    0xbfd2_5e8c_d036_4141,
    0xbaae_dce6_af48_a03b,
    0xffff_ffff_ffff_fffe,
    u64::MAX,
];

const N: Modulus = Modulus::new(ORDER);

/// 2^256 − n. Its third limb is 1.
const FOLD: [u64; 4] = [0x402d_a173_2fc9_bebf, 0x4551_2319_50b7_5fc4, 1, 0];

/// An integer modulo n, below n.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scalar([u64; 4]);

impl Scalar {
    pub(crate) const ONE: Self = Self([1, 0, 0, 0]);

    /// The number in 32 bytes, big endian. `None` if it is not below n.
    pub(crate) fn from_be_bytes(bytes: &[u8; 32]) -> Option<Self> {
        let limbs = limbs_from_be_bytes(bytes);
        let (_, below) = sub_limbs(limbs, ORDER);
        below.then_some(Self(limbs))
    }

    /// The residue of the number in 32 bytes, big endian. ECDSA reads a digest in this way.
    pub(crate) fn from_be_bytes_reduced(bytes: &[u8; 32]) -> Self {
        Self::subtract_order_once(limbs_from_be_bytes(bytes))
    }

    /// 2^256 < 2n, so one subtraction is enough for any 256 bits.
    #[inline(always)]
    fn subtract_order_once(limbs: [u64; 4]) -> Self {
        let (reduced, below) = sub_limbs(limbs, ORDER);
        Self(if below { limbs } else { reduced })
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.0 == [0; 4]
    }

    /// Whether the scalar is above n / 2. The `s` of a signature must not be.
    pub(crate) fn is_high(&self) -> bool {
        /// (n − 1) / 2.
        const HALF: [u64; 4] = [
            0xdfe9_2f46_681b_20a0,
            0x5d57_6e73_57a4_501d,
            u64::MAX,
            u64::MAX >> 1,
        ];
        let (_, above) = sub_limbs(HALF, self.0);
        above
    }

    #[inline(always)]
    pub(crate) fn mul(&self, other: &Self) -> Self {
        reduce(mul_wide(&self.0, &other.0))
    }

    /// The inverse; zero for zero.
    pub(crate) fn invert(&self) -> Self {
        Self(N.invert(self.0))
    }

    /// Two half-length numbers a and b with self ≡ a + b·λ. λ is the cube root of 1 modulo n with
    /// λ·(x, y) = (β·x, y) for every point.
    ///
    /// The pairs (a, b) with a + b·λ ≡ 0 form a lattice with the short basis (A1, B1), (A2, B2)
    /// below. The difference of (self, 0) and the nearest lattice point is a short pair. The
    /// coordinates of that point, c1 and c2, are self·B2/n and −self·B1/n, rounded. G1 and G2 are
    /// these constants scaled by 2^384, so that a product and a shift are enough. The method and
    /// its error bounds, |a| ≤ [`Half::MAX`] and |b| ≤ the same, are those of libsecp256k1
    /// (`scalar_split_lambda`, with a proof in its comments).
    pub(crate) fn split(&self) -> [Half; 2] {
        let c1 = mul_shift_384(&self.0, &G1);
        let c2 = mul_shift_384(&self.0, &G2);
        // Both results are below 2^128 in absolute value. So three limbs of two's complement are
        // enough, whatever the terms are.
        let a = sub3(
            sub3([self.0[0], self.0[1], self.0[2]], mul3(c1, A1)),
            mul3(c2, A2),
        );
        let b = sub3(mul3(c1, MINUS_B1), mul3(c2, A1));
        [Half::from_twos_complement(a), Half::from_twos_complement(b)]
    }
}

const G1: [u64; 4] = [
    0xe893_209a_45db_b031,
    0x3daa_8a14_71e8_ca7f,
    0xe86c_90e4_9284_eb15,
    0x3086_d221_a7d4_6bcd,
];
const G2: [u64; 4] = [
    0x1571_b4ae_8ac4_7f71,
    0x2212_08ac_9df5_06c6,
    0x6f54_7fa9_0abf_e4c4,
    0xe443_7ed6_010e_8828,
];
/// A1. B2 has the same value.
const A1: [u64; 3] = [0xe86c_90e4_9284_eb15, 0x3086_d221_a7d4_6bcd, 0];
const MINUS_B1: [u64; 3] = [0x6f54_7fa9_0abf_e4c3, 0xe443_7ed6_010e_8828, 0];
const A2: [u64; 3] = [0x57c1_108d_9d44_cfd8, 0x14ca_50f7_a8e2_f3f6, 1];

/// A signed number of at most 128 bits: half of a scalar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Half {
    pub(crate) magnitude: u128,
    pub(crate) negative: bool,
}

impl Half {
    /// The largest half.
    pub(crate) const MAX: u128 = 0xa2a8_918c_a85b_afe2_2016_d0b9_17e4_dd77;

    fn from_twos_complement(limbs: [u64; 3]) -> Self {
        let negative = limbs[2] >> 63 == 1;
        let [low, high, _] = if negative { sub3([0; 3], limbs) } else { limbs };
        Self {
            magnitude: u128::from(high) << 64 | u128::from(low),
            negative,
        }
    }
}

/// left·right / 2^384, rounded to the nearest.
fn mul_shift_384(left: &[u64; 4], right: &[u64; 4]) -> [u64; 3] {
    let wide = mul_wide(left, right);
    let (low, carry) = wide[6].overflowing_add(wide[5] >> 63);
    [low, wide[7].wrapping_add(u64::from(carry)), 0]
}

/// The product modulo 2^192.
fn mul3(left: [u64; 3], right: [u64; 3]) -> [u64; 3] {
    let (p0, carry) = left[0].carrying_mul(right[0], 0);
    let (p1, carry) = left[0].carrying_mul(right[1], carry);
    let p2 = left[0].wrapping_mul(right[2]).wrapping_add(carry);
    let (p1, carry) = left[1].carrying_mul_add(right[0], p1, 0);
    let p2 = left[1]
        .wrapping_mul(right[1])
        .wrapping_add(p2)
        .wrapping_add(carry);
    [p0, p1, left[2].wrapping_mul(right[0]).wrapping_add(p2)]
}

/// The difference modulo 2^192.
fn sub3(left: [u64; 3], right: [u64; 3]) -> [u64; 3] {
    let (a, borrow) = left[0].overflowing_sub(right[0]);
    let (b, borrow) = left[1].borrowing_sub(right[1], borrow);
    let (c, _) = left[2].borrowing_sub(right[2], borrow);
    [a, b, c]
}

#[inline(always)]
fn reduce(wide: [u64; 8]) -> Scalar {
    let [w0, w1, w2, w3, high @ ..] = wide;
    // high < 2^256, so high·FOLD + low < 2^386.
    let [a0, a1, a2, a3, a4, a5, a6, _] = fold(high, [w0, w1, w2, w3]);
    // The part above 2^256 is below 2^130 here, and below 2^4 after this fold.
    let [b0, b1, b2, b3, b4, ..] = fold([a4, a5, a6, 0], [a0, a1, a2, a3]);
    let [c0, c1, c2, c3, overflow, ..] = fold([b4, 0, 0, 0], [b0, b1, b2, b3]);
    let (limbs, _) = add_limbs([c0, c1, c2, c3], if overflow == 0 { [0; 4] } else { FOLD });
    Scalar::subtract_order_once(limbs)
}

/// high·FOLD + low.
#[inline(always)]
fn fold(high: [u64; 4], low: [u64; 4]) -> [u64; 8] {
    let (r0, carry) = high[0].carrying_mul_add(FOLD[0], low[0], 0);
    let (r1, carry) = high[1].carrying_mul_add(FOLD[0], low[1], carry);
    let (r2, carry) = high[2].carrying_mul_add(FOLD[0], low[2], carry);
    let (r3, r4) = high[3].carrying_mul_add(FOLD[0], low[3], carry);
    let (r1, carry) = high[0].carrying_mul_add(FOLD[1], r1, 0);
    let (r2, carry) = high[1].carrying_mul_add(FOLD[1], r2, carry);
    let (r3, carry) = high[2].carrying_mul_add(FOLD[1], r3, carry);
    let (r4, r5) = high[3].carrying_mul_add(FOLD[1], r4, carry);
    let (r2, carry) = r2.overflowing_add(high[0]);
    let (r3, carry) = r3.carrying_add(high[1], carry);
    let (r4, carry) = r4.carrying_add(high[2], carry);
    let (r5, carry) = r5.carrying_add(high[3], carry);
    [r0, r1, r2, r3, r4, r5, u64::from(carry), 0]
}

#[cfg(test)]
mod tests {
    use k256::elliptic_curve::PrimeField;
    use k256::elliptic_curve::bigint::U256;
    use k256::elliptic_curve::ops::Reduce;
    use proptest::prelude::*;

    use super::*;

    fn theirs(bytes: &[u8; 32]) -> k256::Scalar {
        <k256::Scalar as Reduce<U256>>::reduce_bytes(&(*bytes).into())
    }

    fn ours(scalar: k256::Scalar) -> Scalar {
        Scalar::from_be_bytes(&scalar.to_repr().into()).unwrap()
    }

    /// Words of bytes at the limits as often as others.
    fn word() -> impl Strategy<Value = [u8; 32]> {
        let limb = prop_oneof![
            any::<u64>(),
            Just(0),
            Just(1),
            Just(u64::MAX),
            Just(u64::MAX - 1),
            Just(ORDER[0]),
            Just(ORDER[0] - 1),
            Just(ORDER[1]),
            Just(FOLD[0]),
            Just(FOLD[1]),
        ];
        [limb.clone(), limb.clone(), limb.clone(), limb].prop_map(|limbs| {
            let mut bytes = [0; 32];
            for (chunk, limb) in bytes
                .as_chunks_mut::<8>()
                .0
                .iter_mut()
                .zip(limbs.iter().rev())
            {
                *chunk = limb.to_be_bytes();
            }
            bytes
        })
    }

    fn half(half: Half) -> k256::Scalar {
        let magnitude = k256::Scalar::from_u128(half.magnitude);
        if half.negative { -magnitude } else { magnitude }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn arithmetic_is_that_of_k256(a in word(), b in word()) {
            let [x, y] = [a, b].map(|bytes| Scalar::from_be_bytes_reduced(&bytes));
            prop_assert_eq!(x, ours(theirs(&a)));
            prop_assert_eq!(x.mul(&y), ours(theirs(&a) * theirs(&b)));
            prop_assert_eq!(Scalar::from_be_bytes(&a).is_some(), bool::from(k256::Scalar::from_repr(a.into()).is_some()));
            prop_assert_eq!(x.is_high(), bool::from(k256::elliptic_curve::scalar::IsHigh::is_high(&theirs(&a))));
        }

        #[test]
        fn the_inverse_is_that_of_k256(a in word()) {
            let inverse = Option::from(theirs(&a).invert()).unwrap_or(k256::Scalar::ZERO);
            prop_assert_eq!(Scalar::from_be_bytes_reduced(&a).invert(), ours(inverse));
        }

        #[test]
        fn halves_are_short_and_make_up_the_scalar(a in word()) {
            let lambda = [
                0x53, 0x63, 0xad, 0x4c, 0xc0, 0x5c, 0x30, 0xe0, 0xa5, 0x26, 0x1c, 0x02, 0x88, 0x12, 0x64, 0x5a,
                0x12, 0x2e, 0x22, 0xea, 0x20, 0x81, 0x66, 0x78, 0xdf, 0x02, 0x96, 0x7c, 0x1b, 0x23, 0xbd, 0x72,
            ];
            let [low, high] = Scalar::from_be_bytes_reduced(&a).split();
            prop_assert!(low.magnitude <= Half::MAX && high.magnitude <= Half::MAX);
            prop_assert_eq!(half(low) + half(high) * theirs(&lambda), theirs(&a));
        }
    }

    #[test]
    fn s_is_high_from_half_the_order_plus_one() {
        let half =
            (ours(-k256::Scalar::ONE)).mul(&ours(k256::Scalar::from(2u64).invert().unwrap()));
        // −1/2 = (n − 1)/2 is the largest low scalar, and 1/2 = (n + 1)/2 is the smallest high one.
        assert!(!half.is_high());
        assert!(ours(k256::Scalar::from(2u64).invert().unwrap()).is_high());
    }
}
