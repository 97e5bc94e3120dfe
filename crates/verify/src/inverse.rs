//! Inverses modulo an odd number, by division steps.
//!
//! The method is that of Bernstein and Yang ("Fast constant-time gcd computation and modular
//! inversion", 2019), as in libsecp256k1. Its `doc/safegcd_implementation.md` has the derivation
//! and the bounds. This implementation is not constant-time, because no value here is secret. It
//! takes a third of the time of raising to the power m − 2.
//!
//! f and g start as the modulus m and the element x. A step first makes g even, by adding f, if
//! needed after swapping the two with a change of sign. Then it halves g. This changes no common
//! divisor, and f stays odd, so f is ±1 when g is zero. The numbers d and e always satisfy d·x ≡ f
//! and e·x ≡ g modulo m, so ±d is the inverse at the end.
//!
//! A step depends only on the lowest bits of f and g. So [`STEPS`] steps are computed on words,
//! which gives a matrix T with 2^62·(f′, g′) = T·(f, g). T is then applied once to the whole
//! numbers.

/// How many steps are computed on words. Also the number of bits in a limb.
const STEPS: u32 = 62;

/// The bits of a limb.
const LIMB: u64 = u64::MAX >> 2;

/// An integer as limbs of 62 bits, the least significant first. The last limb has the sign.
type Signed = [i64; 5];

/// A modulus with its constants.
pub(crate) struct Modulus {
    limbs: Signed,
    /// Its inverse modulo 2^62.
    inverse: u64,
}

/// The effect of some steps on (f, g), times 2^62.
struct Steps {
    u: i64,
    v: i64,
    q: i64,
    r: i64,
}

impl Modulus {
    /// An odd modulus, in limbs of 64 bits, the least significant first.
    pub(crate) const fn new(modulus: [u64; 4]) -> Self {
        assert!(modulus[0] & 1 == 1, "the modulus must be odd");
        // Newton's iteration doubles the number of correct bits. An odd number is its own inverse
        // in the lowest three.
        let mut inverse = modulus[0];
        let mut right = 3;
        while right < 64 {
            inverse = inverse.wrapping_mul(2u64.wrapping_sub(modulus[0].wrapping_mul(inverse)));
            right *= 2;
        }
        Self {
            limbs: to_limbs(modulus),
            inverse: inverse & LIMB,
        }
    }

    /// The inverse of a number below the modulus, or zero for zero. The number must have no common
    /// divisor with the modulus.
    pub(crate) fn invert(&self, number: [u64; 4]) -> [u64; 4] {
        let (mut f, mut g) = (self.limbs, to_limbs(number));
        let (mut d, mut e) = ([0; 5], [1, 0, 0, 0, 0]);
        let mut eta = -1;
        // Higher limbs are zero in both f and g.
        let mut length = 5;
        loop {
            let steps = steps(&mut eta, f[0] as u64, g[0] as u64);
            self.apply_modulo(&steps, &mut d, &mut e);
            apply(&steps, &mut f[..length], &mut g[..length]);
            if g[..length].iter().all(|limb| *limb == 0) {
                return self.normalize(d, f[length - 1] < 0);
            }
            length = shorten(&mut f, &mut g, length);
        }
    }

    /// Replaces (d, e) by T·(d, e) / 2^62 modulo the modulus. Adds multiples of the modulus so that
    /// the division is exact. Both stay between −2m and m.
    fn apply_modulo(&self, steps: &Steps, d: &mut Signed, e: &mut Signed) {
        let Steps { u, v, q, r } = *steps;
        let (sign_d, sign_e) = (d[4] >> 63, e[4] >> 63);
        let mut carry_d = mul(u, d[0]) + mul(v, e[0]);
        let mut carry_e = mul(q, d[0]) + mul(r, e[0]);
        let multiple = |start: i64, low: i128| {
            let rest = self
                .inverse
                .wrapping_mul(low as u64)
                .wrapping_add(start as u64);
            start - (rest & LIMB) as i64
        };
        let times_d = multiple((u & sign_d) + (v & sign_e), carry_d);
        let times_e = multiple((q & sign_d) + (r & sign_e), carry_e);
        carry_d = (carry_d + mul(self.limbs[0], times_d)) >> STEPS;
        carry_e = (carry_e + mul(self.limbs[0], times_e)) >> STEPS;
        for limb in 1..5 {
            let (old_d, old_e, modulus) = (d[limb], e[limb], self.limbs[limb]);
            carry_d += mul(u, old_d) + mul(v, old_e) + mul(modulus, times_d);
            carry_e += mul(q, old_d) + mul(r, old_e) + mul(modulus, times_e);
            (d[limb - 1], carry_d) = (low_limb(carry_d), carry_d >> STEPS);
            (e[limb - 1], carry_e) = (low_limb(carry_e), carry_e >> STEPS);
        }
        (d[4], e[4]) = (carry_d as i64, carry_e as i64);
    }

    /// Maps a number between −2m and m, negated if `negate`, to its residue from 0 to below m.
    fn normalize(&self, mut number: Signed, negate: bool) -> [u64; 4] {
        if number[4] < 0 {
            self.add_to(&mut number);
        }
        if negate {
            number = number.map(|limb| -limb);
        }
        carry(&mut number);
        if number[4] < 0 {
            self.add_to(&mut number);
            carry(&mut number);
        }
        from_limbs(number)
    }

    fn add_to(&self, number: &mut Signed) {
        for (limb, modulus) in number.iter_mut().zip(self.limbs) {
            *limb += modulus;
        }
    }
}

/// The effect of the next [`STEPS`] steps, from the lowest bits of f and g. `eta` is passed from
/// call to call: how many halvings f is ahead of g, negated.
fn steps(eta: &mut i64, mut f: u64, mut g: u64) -> Steps {
    let (mut u, mut v, mut q, mut r) = (1u64, 0u64, 0u64, 1u64);
    let mut left = STEPS;
    loop {
        // All halvings of an even g at once. The bits above the remaining steps stop the count.
        let zeros = (g | u64::MAX << left).trailing_zeros();
        g >>= zeros;
        u <<= zeros;
        v <<= zeros;
        *eta -= i64::from(zeros);
        left -= zeros;
        if left == 0 {
            let [u, v, q, r] = [u, v, q, r].map(|entry| entry as i64);
            return Steps { u, v, q, r };
        }
        let swap = *eta < 0;
        if swap {
            *eta = -*eta;
            (f, g) = (g, f.wrapping_neg());
            (u, q) = (q, u.wrapping_neg());
            (v, r) = (r, v.wrapping_neg());
        }
        // The multiple of f that makes the lowest bits of g zero. It covers the steps before the
        // next swap, as far as a short formula is exact. f·(f² − 2) is −1/f modulo 64, and f + 8·[f
        // ≡ 3 or 5 modulo 8] is 1/f modulo 16.
        let bits = u64::MAX >> (64 - (*eta + 1).min(i64::from(left)));
        let times = if swap {
            f.wrapping_mul(g)
                .wrapping_mul(f.wrapping_mul(f).wrapping_sub(2))
                & bits
                & 63
        } else {
            let inverse = f.wrapping_add((f.wrapping_add(1) & 4) << 1);
            inverse.wrapping_neg().wrapping_mul(g) & bits & 15
        };
        g = g.wrapping_add(f.wrapping_mul(times));
        q = q.wrapping_add(u.wrapping_mul(times));
        r = r.wrapping_add(v.wrapping_mul(times));
    }
}

/// Replaces (f, g) by T·(f, g) / 2^62. The division is exact.
fn apply(steps: &Steps, f: &mut [i64], g: &mut [i64]) {
    let Steps { u, v, q, r } = *steps;
    let mut carry_f = (mul(u, f[0]) + mul(v, g[0])) >> STEPS;
    let mut carry_g = (mul(q, f[0]) + mul(r, g[0])) >> STEPS;
    for limb in 1..f.len() {
        let (old_f, old_g) = (f[limb], g[limb]);
        carry_f += mul(u, old_f) + mul(v, old_g);
        carry_g += mul(q, old_f) + mul(r, old_g);
        (f[limb - 1], carry_f) = (low_limb(carry_f), carry_f >> STEPS);
        (g[limb - 1], carry_g) = (low_limb(carry_g), carry_g >> STEPS);
    }
    let last = f.len() - 1;
    (f[last], g[last]) = (carry_f as i64, carry_g as i64);
}

/// Removes the last limb if it is only the sign of both numbers, and moves the sign to the limb
/// before. Returns the new length.
fn shorten(f: &mut Signed, g: &mut Signed, length: usize) -> usize {
    let (last_f, last_g) = (f[length - 1], g[length - 1]);
    let is_sign = |limb: i64| limb == 0 || limb == -1;
    if length < 2 || !is_sign(last_f) || !is_sign(last_g) {
        return length;
    }
    f[length - 2] |= last_f << STEPS;
    g[length - 2] |= last_g << STEPS;
    length - 1
}

/// Reduces all limbs but the last to 62 bits without a sign.
fn carry(number: &mut Signed) {
    for limb in 0..4 {
        number[limb + 1] += number[limb] >> STEPS;
        number[limb] &= LIMB as i64;
    }
}

fn mul(left: i64, right: i64) -> i128 {
    i128::from(left) * i128::from(right)
}

fn low_limb(number: i128) -> i64 {
    (number as u64 & LIMB) as i64
}

const fn to_limbs(a: [u64; 4]) -> Signed {
    [
        (a[0] & LIMB) as i64,
        ((a[0] >> 62 | a[1] << 2) & LIMB) as i64,
        ((a[1] >> 60 | a[2] << 4) & LIMB) as i64,
        ((a[2] >> 58 | a[3] << 6) & LIMB) as i64,
        (a[3] >> 56) as i64,
    ]
}

fn from_limbs(limbs: Signed) -> [u64; 4] {
    let [a, b, c, d, e] = limbs.map(|limb| limb as u64);
    [
        a | b << 62,
        b >> 2 | c << 60,
        c >> 4 | d << 58,
        d >> 6 | e << 56,
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A prime that is small enough for other methods. A modulus of full length is tested in the
    /// modules that use it.
    #[test]
    fn every_inverse_modulo_a_small_prime_is_right() {
        const PRIME: u64 = 8191;
        let modulus = Modulus::new([PRIME, 0, 0, 0]);
        for number in 1..PRIME {
            let [inverse, rest @ ..] = modulus.invert([number, 0, 0, 0]);
            assert_eq!((number * inverse % PRIME, rest), (1, [0; 3]), "of {number}");
        }
        assert_eq!(modulus.invert([0; 4]), [0; 4]);
    }

    proptest! {
        #[test]
        fn limbs_of_62_bits_say_the_same_number(number: [u64; 4]) {
            prop_assert_eq!(from_limbs(to_limbs(number)), number);
        }
    }
}
