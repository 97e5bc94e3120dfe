//! The books against the chain: what a facilitator has booked, compared with what moved.
//!
//! The comparison is independent of the code that settles. A journal's rows become [`Booked`] lines
//! and a chain's records become [`Seen`] transactions. Both are sorted by transaction
//! ([`Sorter`]), so that a million of them need little memory, and [`compare`] merges the two. It
//! returns every [`Difference`], and adds up the gas ([`Totals`]). It asks nothing and writes
//! nothing. A [`Ledger`] reads the chain for it.
//!
//! What a chain could not report is *unknown*, and never *not moved*.
//!
//! ```
//! use quittance_books::{Booked, Kind, Row, CompareScope, Seen, Sent, compare};
//! use quittance_core::{Amount, LaneId, PaymentId, Timestamp, TransactionId};
//!
//! let id = PaymentId::from_parts(&[b"a payment"]);
//! let row = Row::moved(id, "payer", "seller", "coin", Amount::from(7));
//! let booked = vec![Booked::row("0x1", row)];
//! // The chain has the transaction, and it moved nothing.
//! let signer = LaneId::new("signer");
//! let sent = Sent::new(TransactionId::new("0x1"), signer.clone(), 5, Timestamp::from_secs(9));
//! let scope = CompareScope::new(vec![signer], ["coin".to_owned()], 1..=8);
//!
//! let mut found = Vec::new();
//! compare(&scope, booked.into_iter().map(Ok), [Ok(Seen::Included(sent))].into_iter(), |it| {
//!     found.push(it);
//! })?;
//! assert_eq!(found[0].kind, Kind::BookedNotMoved);
//! # Ok::<(), quittance_books::CompareError>(())
//! ```

mod booked;
mod compare;
mod difference;
mod judge;
mod ledger;
mod scope;
mod seen;
mod sorter;
mod text;
mod totals;

pub use booked::{Booked, Row, Says};
pub use compare::{CompareError, Compared, Finding, compare, compare_all};
pub use difference::{Difference, Kind};
pub use ledger::{Blocks, Bound, KnownTransactions, Ledger, UsedAuthorization};
pub use scope::CompareScope;
pub use seen::{Seen, Sent, Transfer};
pub use sorter::{Sorted, Sorter};
pub use totals::{Gas, Payments, Totals};
