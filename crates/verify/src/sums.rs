//! Sums of many table points for many signatures at once.
//!
//! Every signature needs the sum of the same number of table points ([`Terms`]). The points have
//! one row for each term. In each round, the lower half of the rows is added to the upper half,
//! element by element, until one row remains. All additions of a round are independent, so they run
//! side by side in [`Lanes`] and share one inversion.
//!
//! Each term has two points, for the two halves of its scalar (see `Scalar::split`). The result is
//! S₁ + λ·S₂, where S₁ and S₂ are the sums of the first and of the second halves' terms. Both are
//! summed as one row of double length, and λ is applied once at the end.
//!
//! The fast addition does not detect equal or opposite points: their denominator is zero, and so is
//! the product of all denominators. This does not happen with honest signatures, but a payer can
//! construct such a signature. The exact [`add_pairs`] then adds these pairs, and the fast addition
//! runs again without them. Such a round takes about twice as long.

use crate::field::FieldElement;
use crate::lanes::{Lanes, prefetch};
use crate::point::{BETA, Point, add_pairs, invert_all};

/// A point of a table, and whether it must be negated. The point at infinity is never negated.
pub(crate) type Term<'a> = (&'a Point, bool);

/// The terms of many sums: for each half of each item, the same number of points.
pub(crate) struct Terms<'a> {
    items: usize,
    /// A row for the first halves' first terms, then one for the second halves'. Then the second
    /// terms' rows, and so on.
    rows: Vec<Term<'a>>,
}

impl<'a> Terms<'a> {
    /// This many terms for each half of this many items, all infinite.
    pub(crate) fn new(items: usize, terms: usize) -> Self {
        Self {
            items,
            rows: vec![(&Point::INFINITY, false); items * terms * 2],
        }
    }

    /// The number of items.
    pub(crate) fn items(&self) -> usize {
        self.items
    }

    /// Sets the terms of an item's half, from term `first` on.
    #[inline(always)]
    pub(crate) fn set(
        &mut self,
        item: usize,
        half: usize,
        first: usize,
        terms: impl Iterator<Item = Term<'a>>,
    ) {
        let row = 2 * first + half;
        let places = self.rows[row * self.items + item..].iter_mut();
        for (place, term) in places.step_by(2 * self.items).zip(terms) {
            prefetch(term.0);
            *place = term;
        }
    }
}

/// Reusable memory for sums.
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

/// As many points as there are lanes. Infinity is the plain (0, 0).
#[derive(Clone, Copy)]
struct LanePoint<L> {
    x: L,
    y: L,
}

/// How many products of denominators are computed at the same time. One alone would wait for its
/// last multiplication.
const CHAINS: usize = 4;

/// The sum of each item's terms.
#[inline(always)]
pub(crate) fn sums<L: Lanes>(workspace: &mut Workspace<L>, terms: &Terms<'_>) -> Vec<Point> {
    let groups = terms.items.div_ceil(L::WIDTH);
    let Workspace { points, prefixes } = workspace;
    fill(points, terms);
    let mut rows = points.len() / (2 * groups).max(1);
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
    let mut sums = Vec::with_capacity(groups * L::WIDTH);
    for group in first {
        group.scatter(&mut sums);
    }
    sums.truncate(terms.items);
    sums
}

/// Copies the terms: each row in groups of the lanes' width.
#[inline(always)]
fn fill<L: Lanes>(points: &mut Vec<LanePoint<L>>, terms: &Terms<'_>) {
    points.clear();
    if terms.items == 0 {
        return;
    }
    let zero = L::splat(FieldElement::ZERO);
    for row in terms.rows.chunks_exact(terms.items) {
        for group in row.chunks(L::WIDTH) {
            let of = |lane: usize| {
                group
                    .get(lane)
                    .copied()
                    .unwrap_or((&Point::INFINITY, false))
            };
            let y = L::gather(|lane| of(lane).0.y);
            points.push(LanePoint {
                x: L::gather(|lane| of(lane).0.x),
                y: L::select(L::mask(|lane| of(lane).1), &zero.sub(&y), &y),
            });
        }
    }
}

/// Adds the points on the right to those on the left. Both sides have the same number.
#[inline(always)]
fn add_assign<L: Lanes>(left: &mut [LanePoint<L>], right: &[LanePoint<L>], prefixes: &mut Vec<L>) {
    if add_unless_zero::<L, false>(left, right, prefixes) {
        return;
    }
    let exceptions = Exceptions::of(left, right);
    add_unless_zero::<L, true>(left, right, prefixes);
    exceptions.add_to(left);
}

/// Adds the right side, or does nothing if a denominator is zero. Returns whether it added. With
/// `REPLACE`, every denominator that is zero is replaced by one, and the caller corrects the
/// results.
///
/// (`REPLACE` is a constant and not a closure: a closure may not be inlined, and then it is not
/// compiled for the processor's vectors.)
#[inline(always)]
fn add_unless_zero<L: Lanes, const REPLACE: bool>(
    left: &mut [LanePoint<L>],
    right: &[LanePoint<L>],
    prefixes: &mut Vec<L>,
) -> bool {
    let one = L::splat(FieldElement::ONE);
    let mut products = [one; CHAINS];
    prefixes.clear();
    for (index, (left, right)) in left.iter().zip(right).enumerate() {
        let product = &mut products[index % CHAINS];
        prefixes.push(*product);
        *product = product.mul(&left.denominator::<REPLACE>(right, &one));
    }
    let Some(mut inverses) = invert_products(products) else {
        return false;
    };
    for (index, (left, right)) in left.iter_mut().zip(right).enumerate().rev() {
        let inverse = &mut inverses[index % CHAINS];
        let of_this = inverse.mul(&prefixes[index]);
        *inverse = inverse.mul(&left.denominator::<REPLACE>(right, &one));
        *left = left.add(right, &of_this);
    }
    true
}

/// The pairs that the fast addition cannot add.
struct Exceptions {
    /// The group, and the lane in it.
    places: Vec<(usize, usize)>,
    pairs: Vec<(Point, Point)>,
}

impl Exceptions {
    #[cold]
    fn of<L: Lanes>(left: &[LanePoint<L>], right: &[LanePoint<L>]) -> Self {
        let (mut places, mut pairs) = (Vec::new(), Vec::new());
        let [mut lefts, mut rights] = [Vec::new(), Vec::new()];
        for (group, (left, right)) in left.iter().zip(right).enumerate() {
            lefts.clear();
            rights.clear();
            left.scatter(&mut lefts);
            right.scatter(&mut rights);
            for (lane, pair) in lefts
                .iter()
                .copied()
                .zip(rights.iter().copied())
                .enumerate()
            {
                if pair.0.x == pair.1.x {
                    places.push((group, lane));
                    pairs.push(pair);
                }
            }
        }
        Self { places, pairs }
    }

    #[cold]
    fn add_to<L: Lanes>(&self, left: &mut [LanePoint<L>]) {
        let sums = add_pairs(&self.pairs);
        for ((group, lane), sum) in self.places.iter().zip(sums) {
            let mut points = Vec::with_capacity(L::WIDTH);
            left[*group].scatter(&mut points);
            points[*lane] = sum;
            left[*group] = LanePoint::gather(&points);
        }
    }
}

/// The inverses, or `None` if an element is zero. All share one inversion.
#[inline(always)]
fn invert_products<L: Lanes>(products: [L; CHAINS]) -> Option<[L; CHAINS]> {
    let mut before = products;
    let mut product = products[0];
    for index in 1..CHAINS {
        before[index] = product;
        product = product.mul(&products[index]);
    }
    let mut lanes = Vec::with_capacity(L::WIDTH);
    product.scatter(&mut lanes);
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

impl<L: Lanes> LanePoint<L> {
    fn gather(points: &[Point]) -> Self {
        Self {
            x: L::gather(|lane| points[lane].x),
            y: L::gather(|lane| points[lane].y),
        }
    }

    #[inline(always)]
    fn scatter(&self, points: &mut Vec<Point>) {
        let [mut x, mut y] = [(); 2].map(|()| Vec::with_capacity(L::WIDTH));
        self.x.scatter(&mut x);
        self.y.scatter(&mut y);
        points.extend(x.into_iter().zip(y).map(|(x, y)| Point { x, y }));
    }

    /// The divisor of the slope. One if there is nothing to add, and with `REPLACE` also for zero.
    #[inline(always)]
    fn denominator<const REPLACE: bool>(&self, other: &Self, one: &L) -> L {
        let nothing_to_add = L::or(self.y.are_plain_zero(), other.y.are_plain_zero());
        let denominator = L::select(nothing_to_add, one, &other.x.sub(&self.x));
        if REPLACE {
            return L::select(denominator.are_zero(), one, &denominator);
        }
        denominator
    }

    /// The sum, for the inverse of the denominator (see `point.rs` for the formulas).
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
