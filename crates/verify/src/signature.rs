//! Ethereum's signatures, as bytes and as numbers.

use crate::scalar::Scalar;

/// A well-formed signature: `r` and `s` are neither zero nor at least the group's order, `s` is in
/// the lower half (EIP-2), and `v` is 0, 1, 27 or 28.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signature {
    pub(crate) r: Scalar,
    pub(crate) r_bytes: [u8; 32],
    pub(crate) s: Scalar,
    /// Whether the y coordinate of R is odd.
    pub(crate) odd: bool,
}

impl Signature {
    pub(crate) fn from_bytes(bytes: &[u8; 65]) -> Option<Self> {
        let [numbers @ .., v] = bytes;
        let odd = match v {
            0 | 27 => false,
            1 | 28 => true,
            _ => return None,
        };
        let (r_bytes, s_bytes) = (numbers.first_chunk()?, numbers.last_chunk()?);
        let (r, s) = (
            Scalar::from_be_bytes(r_bytes)?,
            Scalar::from_be_bytes(s_bytes)?,
        );
        let in_range = !r.is_zero() && !s.is_zero() && !s.is_high();
        in_range.then_some(Self {
            r,
            r_bytes: *r_bytes,
            s,
            odd,
        })
    }
}
