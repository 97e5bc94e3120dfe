//! What a handler charges, if it is less than the price.

use std::fmt;

use quittance_core::Amount;

/// What a handler charges, if it is less than the price. Put it into the response's extensions:
///
/// ```
/// use axum::response::{IntoResponse, Response};
/// use quittance_seller::Charge;
///
/// async fn generate() -> Response {
///     let (text, tokens) = ("Once upon a time", 4u64);
///     let mut response = text.into_response();
///     response.extensions_mut().insert(Charge::units((tokens * 25).into()));
///     response
/// }
/// # let _ = generate();
/// ```
///
/// Handlers in front of which no Rust code runs, such as those behind a proxy, write the same into
/// the header `Settlement-Overrides`: `{"amount": "100"}`, `{"amount": "12.34%"}` or
/// `{"amount": "$0.002"}`. The layer removes the header.
///
/// The offer's scheme must allow it (`upto`). A charge over the price, or with a scheme that always
/// takes its price, is the handler's error: the response is 500, and nothing is charged. A charge
/// of zero is settled, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge(String);

impl Charge {
    /// A charge of this amount, in atomic units of the asset.
    pub fn units(amount: Amount) -> Self {
        Self(amount.to_string())
    }

    /// A charge of this percentage of the price, such as `"12.34"`. It is rounded down to an atomic
    /// unit.
    pub fn percent(percentage: &str) -> Self {
        Self(format!("{percentage}%"))
    }

    /// A charge of this many dollars, such as `"0.002"`, of an asset that is worth a dollar.
    pub fn dollars(dollars: &str) -> Self {
        Self(format!("${dollars}"))
    }

    /// A charge in the words of `Settlement-Overrides`.
    pub(crate) fn from_words(words: String) -> Self {
        Self(words)
    }

    /// The charge in the words of `Settlement-Overrides`.
    pub fn words(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
