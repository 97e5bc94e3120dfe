//! A journal's settlements as lines of the books.

use quittance_books::{Booked, Row, Says};
use quittance_engine::{Outcome, Settlement, SignedFor, State};

/// The lines of a settlement: one for each transaction that was signed for it, and one for the
/// transaction that settled it. `is_held` if a contract holds the money of its scheme's payments.
pub(super) fn lines(settlement: &Settlement, is_held: bool) -> Vec<Booked> {
    let (deciding, amount) = match &settlement.state {
        State::Concluded(Outcome::Settled {
            transaction,
            amount,
            ..
        }) => (transaction.as_ref(), *amount),
        _ => (None, settlement.claim.amount),
    };
    let claim = &settlement.claim;
    let at = settlement.concluded_at.unwrap_or(settlement.claimed_at);
    let line = |transaction: &str, says: Says| {
        let row = Row::moved(claim.id, &claim.payer, &claim.pay_to, &claim.asset, amount)
            .says(says)
            .caller(claim.caller.clone())
            .at(at)
            .held(is_held);
        Booked::row(transaction, row)
    };
    let says = |signed: &SignedFor| match &settlement.state {
        _ if Some(&signed.transaction.id) == deciding => Says::Moved,
        _ if signed.step > 0 => Says::Step,
        State::Concluded(Outcome::Settled { .. }) => Says::MovedElsewhere,
        State::Concluded(_) => Says::NotMoved,
        State::Open => Says::Open,
    };
    let mut lines: Vec<Booked> = settlement
        .all_signed()
        .map(|signed| line(signed.transaction.id.as_str(), says(signed)))
        .collect();
    if let Some(deciding) = deciding
        && lines.iter().all(|line| line.transaction != *deciding)
    {
        lines.push(line(deciding.as_str(), Says::Moved));
    }
    lines
}
