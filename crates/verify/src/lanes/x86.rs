//! The x86 implementation: eight field elements side by side in AVX-512 with its integer
//! multiplication (IFMA).
//!
//! This is the only module with `unsafe`. It needs it to call functions that are compiled for
//! certain instructions, and to use those instructions. Both are sound exactly if the processor
//! supports the instructions. An [`Ifma`] proves this: it is created only after a check of the
//! processor. (Every x86-64 supports prefetching.)
//!
//! # The arithmetic of eight
//!
//! An element has five limbs of 52 bits, as the multiplication instructions require. They multiply
//! the lowest 52 bits of two 64-bit numbers, and add the lower or the upper 52 bits of the product
//! to a third number.
//!
//! Between operations, the lower four limbs are below 2^52 and the highest is at most 2^48 + 2^8.
//! So a value is little above 2^256, and a product is below 2^513. The part above 2^256 is folded
//! as in `field.rs`, and the part above 2^260 by 2^260 ≡ 16·(2^256 mod p).
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::Lanes;
use crate::field::FieldElement;
use crate::point::Point;
use crate::sums::{Terms, Workspace, sums};

/// Proof that the processor supports AVX-512 F and IFMA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ifma(());

impl Ifma {
    pub(crate) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512ifma"))
            .then_some(Self(()))
    }

    /// The portable algorithm, with eight elements at a time.
    pub(crate) fn sums(self, workspace: &mut Workspace<Eight>, terms: &Terms<'_>) -> Vec<Point> {
        #[target_feature(enable = "avx512f,avx512ifma")]
        fn compiled(workspace: &mut Workspace<Eight>, terms: &Terms<'_>) -> Vec<Point> {
            sums(workspace, terms)
        }
        // SAFETY: `self` proves that the processor supports the instructions.
        unsafe { compiled(workspace, terms) }
    }
}

/// Eight field elements: each vector has the same limb of all eight.
///
/// Its methods use AVX-512 without a check. So they may be called only if there is an [`Ifma`]: in
/// [`Ifma::sums`], which is the only user of this type, and in tests.
#[derive(Clone, Copy)]
pub(crate) struct Eight([__m512i; 5]);

/// The lowest 52 bits.
const LIMB: i64 = (1 << 52) - 1;
/// The lowest 48 bits: the part of the highest limb below 2^256.
const HIGHEST_LIMB: i64 = (1 << 48) - 1;
/// 2^256 mod p.
const FOLD: i64 = 0x1_0000_03d1;
/// 2^260 mod p.
const FOLD_260: i64 = FOLD << 4;
/// p.
const P: [i64; 5] = [(1 << 52) - FOLD, LIMB, LIMB, LIMB, HIGHEST_LIMB];
/// 4p. Each limb but the highest borrows from the next, so that it is larger than any limb of an
/// element.
const FOUR_P: [i64; 5] = [
    (1 << 53) - 4 * FOLD,
    (1 << 53) - 2,
    (1 << 53) - 2,
    (1 << 53) - 2,
    (1 << 50) - 2,
];

#[inline(always)]
pub(super) fn prefetch(point: &Point) {
    // SAFETY: prefetching has no effect on memory, and every x86-64 supports it.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(point).cast()) };
}

impl Eight {
    /// Reduces limbs of less than 2^60 to their bounds.
    #[inline(always)]
    fn carry(mut limbs: [__m512i; 5]) -> Self {
        // SAFETY: see `Eight`.
        unsafe {
            let mask = _mm512_set1_epi64(LIMB);
            let overflow = _mm512_srli_epi64::<48>(limbs[4]);
            limbs[4] = _mm512_and_si512(limbs[4], _mm512_set1_epi64(HIGHEST_LIMB));
            limbs[0] = _mm512_madd52lo_epu64(limbs[0], overflow, _mm512_set1_epi64(FOLD));
            for limb in 0..4 {
                limbs[limb + 1] =
                    _mm512_add_epi64(limbs[limb + 1], _mm512_srli_epi64::<52>(limbs[limb]));
                limbs[limb] = _mm512_and_si512(limbs[limb], mask);
            }
        }
        Self(limbs)
    }

    /// The element of ten columns. A column is a sum of at most ten 52-bit numbers; column k has
    /// weight 2^(52k).
    #[inline(always)]
    fn reduce(mut columns: [__m512i; 10]) -> Self {
        // SAFETY: see `Eight`.
        unsafe {
            let mask = _mm512_set1_epi64(LIMB);
            let fold = _mm512_set1_epi64(FOLD_260);
            for column in 5..9 {
                let carry = _mm512_srli_epi64::<52>(columns[column]);
                columns[column + 1] = _mm512_add_epi64(columns[column + 1], carry);
                columns[column] = _mm512_and_si512(columns[column], mask);
            }
            let [mut c0, mut c1, mut c2, mut c3, mut c4, h0, h1, h2, h3, h4] = columns;
            c0 = _mm512_madd52lo_epu64(c0, h0, fold);
            c1 = _mm512_madd52lo_epu64(_mm512_madd52hi_epu64(c1, h0, fold), h1, fold);
            c2 = _mm512_madd52lo_epu64(_mm512_madd52hi_epu64(c2, h1, fold), h2, fold);
            c3 = _mm512_madd52lo_epu64(_mm512_madd52hi_epu64(c3, h2, fold), h3, fold);
            c4 = _mm512_madd52lo_epu64(_mm512_madd52hi_epu64(c4, h3, fold), h4, fold);
            let above = _mm512_madd52hi_epu64(_mm512_setzero_si512(), h4, fold);
            c0 = _mm512_madd52lo_epu64(c0, above, fold);
            c1 = _mm512_madd52hi_epu64(c1, above, fold);
            Self::carry([c0, c1, c2, c3, c4])
        }
    }
}

impl Lanes for Eight {
    const WIDTH: usize = 8;
    type Mask = __mmask8;

    #[inline(always)]
    fn gather(lane: impl FnMut(usize) -> FieldElement) -> Self {
        let mut lane = lane;
        let rows: [FieldElement; 8] = std::array::from_fn(&mut lane);
        // SAFETY: see `Eight`. Each load reads the 32 bytes of one element.
        unsafe {
            let row = |index: usize| _mm256_loadu_si256(rows[index].0.as_ptr().cast());
            let two = |low: usize| {
                _mm512_inserti64x4::<1>(_mm512_castsi256_si512(row(low)), row(low + 4))
            };
            let [r0, r1, r2, r3] = [two(0), two(1), two(2), two(3)];
            // Transposes four rows of four limbs, in both halves at once.
            let [even01, odd01] = [_mm512_unpacklo_epi64(r0, r1), _mm512_unpackhi_epi64(r0, r1)];
            let [even23, odd23] = [_mm512_unpacklo_epi64(r2, r3), _mm512_unpackhi_epi64(r2, r3)];
            let lower = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
            let upper = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
            let w0 = _mm512_permutex2var_epi64(even01, lower, even23);
            let w1 = _mm512_permutex2var_epi64(odd01, lower, odd23);
            let w2 = _mm512_permutex2var_epi64(even01, upper, even23);
            let w3 = _mm512_permutex2var_epi64(odd01, upper, odd23);
            // From 64-bit limbs to 52-bit limbs.
            let mask = _mm512_set1_epi64(LIMB);
            let l1 = _mm512_or_si512(_mm512_srli_epi64::<52>(w0), _mm512_slli_epi64::<12>(w1));
            let l2 = _mm512_or_si512(_mm512_srli_epi64::<40>(w1), _mm512_slli_epi64::<24>(w2));
            let l3 = _mm512_or_si512(_mm512_srli_epi64::<28>(w2), _mm512_slli_epi64::<36>(w3));
            let cut = |limb| _mm512_and_si512(limb, mask);
            Self([
                cut(w0),
                cut(l1),
                cut(l2),
                cut(l3),
                _mm512_srli_epi64::<16>(w3),
            ])
        }
    }

    #[inline(always)]
    fn scatter(&self, elements: &mut Vec<FieldElement>) {
        let mut limbs = [[0u64; 8]; 5];
        for (limb, vector) in limbs.iter_mut().zip(self.0) {
            // SAFETY: see `Eight`. The store writes the 64 bytes of one array.
            unsafe { _mm512_storeu_si512(limb.as_mut_ptr().cast(), vector) };
        }
        elements.extend((0..Self::WIDTH).map(|lane| {
            let [l0, l1, l2, l3, l4] = limbs.map(|limb| limb[lane]);
            let low = [
                l0 | l1 << 52,
                l1 >> 12 | l2 << 40,
                l2 >> 24 | l3 << 28,
                l3 >> 36 | l4 << 16,
            ];
            let above = FieldElement([(l4 >> 48) * FOLD as u64, 0, 0, 0]);
            FieldElement(low).add(&above)
        }));
    }

    #[inline(always)]
    fn sub(&self, other: &Self) -> Self {
        // 4p is added first, so that no limb of the difference is negative. SAFETY: see `Eight`.
        Self::carry(std::array::from_fn(|limb| unsafe {
            let larger = _mm512_add_epi64(self.0[limb], _mm512_set1_epi64(FOUR_P[limb]));
            _mm512_sub_epi64(larger, other.0[limb])
        }))
    }

    #[inline(always)]
    fn mul(&self, other: &Self) -> Self {
        // SAFETY: see `Eight`.
        unsafe {
            let mut columns = [_mm512_setzero_si512(); 10];
            for i in 0..5 {
                for j in 0..5 {
                    columns[i + j] = _mm512_madd52lo_epu64(columns[i + j], self.0[i], other.0[j]);
                    columns[i + j + 1] =
                        _mm512_madd52hi_epu64(columns[i + j + 1], self.0[i], other.0[j]);
                }
            }
            Self::reduce(columns)
        }
    }

    #[inline(always)]
    fn square(&self) -> Self {
        // SAFETY: see `Eight`.
        unsafe {
            let mut columns = [_mm512_setzero_si512(); 10];
            for i in 0..5 {
                for j in i + 1..5 {
                    columns[i + j] = _mm512_madd52lo_epu64(columns[i + j], self.0[i], self.0[j]);
                    columns[i + j + 1] =
                        _mm512_madd52hi_epu64(columns[i + j + 1], self.0[i], self.0[j]);
                }
            }
            for column in &mut columns {
                *column = _mm512_add_epi64(*column, *column);
            }
            for i in 0..5 {
                columns[2 * i] = _mm512_madd52lo_epu64(columns[2 * i], self.0[i], self.0[i]);
                columns[2 * i + 1] =
                    _mm512_madd52hi_epu64(columns[2 * i + 1], self.0[i], self.0[i]);
            }
            Self::reduce(columns)
        }
    }

    #[inline(always)]
    fn are_plain_zero(&self) -> __mmask8 {
        let [l0, l1, l2, l3, l4] = self.0;
        // SAFETY: see `Eight`.
        unsafe {
            let low = _mm512_or_si512(_mm512_or_si512(l0, l1), _mm512_or_si512(l2, l3));
            let any = _mm512_or_si512(low, l4);
            _mm512_testn_epi64_mask(any, any)
        }
    }

    #[inline(always)]
    fn are_zero(&self) -> __mmask8 {
        // Values are little above 2^256, so zero is 0 or p. SAFETY: see `Eight`.
        let are_p = (0..5).fold(u8::MAX, |mask, limb| unsafe {
            mask & _mm512_cmpeq_epi64_mask(self.0[limb], _mm512_set1_epi64(P[limb]))
        });
        self.are_plain_zero() | are_p
    }

    #[inline(always)]
    fn mask(mut lane: impl FnMut(usize) -> bool) -> __mmask8 {
        (0..8).fold(0, |mask, index| mask | u8::from(lane(index)) << index)
    }

    #[inline(always)]
    fn or(left: __mmask8, right: __mmask8) -> __mmask8 {
        left | right
    }

    #[inline(always)]
    fn select(mask: __mmask8, yes: &Self, no: &Self) -> Self {
        // SAFETY: see `Eight`.
        Self(std::array::from_fn(|limb| unsafe {
            _mm512_mask_blend_epi64(mask, no.0[limb], yes.0[limb])
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::field::tests::element;

    fn same(eight: Eight, expected: impl Fn(usize) -> FieldElement) {
        let mut elements = Vec::new();
        eight.scatter(&mut elements);
        assert_eq!(elements, (0..8).map(expected).collect::<Vec<_>>());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn eight_at_a_time_are_what_each_is_alone(a: [FieldElement; 8], b: [FieldElement; 8], bits: u8) {
            if Ifma::detect().is_none() {
                return Ok(());
            }
            let [x, y] = [a, b].map(|lanes| Eight::gather(|index| lanes[index]));
            same(x, |index| a[index]);
            same(x.sub(&y), |index| a[index].sub(&b[index]));
            same(x.mul(&y), |index| a[index].mul(&b[index]));
            same(x.square(), |index| a[index].square());
            // Again with results of operations, which have limbs that `gather` never makes.
            let (u, v) = (x.sub(&y), y.sub(&x));
            let [s, t] = [0, 1].map(|sign| move |index: usize| match sign {
                0 => a[index].sub(&b[index]),
                _ => b[index].sub(&a[index]),
            });
            same(u.mul(&v), |index| s(index).mul(&t(index)));
            same(u.square(), |index| s(index).square());
            let nothing = u.sub(&v).sub(&u.sub(&v));
            same(nothing, |_| FieldElement::ZERO);
            prop_assert_eq!(nothing.are_zero(), u8::MAX);
            let zeros = (0..8).filter(|index| s(*index).is_zero()).fold(0, |zeros, index| zeros | 1 << index);
            prop_assert_eq!(u.are_zero(), zeros);
            let mask = Eight::mask(|index| bits >> index & 1 == 1);
            same(Eight::select(mask, &x, &y), |index| if bits >> index & 1 == 1 { a[index] } else { b[index] });
            let zeros = (0..8).filter(|index| a[*index].0 == [0; 4]).fold(0, |zeros, index| zeros | 1 << index);
            prop_assert_eq!(x.are_plain_zero(), zeros);
        }
    }

    impl Arbitrary for FieldElement {
        type Parameters = ();
        type Strategy = BoxedStrategy<Self>;

        fn arbitrary_with((): ()) -> Self::Strategy {
            element().boxed()
        }
    }
}
