//! Field elements side by side.
//!
//! Operations on many signatures at once are written once, over [`Lanes`]: a number of field
//! elements with the same operation on each. The portable implementation has one element,
//! [`FieldElement`] itself; another has eight in vector registers. They share all code except the
//! arithmetic. The same tests compare each arithmetic with the portable one.

use crate::field::FieldElement;
use crate::point::Point;
use crate::sums::{Terms, Workspace, sums};

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;

/// A number of field elements with the same operation on each.
///
/// The arithmetic methods are inlined into their caller, so that the compiler uses the instructions
/// of the caller's target.
pub(crate) trait Lanes: Copy {
    /// The number of elements.
    const WIDTH: usize;
    /// One boolean for each element.
    type Mask: Copy;

    /// The elements that `lane` returns, in any representation.
    fn gather(lane: impl FnMut(usize) -> FieldElement) -> Self;
    /// Appends all elements to a list, in order.
    fn scatter(&self, elements: &mut Vec<FieldElement>);
    fn sub(&self, other: &Self) -> Self;
    fn mul(&self, other: &Self) -> Self;
    fn square(&self) -> Self;
    /// Which elements have the representation of zero that `gather` makes of
    /// [`FieldElement::ZERO`].
    fn are_plain_zero(&self) -> Self::Mask;
    /// Which elements are zero, in any representation.
    fn are_zero(&self) -> Self::Mask;
    /// The mask with the values that `lane` returns.
    fn mask(lane: impl FnMut(usize) -> bool) -> Self::Mask;
    fn or(left: Self::Mask, right: Self::Mask) -> Self::Mask;
    /// The elements of `yes` where the mask is set, and the others of `no`.
    fn select(mask: Self::Mask, yes: &Self, no: &Self) -> Self;

    /// The same element in every lane.
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

/// The implementation that computes sums of points. All give the same verdicts. A value exists only
/// if the processor supports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arithmetic(Path);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Ifma(x86::Ifma),
}

impl Arithmetic {
    /// One element at a time, on any processor.
    pub const PORTABLE: Self = Self(Path::Portable);

    /// All implementations that this processor supports, the fastest last.
    pub fn available() -> Vec<Self> {
        let mut available = vec![Self::PORTABLE];
        #[cfg(target_arch = "x86_64")]
        available.extend(x86::Ifma::detect().map(|ifma| Self(Path::Ifma(ifma))));
        available
    }

    /// The fastest implementation that this processor supports.
    pub fn fastest() -> Self {
        Self::available().pop().unwrap_or(Self::PORTABLE)
    }
}

impl std::fmt::Display for Arithmetic {
    /// The name: "portable" or "AVX-512 IFMA".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Path::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Path::Ifma(_) => "AVX-512 IFMA",
        })
    }
}

/// With fewer items than this, too many of the eight lanes stay empty to be faster (`cargo bench -p
/// quittance-verify -- few`).
#[cfg(target_arch = "x86_64")]
const ITEMS_FOR_EIGHT: usize = 3;

/// An implementation with its reusable memory.
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

/// Prefetches a table's point. Tables do not fit in the nearest caches, and the points are known
/// long before they are used.
#[inline(always)]
pub(crate) fn prefetch(point: &Point) {
    #[cfg(target_arch = "x86_64")]
    x86::prefetch(point);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = point;
}
