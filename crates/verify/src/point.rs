//! Points of the curve y² = x³ + 7, and exact addition of many pairs at once.
//!
//! Two affine points are added with the slope of the line through them:
//!
//! ```text
//! slope = (y₂ − y₁) / (x₂ − x₁), or 3x² / 2y for a point and itself,
//! x₃ = slope² − x₁ − x₂,  y₃ = slope·(x₁ − x₃) − y₁,
//! ```
//!
//! This takes two multiplications, one squaring and a division. The divisions of many independent
//! additions share one inversion, by Montgomery's trick: invert the product, then separate the
//! inverses one by one with three multiplications each. So an addition takes six multiplications in
//! all. Coordinates without division need eleven.

use crate::field::FieldElement;

/// A cube root of 1 modulo p: (BETA·x, y) is λ times (x, y), where λ is a cube root of 1 modulo the
/// group's order.
pub(crate) const BETA: FieldElement = FieldElement([
    0xc139_6c28_7195_01ee,
    0x9cf0_4975_12f5_8995,
    0x6e64_479e_ac34_34e9,
    0x7ae9_6a2b_657c_0710,
]);

/// A point, or the point at infinity as (0, 0), which is not on the curve.
///
/// The alignment makes a look-up in a table touch one cache line.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Point {
    pub(crate) x: FieldElement,
    pub(crate) y: FieldElement,
}

impl Point {
    pub(crate) const INFINITY: Self = Self {
        x: FieldElement::ZERO,
        y: FieldElement::ZERO,
    };

    /// The group's generator (SEC 2).
    pub(crate) const GENERATOR: Self = Self {
        x: FieldElement([
            0x59f2_815b_16f8_1798,
            0x029b_fcdb_2dce_28d9,
            0x55a0_6295_ce87_0b07,
            0x79be_667e_f9dc_bbac,
        ]),
        y: FieldElement([
            0x9c47_d08f_fb10_d4b8,
            0xfd17_b448_a685_5419,
            0x5da4_fbfc_0e11_08a8,
            0x483a_da77_26a3_c465,
        ]),
    };

    /// The point with these coordinates. `None` if a coordinate is not below p or the point is not
    /// on the curve.
    pub(crate) fn from_be_bytes(x: &[u8; 32], y: &[u8; 32]) -> Option<Self> {
        let [x, y] = [x, y].map(FieldElement::from_be_bytes);
        let seven = FieldElement([7, 0, 0, 0]);
        let on_curve = y.square() == x.square().mul(&x).add(&seven);
        (x.is_canonical() && y.is_canonical() && on_curve).then_some(Self { x, y })
    }

    /// Whether the point is infinite. No point of the curve has y = 0, because its order is odd, so
    /// a look at the representation is enough.
    #[inline(always)]
    pub(crate) fn is_infinity(&self) -> bool {
        self.y.0 == [0; 4]
    }
}

impl PartialEq for Point {
    fn eq(&self, other: &Self) -> bool {
        self.x == other.x && self.y == other.y
    }
}

/// The sums of pairs of points, for every kind of pair: different, equal, opposite, infinite.
pub(crate) fn add_pairs(pairs: &[(Point, Point)]) -> Vec<Point> {
    let additions: Vec<Addition> = pairs
        .iter()
        .map(|(left, right)| Addition::of(left, right))
        .collect();
    let mut denominators: Vec<FieldElement> = additions.iter().map(Addition::denominator).collect();
    invert_all(&mut denominators);
    let divided = additions.iter().zip(&denominators);
    divided
        .map(|(addition, inverse)| addition.finish(inverse))
        .collect()
}

/// The remaining work of an addition.
enum Addition {
    /// None: one of the points is infinite, or they cancel.
    Done(Point),
    /// The division of the slope.
    Line {
        left: Point,
        right_x: FieldElement,
        numerator: FieldElement,
        denominator: FieldElement,
    },
}

impl Addition {
    fn of(left: &Point, right: &Point) -> Self {
        if left.is_infinity() {
            return Self::Done(*right);
        }
        if right.is_infinity() {
            return Self::Done(*left);
        }
        let denominator = right.x.sub(&left.x);
        let line = |numerator, denominator| Self::Line {
            left: *left,
            right_x: right.x,
            numerator,
            denominator,
        };
        if !denominator.is_zero() {
            return line(right.y.sub(&left.y), denominator);
        }
        if left.y != right.y {
            return Self::Done(Point::INFINITY);
        }
        let square = left.x.square();
        line(square.double().add(&square), left.y.double())
    }

    /// The denominator; never zero, because an addition without a division divides by one.
    fn denominator(&self) -> FieldElement {
        match self {
            Self::Done(_) => FieldElement::ONE,
            Self::Line { denominator, .. } => *denominator,
        }
    }

    fn finish(&self, inverse: &FieldElement) -> Point {
        match self {
            Self::Done(point) => *point,
            Self::Line {
                left,
                right_x,
                numerator,
                ..
            } => {
                let slope = numerator.mul(inverse);
                let x = slope.square().sub(&left.x).sub(right_x);
                let y = slope.mul(&left.x.sub(&x)).sub(&left.y);
                Point { x, y }
            }
        }
    }
}

/// Replaces every element by its inverse. None may be zero.
pub(crate) fn invert_all(elements: &mut [FieldElement]) {
    let mut product = FieldElement::ONE;
    let mut before = Vec::with_capacity(elements.len());
    for element in &*elements {
        before.push(product);
        product = product.mul(element);
    }
    let mut inverse = product.invert();
    for (element, before) in elements.iter_mut().zip(&before).rev() {
        let of_element = inverse.mul(before);
        inverse = inverse.mul(element);
        *element = of_element;
    }
}

/// The point (x / z², y / z³). It can be doubled many times without a division.
#[derive(Clone, Copy)]
pub(crate) struct Jacobian {
    x: FieldElement,
    y: FieldElement,
    z: FieldElement,
}

impl Jacobian {
    /// `point` must not be infinite.
    pub(crate) fn from_point(point: &Point) -> Self {
        Self {
            x: point.x,
            y: point.y,
            z: FieldElement::ONE,
        }
    }

    /// Twice the point, by the formulas dbl-2009-l of the Explicit-Formulas Database.
    pub(crate) fn double(&self) -> Self {
        let a = self.x.square();
        let b = self.y.square();
        let c = b.square();
        let d = self.x.add(&b).square().sub(&a).sub(&c).double();
        let e = a.double().add(&a);
        let x = e.square().sub(&d.double());
        let y = e.mul(&d.sub(&x)).sub(&c.double().double().double());
        Self {
            x,
            y,
            z: self.y.mul(&self.z).double(),
        }
    }

    /// The same points with z = 1. None may be infinite.
    pub(crate) fn to_points(points: &[Self]) -> Vec<Point> {
        let mut inverses: Vec<FieldElement> = points.iter().map(|point| point.z).collect();
        invert_all(&mut inverses);
        let scale = |(point, inverse): (&Self, &FieldElement)| {
            let square = inverse.square();
            Point {
                x: point.x.mul(&square),
                y: point.y.mul(&square).mul(inverse),
            }
        };
        points.iter().zip(&inverses).map(scale).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use k256::ProjectivePoint;
    use k256::elliptic_curve::sec1::ToEncodedPoint;
    use proptest::prelude::*;

    use super::*;

    /// A point of k256, converted.
    pub(crate) fn ours(point: ProjectivePoint) -> Point {
        let encoded = point.to_affine().to_encoded_point(false);
        match (encoded.x(), encoded.y()) {
            (Some(x), Some(y)) => Point::from_be_bytes(&(*x).into(), &(*y).into()).unwrap(),
            _ => Point::INFINITY,
        }
    }

    /// A small multiple of the generator, so that equal and opposite points are frequent.
    fn small(multiple: i64) -> ProjectivePoint {
        let magnitude = ProjectivePoint::GENERATOR * k256::Scalar::from(multiple.unsigned_abs());
        if multiple < 0 { -magnitude } else { magnitude }
    }

    proptest! {
        #[test]
        fn sums_are_those_of_k256_for_every_kind_of_pair(multiples in prop::collection::vec((-4i64..5, -4i64..5), 0..40)) {
            let pairs: Vec<_> = multiples.iter().map(|(a, b)| (ours(small(*a)), ours(small(*b)))).collect();
            let sums: Vec<_> = multiples.iter().map(|(a, b)| ours(small(*a) + small(*b))).collect();
            prop_assert_eq!(add_pairs(&pairs), sums);
        }

        #[test]
        fn doubling_is_that_of_k256(multiple in 1i64..1000, times in 1usize..70) {
            let mut jacobian = Jacobian::from_point(&ours(small(multiple)));
            let mut theirs = small(multiple);
            for _ in 0..times {
                jacobian = jacobian.double();
                theirs = theirs.double();
            }
            prop_assert_eq!(Jacobian::to_points(&[jacobian, jacobian]), vec![ours(theirs); 2]);
        }
    }

    #[test]
    fn endomorphism_permutes_three_points_with_sum_zero() {
        let point = ours(small(5));
        let endomorphism = |point: &Point| Point {
            x: point.x.mul(&BETA),
            y: point.y,
        };
        let once = endomorphism(&point);
        let twice = endomorphism(&once);
        assert!(once != point);
        assert!(endomorphism(&twice) == point);
        assert!(add_pairs(&[(add_pairs(&[(point, once)])[0], twice)])[0].is_infinity());
    }

    #[test]
    fn coordinates_that_are_no_points_are_refused() {
        let mut bytes = [0; 32];
        assert_eq!(Point::from_be_bytes(&bytes, &bytes), None);
        bytes[31] = 1;
        assert_eq!(Point::from_be_bytes(&bytes, &bytes), None);
        assert_eq!(Point::from_be_bytes(&[0xff; 32], &bytes), None);
    }
}
