//! The watcher: follows sent transactions until the chain has decided, and settled payments until
//! they are final.

mod follow;
mod gaps;
mod replace;
mod settled;

pub(crate) use follow::run;
pub(crate) use gaps::GapFiller;
pub(crate) use settled::SettledPayments;
