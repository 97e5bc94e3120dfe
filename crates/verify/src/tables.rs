//! Tables of multiples of one point. Any multiple is a sum of a few table points.
//!
//! A half-length number has signed digits of `width` bits: number = Σ digit_j · 2^(width·j), with
//! every digit from −2^(width−1) to 2^(width−1). The table has d · 2^(width·j) · P for every digit
//! value d ≥ 1 and every position j. So number·P is the sum of one table point for each position,
//! negated if the digit is negative. No doublings are needed. The highest digit takes the rest,
//! which is never negative. It has few values, because [`Half::MAX`] is below 2^128.

use crate::point::{Jacobian, Point, add_pairs};
use crate::scalar::Half;
use crate::sums::Term;

/// The table of one point.
pub(crate) struct Table {
    width: u32,
    /// First the point at infinity, for the digit zero; then the multiples for each position in
    /// turn.
    points: Box<[Point]>,
}

impl Table {
    /// The table of a point that is not infinite, for digits of 2 to 15 bits.
    pub(crate) fn new(point: &Point, width: u32) -> Self {
        let mut bases = vec![Jacobian::from_point(point)];
        let mut power = Jacobian::from_point(point);
        for _ in 1..places(width) {
            power = (0..width).fold(power, |power, _| power.double());
            bases.push(power);
        }
        let bases = Jacobian::to_points(&bases);
        let mut places: Vec<Vec<Point>> = bases.into_iter().map(|base| vec![base]).collect();
        while extend(&mut places, width) {}
        let points = std::iter::once(Point::INFINITY).chain(places.into_iter().flatten());
        Self {
            width,
            points: points.collect(),
        }
    }

    /// How many table points a multiple by a half-length number needs.
    pub(crate) fn places(&self) -> usize {
        places(self.width)
    }

    /// The table points whose sum is `half` times the point.
    #[inline(always)]
    pub(crate) fn terms(&self, half: Half) -> impl Iterator<Item = Term<'_>> {
        let (size, middle) = (1u32 << self.width, 1u32 << (self.width - 1));
        let (last, width) = (places(self.width) - 1, self.width);
        let mut rest = half.magnitude;
        (0..=last).map(move |place| {
            let low = if place == last {
                rest as u32
            } else {
                rest as u32 & (size - 1)
            };
            let wraps = place != last && low > middle;
            rest = (rest >> width) + u128::from(wraps);
            let digit = if wraps { size - low } else { low };
            let index = if digit == 0 {
                0
            } else {
                place as u32 * middle + digit
            };
            let negative = (wraps != half.negative) && digit != 0;
            (&self.points[index as usize], negative)
        })
    }

    /// The size of a table with digits of `width` bits.
    pub(crate) fn bytes(width: u32) -> usize {
        let places = places(width);
        let points: usize = (0..places)
            .map(|place| multiples(width, place, places))
            .sum();
        size_of::<Self>() + (points + 1) * size_of::<Point>()
    }
}

/// How many digits a half-length number has.
fn places(width: u32) -> usize {
    128u32.div_ceil(width) as usize
}

/// The largest digit at a position.
fn multiples(width: u32, place: usize, places: usize) -> usize {
    if place + 1 < places {
        return 1 << (width - 1);
    }
    // The rest of the largest number, and a carry.
    (Half::MAX >> (width as usize * place)) as usize + 1
}

/// Extends the multiples 1 to k of each position's base to 1 to 2k, as far as they are needed, by
/// one addition each. Returns whether any was missing.
fn extend(places: &mut [Vec<Point>], width: u32) -> bool {
    let count = places.len();
    let missing = |place: usize, have: usize| (multiples(width, place, count) - have).min(have);
    let mut pairs = Vec::new();
    for (place, points) in places.iter().enumerate() {
        let largest = points[points.len() - 1];
        let few = &points[..missing(place, points.len())];
        pairs.extend(few.iter().map(|point| (*point, largest)));
    }
    let mut sums = add_pairs(&pairs).into_iter();
    for (place, points) in places.iter_mut().enumerate() {
        points.extend(sums.by_ref().take(missing(place, points.len())));
    }
    !pairs.is_empty()
}

#[cfg(test)]
mod tests {
    use k256::elliptic_curve::bigint::U256;
    use k256::elliptic_curve::ops::Reduce;
    use k256::{ProjectivePoint, Scalar};
    use proptest::prelude::*;

    use super::*;
    use crate::point::tests::ours;

    /// The sum of the table points, by one addition after the other.
    fn multiple(table: &Table, half: Half) -> Point {
        table.terms(half).fold(Point::INFINITY, |sum, term| {
            let (point, negative) = term;
            let y = if negative { point.y.neg() } else { point.y };
            add_pairs(&[(sum, Point { x: point.x, y })])[0]
        })
    }

    fn expected(half: Half) -> Point {
        let magnitude = ProjectivePoint::GENERATOR
            * <Scalar as Reduce<U256>>::reduce(U256::from_u128(half.magnitude));
        ours(if half.negative { -magnitude } else { magnitude })
    }

    fn half() -> impl Strategy<Value = Half> {
        let magnitude = prop_oneof![
            0..=Half::MAX,
            Just(Half::MAX),
            Just(0),
            Just(1),
            Just(u128::MAX >> 1),
            Just(1 << 127),
            Just(0x8080_8080_8080 << 64),
        ];
        (magnitude, any::<bool>()).prop_map(|(magnitude, negative)| Half {
            magnitude,
            negative,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_looked_up_adds_up_to_the_multiple(half in half()) {
            for width in [2, 5, 7, 8] {
                let table = Table::new(&Point::GENERATOR, width);
                prop_assert_eq!(table.terms(half).count(), table.places());
                prop_assert_eq!(multiple(&table, half), expected(half));
            }
        }
    }

    #[test]
    fn a_table_takes_what_is_said_of_it() {
        for width in 2..=10 {
            let table = Table::new(&Point::GENERATOR, width);
            assert_eq!(
                size_of::<Table>() + size_of_val(&*table.points),
                Table::bytes(width)
            );
        }
    }
}
