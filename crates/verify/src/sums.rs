//! Sums of many table points for many signatures at once.
//!
//! Every signature needs the sum of the same number of table points ([`Terms`]). They are laid out in rows, one for each
//! term, and halved: the lower half of the rows is added to the upper half, element by element, until one row is left.
//! All additions of a halving are independent, so they are done side by side in [`Lanes`] and share one inversion.
//!
//! Each term is there twice, for the two halves of its scalar (see `Scalar::split`): S₁ + λ·S₂ is wanted, where S₁ and
//! S₂ are the sums of the first and of the second halves' terms. Both are summed as one row of double length, and λ is
//! applied once at the end.
//!
//! The fast addition does not see equal or opposite points: they make a denominator zero, and with it the product of
//! all denominators. No honest signature comes near that, a made-up one may. The halving is then done again by the
//! exact [`add_pairs`]. That costs no more than the portable addition does, for each of the few halvings.

use crate::field::FieldElement;
use crate::lanes::Lanes;
use crate::point::{BETA, Point, add_pairs, invert_all};

/// What is to be summed: for each item, for both halves, the same number of points.
pub(crate) trait Terms {
    fn items(&self) -> usize;
    /// How many points each half of an item has.
    fn terms(&self) -> usize;
    /// A point, and whether it must be negated; the point at infinity never.
    fn point(&self, item: usize, half: usize, term: usize) -> (&Point, bool);
}

/// Memory for sums, to be used again.
pub(crate) struct Workspace<L> {
    points: Vec<LanePoint<L>>,
    prefixes: Vec<L>,
}

impl<L> Default for Workspace<L> {
    fn default() -> Self {
        Self {
            points: Vec::new(),
            prefixes: Vec::new(),
        }
    }
}

/// As many points as there are lanes; infinity is the plain (0, 0).
#[derive(Clone, Copy)]
struct LanePoint<L> {
    x: L,
    y: L,
}

/// How many products of denominators are kept going at the same time, because each alone would wait for its last
/// multiplication to end.
const CHAINS: usize = 4;

/// How many additions the exact path does at a time, which bounds its memory.
const EXACT: usize = 64;

/// The sum of each item's terms.
#[inline(always)]
pub(crate) fn sums<L: Lanes>(workspace: &mut Workspace<L>, terms: &impl Terms) -> Vec<Point> {
    let items = terms.items();
    let groups = items.div_ceil(L::WIDTH);
    let Workspace { points, prefixes } = workspace;
    fill(points, terms, groups);
    let mut rows = terms.terms();
    while rows > 1 {
        let kept = rows - rows / 2;
        let (left, right) = points[..rows * 2 * groups].split_at_mut(kept * 2 * groups);
        add_assign(&mut left[..right.len()], right, prefixes);
        rows = kept;
    }
    let (first, second) = points[..2 * groups].split_at_mut(groups);
    let beta = L::splat(BETA);
    for point in &mut *second {
        point.x = point.x.mul(&beta);
    }
    add_assign(first, second, prefixes);
    (0..items)
        .map(|item| first[item / L::WIDTH].lane(item % L::WIDTH))
        .collect()
}

/// Lays the terms out: for each term, for each half, the items in groups of the lanes' width.
#[inline(always)]
fn fill<L: Lanes>(points: &mut Vec<LanePoint<L>>, terms: &impl Terms, groups: usize) {
    points.clear();
    points.reserve(terms.terms() * 2 * groups);
    let zero = L::splat(FieldElement::ZERO);
    for term in 0..terms.terms() {
        for half in 0..2 {
            for group in 0..groups {
                let lane = |lane: usize| match group * L::WIDTH + lane {
                    item if item < terms.items() => terms.point(item, half, term),
                    _ => (&Point::INFINITY, false),
                };
                let y = L::gather(|index| lane(index).0.y);
                let negative = L::mask(|index| lane(index).1);
                let y = L::select(negative, &zero.sub(&y), &y);
                points.push(LanePoint {
                    x: L::gather(|index| lane(index).0.x),
                    y,
                });
            }
        }
    }
}

/// Adds the points on the right to those on the left, of which there are as many.
#[inline(always)]
fn add_assign<L: Lanes>(left: &mut [LanePoint<L>], right: &[LanePoint<L>], prefixes: &mut Vec<L>) {
    let one = L::splat(FieldElement::ONE);
    let mut products = [one; CHAINS];
    prefixes.clear();
    for (index, (left, right)) in left.iter().zip(right).enumerate() {
        let product = &mut products[index % CHAINS];
        prefixes.push(*product);
        *product = product.mul(&left.denominator(right, &one));
    }
    let Some(mut inverses) = invert_products(products) else {
        return add_assign_exactly(left, right);
    };
    for (index, (left, right)) in left.iter_mut().zip(right).enumerate().rev() {
        let inverse = &mut inverses[index % CHAINS];
        let of_this = inverse.mul(&prefixes[index]);
        *inverse = inverse.mul(&left.denominator(right, &one));
        *left = left.add(right, &of_this);
    }
}

/// The inverses, unless one is zero. One inversion is shared by all.
#[inline(always)]
fn invert_products<L: Lanes>(products: [L; CHAINS]) -> Option<[L; CHAINS]> {
    let mut before = products;
    let mut product = products[0];
    for index in 1..CHAINS {
        before[index] = product;
        product = product.mul(&products[index]);
    }
    let mut lanes: Vec<FieldElement> = (0..L::WIDTH).map(|index| product.lane(index)).collect();
    if lanes.iter().any(FieldElement::is_zero) {
        return None;
    }
    invert_all(&mut lanes);
    let mut inverse = L::gather(|index| lanes[index]);
    let mut inverses = products;
    for index in (1..CHAINS).rev() {
        inverses[index] = inverse.mul(&before[index]);
        inverse = inverse.mul(&products[index]);
    }
    inverses[0] = inverse;
    Some(inverses)
}

#[cold]
fn add_assign_exactly<L: Lanes>(left: &mut [LanePoint<L>], right: &[LanePoint<L>]) {
    for (left, right) in left
        .chunks_mut(EXACT.div_ceil(L::WIDTH))
        .zip(right.chunks(EXACT.div_ceil(L::WIDTH)))
    {
        let lanes = left.iter().zip(right);
        let pairs = lanes.flat_map(|(left, right)| {
            (0..L::WIDTH).map(|index| (left.lane(index), right.lane(index)))
        });
        let sums = add_pairs(&pairs.collect::<Vec<_>>());
        for (left, sums) in left.iter_mut().zip(sums.chunks(L::WIDTH)) {
            *left = LanePoint {
                x: L::gather(|index| sums[index].x),
                y: L::gather(|index| sums[index].y),
            };
        }
    }
}

impl<L: Lanes> LanePoint<L> {
    #[inline(always)]
    fn lane(&self, index: usize) -> Point {
        Point {
            x: self.x.lane(index),
            y: self.y.lane(index),
        }
    }

    /// What the slope's division divides by; one where there is nothing to add.
    #[inline(always)]
    fn denominator(&self, other: &Self, one: &L) -> L {
        let nothing_to_add = L::or(self.y.are_plain_zero(), other.y.are_plain_zero());
        L::select(nothing_to_add, one, &other.x.sub(&self.x))
    }

    /// The sum, given the inverse of the denominator (see `point.rs` for the formulas).
    #[inline(always)]
    fn add(&self, other: &Self, inverse: &L) -> Self {
        let slope = other.y.sub(&self.y).mul(inverse);
        let x = slope.square().sub(&self.x).sub(&other.x);
        let y = slope.mul(&self.x.sub(&x)).sub(&self.y);
        let (no_left, no_right) = (self.y.are_plain_zero(), other.y.are_plain_zero());
        let choose = |sum: &L, left: &L, right: &L| {
            L::select(no_left, right, &L::select(no_right, left, sum))
        };
        Self {
            x: choose(&x, &self.x, &other.x),
            y: choose(&y, &self.y, &other.y),
        }
    }
}
