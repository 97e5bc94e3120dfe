//! Planted bugs, to test the simulator itself.

/// One bug in the journal or in the node, as an engine would meet it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the names say it; the journal and the link show each"
)]
pub enum Mutation {
    ForgetsClaims,
    WinsEveryClaim,
    ReusesSequence,
    ForgetsSequences,
    ReportsTwice,
    ReportsNothing,
    DropsIds,
    ForgetsRecords,
    ForgetsConclusions,
    ListsNothingOpen,
    SignsWithoutLease,
    TakesFromLivingOwners,
    FinalAtOnce,
    ForgetsReopening,
    WatchesNothing,
    HandsOverNothing,
    RefusesWhatItTakes,
    SeesWaitingAsIncluded,
}

impl Mutation {
    /// All planted bugs.
    pub const ALL: [Self; 18] = [
        Self::ForgetsClaims,
        Self::WinsEveryClaim,
        Self::ReusesSequence,
        Self::ForgetsSequences,
        Self::ReportsTwice,
        Self::ReportsNothing,
        Self::DropsIds,
        Self::ForgetsRecords,
        Self::ForgetsConclusions,
        Self::ListsNothingOpen,
        Self::SignsWithoutLease,
        Self::TakesFromLivingOwners,
        Self::FinalAtOnce,
        Self::ForgetsReopening,
        Self::WatchesNothing,
        Self::HandsOverNothing,
        Self::RefusesWhatItTakes,
        Self::SeesWaitingAsIncluded,
    ];
}
