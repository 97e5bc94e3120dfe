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
//! all denominators. No honest signature comes near that; a made-up one may. Such pairs are then added by the exact
//! [`add_pairs`], and the others once more without them: a halving that meets any costs about twice as much.

use crate::field::FieldElement;
use crate::lanes::{Lanes, prefetch};
use crate::point::{BETA, Point, add_pairs, invert_all};

/// A point of a table, and whether it must be negated; the point at infinity never.
pub(crate) type Term<'a> = (&'a Point, bool);

/// What is to be summed: for each item, for both halves, the same number of points.
pub(crate) struct Terms<'a> {
    items: usize,
    /// A row for the first halves' first terms, then one for the second halves'; then the second terms'; and so on.
    rows: Vec<Term<'a>>,
}

impl<'a> Terms<'a> {
    /// So many terms for each half of so many items, all infinite.
    pub(crate) fn new(items: usize, terms: usize) -> Self {
        Self {
            items,
            rows: vec![(&Point::INFINITY, false); items * terms * 2],
        }
    }

    /// How many items there are.
    pub(crate) fn items(&self) -> usize {
        self.items
    }

    /// Says what terms an item's half has, from term `first` on.
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

/// Lays the terms out: each row in groups of the lanes' width.
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

/// Adds the points on the right to those on the left, of which there are as many.
#[inline(always)]
fn add_assign<L: Lanes>(left: &mut [LanePoint<L>], right: &[LanePoint<L>], prefixes: &mut Vec<L>) {
    if add_unless_zero::<L, false>(left, right, prefixes) {
        return;
    }
    let exceptions = Exceptions::of(left, right);
    add_unless_zero::<L, true>(left, right, prefixes);
    exceptions.add_to(left);
}

/// Adds what is on the right, or does nothing when a denominator is zero, and says whether it did. With `REPLACE`, one
/// stands for every denominator that is zero, and what comes of that is left to the caller.
///
/// (A constant and no closure for the denominator: a closure may not be inlined, and what is not is not compiled for the
/// processor's vectors.)
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
    /// Which group, and which lane of it.
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

/// The inverses, unless one is zero. One inversion is shared by all.
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

    /// What the slope's division divides by; one where there is nothing to add, and with `REPLACE` also for zero.
    #[inline(always)]
    fn denominator<const REPLACE: bool>(&self, other: &Self, one: &L) -> L {
        let nothing_to_add = L::or(self.y.are_plain_zero(), other.y.are_plain_zero());
        let denominator = L::select(nothing_to_add, one, &other.x.sub(&self.x));
        if REPLACE {
            return L::select(denominator.are_zero(), one, &denominator);
        }
        denominator
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
