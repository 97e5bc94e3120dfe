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
/// All methods are inlined into their caller, so that they are compiled for the processor that it is compiled for.
pub(crate) trait Lanes: Copy {
    /// How many elements.
    const WIDTH: usize;
    /// One yes or no for each element.
    type Mask: Copy;

    /// The elements that `lane` says, each in any representation.
    fn gather(lane: impl FnMut(usize) -> FieldElement) -> Self;
    /// One of the elements.
    fn lane(&self, index: usize) -> FieldElement;
    #[cfg(test)]
    fn add(&self, other: &Self) -> Self;
    fn sub(&self, other: &Self) -> Self;
    fn mul(&self, other: &Self) -> Self;
    fn square(&self) -> Self;
    /// Which elements are the representation of zero that `gather` makes of [`FieldElement::ZERO`].
    fn are_plain_zero(&self) -> Self::Mask;
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
    fn lane(&self, _index: usize) -> FieldElement {
        *self
    }

    #[cfg(test)]
    fn add(&self, other: &Self) -> Self {
        self.add(other)
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

/// The fastest path that this processor has, with memory to be used again.
pub(crate) struct Sums {
    path: Path,
    portable: Workspace<FieldElement>,
    #[cfg(target_arch = "x86_64")]
    eight: Workspace<x86::Eight>,
}

/// How sums are computed. The verdict is the same on each.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Path {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Bmi2(x86::Bmi2),
    #[cfg(target_arch = "x86_64")]
    Ifma(x86::Ifma),
}

impl Path {
    /// All that this processor has, the fastest last.
    pub(crate) fn available() -> Vec<Self> {
        let mut available = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            available.extend(x86::Bmi2::detect().map(Self::Bmi2));
            available.extend(x86::Ifma::detect().map(Self::Ifma));
        }
        available
    }
}

impl Sums {
    pub(crate) fn new(path: Path) -> Self {
        Self {
            path,
            portable: Workspace::default(),
            #[cfg(target_arch = "x86_64")]
            eight: Workspace::default(),
        }
    }

    /// The sum of each item's terms.
    pub(crate) fn sums(&mut self, terms: &impl Terms) -> Vec<Point> {
        match self.path {
            Path::Portable => sums(&mut self.portable, terms),
            #[cfg(target_arch = "x86_64")]
            Path::Bmi2(bmi2) => bmi2.sums(&mut self.portable, terms),
            #[cfg(target_arch = "x86_64")]
            Path::Ifma(ifma) => ifma.sums(&mut self.eight, terms),
        }
    }
}
