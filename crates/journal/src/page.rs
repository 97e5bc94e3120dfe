//! Listing settlements, page by page.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use quittance_core::{PaymentId, StateId};

use crate::settlement::{Settlement, StateKind};

/// The most settlements on one page. A settlement takes about ten kilobytes of memory.
pub const PAGE_MAX: u32 = 500;

/// The default number of settlements on one page: about one screen of a console.
const PAGE_DEFAULT: u32 = 50;

/// Which settlements to list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Filter {
    /// Only settlements of this network (CAIP-2). `None` lists all networks.
    pub network: Option<String>,
    /// Only settlements in this state. `None` lists all states.
    pub state: Option<StateKind>,
    /// Only refunds of this settlement.
    pub refund_of: Option<PaymentId>,
    /// Only settlements with access to this state record.
    pub state_record: Option<StateId>,
    /// How many settlements a page has at most: from 1 to [`PAGE_MAX`].
    pub limit: u32,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            network: None,
            state: None,
            refund_of: None,
            state_record: None,
            limit: PAGE_DEFAULT,
        }
    }
}

impl Filter {
    /// All settlements, 50 to a page.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only settlements of this network (CAIP-2).
    #[must_use]
    pub fn network(mut self, network: impl Into<String>) -> Self {
        self.network = Some(network.into());
        self
    }

    /// Only settlements in this state.
    #[must_use]
    pub fn state(mut self, state: StateKind) -> Self {
        self.state = Some(state);
        self
    }

    /// Only open settlements.
    #[must_use]
    pub fn open_only(self) -> Self {
        self.state(StateKind::Open)
    }

    /// Only refunds of this settlement.
    #[must_use]
    pub fn refund_of(mut self, original: PaymentId) -> Self {
        self.refund_of = Some(original);
        self
    }

    /// Only settlements with access to this state record.
    #[must_use]
    pub fn state_record(mut self, id: StateId) -> Self {
        self.state_record = Some(id);
        self
    }

    /// At most this many settlements on a page. Values outside 1 to [`PAGE_MAX`] become the nearest
    /// of these two.
    #[must_use]
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = limit.clamp(1, PAGE_MAX);
        self
    }
}

/// A position in a listing. It stays valid while settlements are added and change their state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(NonZeroU64);

impl Cursor {
    /// The position after the settlement with this number, for journals. Settlements are numbered
    /// from 1 in the order of their first claim. `None` for 0.
    pub fn after(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// The number of the settlement before this position, for journals.
    pub fn number(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let number = text.parse().ok().and_then(Self::after);
        number.ok_or(InvalidCursor)
    }
}

/// A text is not a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid cursor: pass the value of the previous page unchanged")]
pub struct InvalidCursor;

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Page {
    /// The settlements, in the order of their first claim.
    pub settlements: Vec<Settlement>,
    /// How many settlements were left out because this program cannot read their entries. They are
    /// damaged, or another program wrote them.
    pub unreadable: usize,
    /// Where the next page starts. `None` on the last page.
    pub next: Option<Cursor>,
}

impl Page {
    /// A page with these settlements, all of them readable.
    pub fn new(settlements: Vec<Settlement>, next: Option<Cursor>) -> Self {
        Self {
            settlements,
            unreadable: 0,
            next,
        }
    }
}
