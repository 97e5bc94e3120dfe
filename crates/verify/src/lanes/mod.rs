//! Field elements side by side.
//!
//! What is done to many signatures at once is written once, over [`Lanes`]: some number of field elements on which the same
//! operation is done at the same time. One element ([`FieldElement`] itself) is the portable implementation; eight in
//! vector registers are another. They share everything but the arithmetic, and the arithmetic of each is held to the
//! portable one by the same tests.

use crate::field::FieldElement;
use crate::point::Point;
use crate::sums::{Terms, Workspace, sums};

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;

/// Some field elements on which the same is done at the same time.
///
/// The methods that do arithmetic are inlined into their caller, so that they are compiled for the processor that it is
/// compiled for.
pub(crate) trait Lanes: Copy {
    /// How many elements.
    const WIDTH: usize;
    /// One yes or no for each element.
    type Mask: Copy;

    /// The elements that `lane` says, each in any representation.
    fn gather(lane: impl FnMut(usize) -> FieldElement) -> Self;
    /// Puts all elements, in their order, behind those that are there.
    fn scatter(&self, elements: &mut Vec<FieldElement>);
    fn sub(&self, other: &Self) -> Self;
    fn mul(&self, other: &Self) -> Self;
    fn square(&self) -> Self;
    /// Which elements are the representation of zero that `gather` makes of [`FieldElement::ZERO`].
    fn are_plain_zero(&self) -> Self::Mask;
    /// Which elements are zero, in whatever representation.
    fn are_zero(&self) -> Self::Mask;
    /// Which elements `lane` says.
    fn mask(lane: impl FnMut(usize) -> bool) -> Self::Mask;
    fn or(left: Self::Mask, right: Self::Mask) -> Self::Mask;
    /// The elements of `yes` where the mask says yes, the others of `no`.
    fn select(mask: Self::Mask, yes: &Self, no: &Self) -> Self;

    /// The same element in every place.
    #[inline(always)]
    fn splat(element: FieldElement) -> Self {
        Self::gather(|_| element)
    }
}

impl Lanes for FieldElement {
    const WIDTH: usize = 1;
    type Mask = bool;

    #[inline(always)]
    fn gather(mut lane: impl FnMut(usize) -> FieldElement) -> Self {
        lane(0)
    }

    #[inline(always)]
    fn scatter(&self, elements: &mut Vec<FieldElement>) {
        elements.push(*self);
    }

    #[inline(always)]
    fn sub(&self, other: &Self) -> Self {
        self.sub(other)
    }

    #[inline(always)]
    fn mul(&self, other: &Self) -> Self {
        self.mul(other)
    }

    #[inline(always)]
    fn square(&self) -> Self {
        self.square()
    }

    #[inline(always)]
    fn are_plain_zero(&self) -> bool {
        self.0 == [0; 4]
    }

    #[inline(always)]
    fn are_zero(&self) -> bool {
        self.is_zero()
    }

    #[inline(always)]
    fn mask(mut lane: impl FnMut(usize) -> bool) -> bool {
        lane(0)
    }

    #[inline(always)]
    fn or(left: bool, right: bool) -> bool {
        left | right
    }

    #[inline(always)]
    fn select(mask: bool, yes: &Self, no: &Self) -> Self {
        let (yes, no) = (yes.0, no.0);
        Self(std::array::from_fn(
            |limb| if mask { yes[limb] } else { no[limb] },
        ))
    }
}

/// How sums of points are computed. The verdict is the same with each; only a processor that has it can be given one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arithmetic(Path);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Ifma(x86::Ifma),
}

impl Arithmetic {
    /// One after the other, on any processor.
    pub const PORTABLE: Self = Self(Path::Portable);

    /// All that this processor has, the fastest last.
    pub fn available() -> Vec<Self> {
        let mut available = vec![Self::PORTABLE];
        #[cfg(target_arch = "x86_64")]
        available.extend(x86::Ifma::detect().map(|ifma| Self(Path::Ifma(ifma))));
        available
    }

    /// The fastest that this processor has.
    pub fn fastest() -> Self {
        Self::available().pop().unwrap_or(Self::PORTABLE)
    }
}

impl std::fmt::Display for Arithmetic {
    /// "portable", "AVX-512 IFMA".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Path::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Path::Ifma(_) => "AVX-512 IFMA",
        })
    }
}

/// With fewer items than this, eight places side by side are too empty to win (`cargo bench -p quittance-verify -- few`).
#[cfg(target_arch = "x86_64")]
const ITEMS_FOR_EIGHT: usize = 3;

/// What computes sums, with memory to be used again.
pub(crate) struct Sums {
    arithmetic: Arithmetic,
    portable: Workspace<FieldElement>,
    #[cfg(target_arch = "x86_64")]
    eight: Workspace<x86::Eight>,
}

impl Sums {
    pub(crate) fn new(arithmetic: Arithmetic) -> Self {
        Self {
            arithmetic,
            portable: Workspace::default(),
            #[cfg(target_arch = "x86_64")]
            eight: Workspace::default(),
        }
    }

    /// The sum of each item's terms.
    pub(crate) fn sums(&mut self, terms: &Terms<'_>) -> Vec<Point> {
        match self.arithmetic.0 {
            #[cfg(target_arch = "x86_64")]
            Path::Ifma(ifma) if terms.items() >= ITEMS_FOR_EIGHT => {
                ifma.sums(&mut self.eight, terms)
            }
            _ => sums(&mut self.portable, terms),
        }
    }
}

/// Begins to bring a table's point into the cache: tables are larger than the caches that are near, and which points are
/// needed is known long before they are.
#[inline(always)]
pub(crate) fn prefetch(point: &Point) {
    #[cfg(target_arch = "x86_64")]
    x86::prefetch(point);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = point;
}
