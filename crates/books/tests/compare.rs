//! Every planted difference between the books and a chain is found, and nothing else.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::BTreeMap;
use std::io;

use proptest::prelude::*;
use quittance_books::{
    Booked, CompareScope, Compared, Difference, Finding, Kind, Row, Says, Seen, Sent, Sorter,
    Transfer, compare, compare_all,
};
use quittance_core::{Amount, LaneId, PaymentId, Timestamp, TransactionId};

const COIN: &str = "coin";
const SIGNER: &str = "signer";
const FEE: u64 = 1_003;
const BLOCKS: u64 = 1 << 40;

/// A fault that is planted in the books or in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Planted {
    Nothing,
    /// The row of the first payment is gone.
    RowDeleted,
    /// The row and the transaction are gone.
    TransactionDeleted,
    /// The row has another amount.
    AmountAltered,
    /// The row has another recipient.
    RecipientAltered,
    /// The chain lost the transaction.
    TakenBack,
    /// The transaction failed.
    Reverted,
    /// A second transaction of the first settlement moved the money, too.
    MovedTwice,
    /// A failed settlement's money has moved.
    FailedMoved,
    /// The signer paid from its own account, in the coin.
    ForeignTransfer,
    /// The signer paid the chain's own coin.
    ForeignNative,
    /// The signer sent a transaction that does nothing.
    ForeignNoop,
    /// The nodes do not say.
    Unread,
}

impl Planted {
    const ALL: [Self; 13] = [
        Self::Nothing,
        Self::RowDeleted,
        Self::TransactionDeleted,
        Self::AmountAltered,
        Self::RecipientAltered,
        Self::TakenBack,
        Self::Reverted,
        Self::MovedTwice,
        Self::FailedMoved,
        Self::ForeignTransfer,
        Self::ForeignNative,
        Self::ForeignNoop,
        Self::Unread,
    ];

    /// The differences that it makes in a transaction with this many payments.
    fn kinds(self, payments: usize) -> Vec<Kind> {
        match self {
            Self::Nothing | Self::Unread => vec![],
            Self::RowDeleted | Self::FailedMoved => vec![Kind::MovedNotBooked],
            Self::TransactionDeleted => vec![Kind::MovedNotBooked; payments],
            Self::AmountAltered => vec![Kind::AmountDiffers],
            Self::RecipientAltered => vec![Kind::MovedNotBooked, Kind::BookedNotMoved],
            Self::TakenBack | Self::Reverted => vec![Kind::BookedNotMoved; payments],
            Self::MovedTwice => vec![Kind::MovedTwice],
            Self::ForeignTransfer | Self::ForeignNative => vec![Kind::ForeignTransfer],
            Self::ForeignNoop => vec![Kind::ForeignTransaction],
        }
    }
}

/// A number that looks random, for ids: the order of the ids is not that of their making.
fn mixed(number: u64) -> u64 {
    let mixed = (number ^ (number >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

fn hash(at: u64, extra: u64) -> String {
    format!("0x{:016x}{:016x}", mixed(at), mixed(at << 8 | extra))
}

fn sent(id: &str, at: u64) -> Sent {
    let (id, lane) = (TransactionId::new(id), LaneId::new(SIGNER));
    let mut sent = Sent::new(id, lane, at + 1, Timestamp::from_secs(at));
    sent.fee = Amount::from(FEE);
    sent
}

/// The lines and the transactions of one transaction of `payments` payments, with a fault.
fn make(at: u64, payments: usize, planted: Planted) -> (Vec<Booked>, Vec<Seen>) {
    let id = hash(at, 0);
    let mut chain = sent(&id, at);
    let (mut lines, mut seen) = (vec![Booked::signed(&id)], Vec::new());
    for payment in 0..payments as u64 {
        let settlement = PaymentId::from_parts(&[&at.to_be_bytes(), &payment.to_be_bytes()]);
        let (payer, seller) = (format!("payer {at}"), format!("seller {}", at % 7));
        let amount = Amount::from(payment % 2 + 10);
        let row = Row::moved(settlement, &payer, &seller, COIN, amount)
            .caller((!at.is_multiple_of(3)).then(|| format!("key {}", at % 3)))
            .at(Timestamp::from_secs(at));
        chain
            .transfers
            .push(Transfer::new(COIN, &payer, &seller, amount));
        lines.push(Booked::row(&id, row));
    }
    let twin = || hash(at, 1);
    let first = lines[1].row.clone().unwrap();
    let mut foreign = sent(&twin(), at);
    match planted {
        Planted::Nothing => {}
        Planted::RowDeleted => drop(lines.remove(1)),
        Planted::TransactionDeleted => lines.clear(),
        Planted::AmountAltered => lines[1].row.as_mut().unwrap().amount = Amount::from(5),
        Planted::RecipientAltered => lines[1].row.as_mut().unwrap().pay_to = "other".to_owned(),
        Planted::Reverted => {
            chain.succeeded = false;
            chain.transfers.clear();
        }
        Planted::MovedTwice => {
            foreign.transfers.push(chain.transfers[0].clone());
            lines.push(Booked::row(&twin(), first.says(Says::MovedElsewhere)));
            seen.push(Seen::Included(foreign));
        }
        Planted::FailedMoved => lines[1].row.as_mut().unwrap().says = Says::NotMoved,
        Planted::ForeignTransfer | Planted::ForeignNative | Planted::ForeignNoop => {
            let (to, amount) = ("thief", Amount::from(99));
            foreign.transfers.extend(match planted {
                Planted::ForeignTransfer => Some(Transfer::new(COIN, SIGNER, to, amount)),
                Planted::ForeignNative => Some(Transfer::native(SIGNER, to, amount)),
                _ => None,
            });
            seen.push(Seen::Included(foreign));
        }
        Planted::TakenBack | Planted::Unread => {}
    }
    seen.push(match planted {
        Planted::TakenBack => Seen::Absent {
            transaction: chain.transaction,
        },
        Planted::Unread => Seen::Unknown {
            transaction: chain.transaction,
            why: "no node answers".to_owned(),
        },
        _ => Seen::Included(chain),
    });
    (lines, seen)
}

fn scope() -> CompareScope {
    let scope = CompareScope::new([LaneId::new(SIGNER)], [COIN.to_owned()], 1..=BLOCKS);
    scope.times(Timestamp::from_secs(0), Timestamp::from_secs(BLOCKS))
}

/// Compares what was made, by temporary files.
fn run(
    made: impl Iterator<Item = (Vec<Booked>, Vec<Seen>)>,
    in_memory: usize,
    found: impl FnMut(Finding),
) -> Compared {
    let mut booked = Sorter::with_runs_of(in_memory, |line: &Booked| line.transaction.as_str());
    let mut seen = Sorter::with_runs_of(in_memory, |seen: &Seen| seen.transaction().as_str());
    for (lines, transactions) in made {
        lines
            .into_iter()
            .for_each(|line| booked.push(line).unwrap());
        transactions
            .into_iter()
            .for_each(|sent| seen.push(sent).unwrap());
    }
    let (booked, seen) = (booked.sorted().unwrap(), seen.sorted().unwrap());
    compare_all(&scope(), booked, seen, found).unwrap()
}

/// How often each kind was found.
fn count(differences: impl IntoIterator<Item = Kind>) -> BTreeMap<Kind, usize> {
    let mut counts = BTreeMap::new();
    for kind in differences {
        *counts.entry(kind).or_default() += 1;
    }
    counts
}

fn planted() -> impl Strategy<Value = Planted> {
    prop_oneof![
        3 => Just(Planted::Nothing),
        4 => proptest::sample::select(Planted::ALL.to_vec()),
    ]
}

proptest! {
    #[test]
    fn what_is_planted_is_found_and_nothing_else(
        world in proptest::collection::vec((1_usize..5, planted()), 0..30), in_memory in 1_usize..40,
    ) {
        let mut found = Vec::new();
        let mut gas = Amount::ZERO;
        let made = world.iter().zip(0..).map(|((payments, planted), at)| make(at, *payments, *planted));
        let compared = run(made, in_memory, |finding| match finding {
            Finding::Difference(difference) => found.push(difference),
            Finding::Gas(share) => gas = gas.checked_add(share.gas).unwrap(),
            _ => {}
        });
        let expected = world.iter().flat_map(|(payments, planted)| planted.kinds(*payments));
        prop_assert_eq!(count(found.iter().map(|it| it.kind)), count(expected), "{:?}", found);
        prop_assert_eq!(compared.differences, found.len() as u64);
        let unread = world.iter().filter(|(_, planted)| *planted == Planted::Unread).count();
        prop_assert_eq!(compared.unknown, unread as u64);
        // Every fee is with a payment, or counted as one without.
        let totals = compared.totals;
        prop_assert_eq!(gas.checked_add(totals.gas_without_payment).unwrap(), totals.gas);
        prop_assert_eq!(totals.gas, Amount::from(FEE * totals.transactions));
        let by_recipient = totals.by_recipient.values().map(|it| it.gas);
        let sum = by_recipient.fold(Amount::ZERO, |sum, gas| sum.checked_add(gas).unwrap());
        prop_assert_eq!(sum, gas);
    }
}

/// The size for which the comparison is made: a million payments in a quarter as many transactions.
#[test]
fn planted_differences_are_found_among_a_million_rows() {
    const TRANSACTIONS: u64 = 250_000;
    const PAYMENTS: usize = 4;
    // Every kind some hundred times, far from each other.
    let planted = |at: u64| match at % 97 {
        0 => Planted::ALL[(at / 97) as usize % Planted::ALL.len()],
        _ => Planted::Nothing,
    };
    let mut found = Vec::new();
    let made = (0..TRANSACTIONS).map(|at| make(at, PAYMENTS, planted(at)));
    let compared = run(made, 65_536, |finding| {
        if let Finding::Difference(difference) = finding {
            found.push(difference);
        }
    });
    assert!(
        compared.lines > TRANSACTIONS * PAYMENTS as u64,
        "{compared:?}"
    );
    let expected = (0..TRANSACTIONS).flat_map(|at| planted(at).kinds(PAYMENTS));
    let expected = count(expected);
    assert_eq!(expected.len(), Kind::ALL.len());
    assert_eq!(count(found.iter().map(|it| it.kind)), expected);
    // Each is found where it was planted.
    let places: std::collections::BTreeSet<String> = (0..TRANSACTIONS)
        .filter(|at| planted(*at) != Planted::Nothing)
        .flat_map(|at| [hash(at, 0), hash(at, 1)])
        .collect();
    assert!(
        found
            .iter()
            .all(|it| places.contains(it.transaction.as_str()))
    );
}

fn ok<T>(items: Vec<T>) -> impl Iterator<Item = io::Result<T>> {
    items.into_iter().map(Ok)
}

fn differences(lines: Vec<Booked>, seen: Vec<Seen>) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(&scope(), ok(lines), ok(seen), |difference| {
        found.push(difference)
    })
    .unwrap();
    found
}

/// Nothing that is found in streams of another order would be certain.
#[test]
fn streams_that_are_not_sorted_are_refused() {
    let lines = vec![Booked::signed("0x2"), Booked::signed("0x1")];
    let seen = |ids: [&str; 2]| ids.map(|id| Seen::Included(sent(id, 1))).to_vec();
    let sorted = seen(["0x1", "0x2"]);
    assert!(compare(&scope(), ok(lines), ok(sorted.clone()), |_| {}).is_err());
    let lines = vec![Booked::signed("0x1"), Booked::signed("0x2")];
    assert!(
        compare(
            &scope(),
            ok(lines.clone()),
            ok(seen(["0x2", "0x1"])),
            |_| {}
        )
        .is_err()
    );
    assert!(compare(&scope(), ok(lines), ok(sorted), |_| {}).is_ok());
}

/// A look-up may miss what a search of the blocks finds, at another node.
#[test]
fn what_one_node_shows_is_not_absent() {
    let (lines, seen) = make(3, 1, Planted::Nothing);
    let id = seen[0].transaction().clone();
    let absent = Seen::Absent { transaction: id };
    assert_eq!(
        differences(lines.clone(), vec![absent.clone(), seen[0].clone()]),
        []
    );
    assert_eq!(
        differences(lines.clone(), vec![seen[0].clone(), absent.clone()]),
        []
    );
    assert_eq!(differences(lines, vec![absent]).len(), 1);
}

/// What lies outside of the compared blocks and times is not a difference.
#[test]
fn only_the_compared_blocks_count() {
    let scope = CompareScope::new([LaneId::new(SIGNER)], [COIN.to_owned()], 5..=9)
        .times(Timestamp::from_secs(4), Timestamp::from_secs(8));
    for (at, expected) in [(3, 0), (4, 1), (8, 1), (9, 0)] {
        for planted in [
            Planted::TakenBack,
            Planted::AmountAltered,
            Planted::ForeignNoop,
        ] {
            let (mut lines, mut seen) = make(at, 1, planted);
            lines.sort_by(|one, other| one.transaction.cmp(&other.transaction));
            seen.sort_by(|one, other| one.transaction().cmp(other.transaction()));
            let mut found = 0;
            compare(&scope, ok(lines), ok(seen), |_| found += 1).unwrap();
            assert_eq!(found, expected, "{at} {planted:?}");
        }
    }
}

/// A payment of a payer to a seller, whose money a contract holds.
fn held(payer: &str, amount: u64) -> Booked {
    let id = PaymentId::from_parts(&[payer.as_bytes()]);
    let row = Row::moved(id, payer, "seller", COIN, Amount::from(amount));
    Booked::row("0x1", row.held(true))
}

/// The kinds of the differences between these rows and one transaction with these transfers.
fn held_kinds(rows: Vec<Booked>, moved: &[(&str, &str, u64)]) -> Vec<Kind> {
    let mut sent = sent("0x1", 1);
    let transfer = |(from, to, amount): &(&str, &str, u64)| {
        Transfer::new(COIN, from, to, Amount::from(*amount))
    };
    sent.transfers = moved.iter().map(transfer).collect();
    let found = differences(rows, vec![Seen::Included(sent)]);
    found.iter().map(|it| it.kind).collect()
}

/// A contract that holds money stands between the parties.
#[test]
fn money_that_a_contract_holds_is_matched_by_its_amount() {
    let kinds = |amount, moved: &[_]| held_kinds(vec![held("payer", amount)], moved);
    let deposit = [("payer", "collector", 7), ("collector", "escrow", 7)];
    let with_fee = [("escrow", "seller", 6), ("escrow", "fees", 1)];
    assert_eq!(kinds(7, &deposit), []);
    assert_eq!(kinds(7, &with_fee), []);
    // Charged at once: into the contract, and out of it.
    assert_eq!(kinds(7, &[deposit, with_fee].concat()), []);
    // A part is captured, and the rest returns.
    assert_eq!(
        kinds(4, &[("escrow", "seller", 4), ("escrow", "payer", 3)]),
        []
    );
    assert_eq!(kinds(7, &[("escrow", "payer", 7)]), []);
    // A claim of vouchers moves nothing.
    assert_eq!(kinds(7, &[]), []);
    assert_eq!(kinds(8, &[("escrow", "payer", 7)]), [Kind::AmountDiffers]);
    assert_eq!(kinds(8, &deposit)[0], Kind::AmountDiffers);
    let stranger = ("stranger", "other", 7);
    assert_eq!(
        kinds(7, &[("escrow", "payer", 7), stranger]),
        [Kind::MovedNotBooked]
    );
}

/// Deposits of several payers share a transaction, and the same contract gets all of them.
#[test]
fn held_payments_in_one_transaction_are_distinguished() {
    let moved = [("a", "escrow", 7), ("b", "escrow", 7), ("c", "escrow", 9)];
    let rows = || vec![held("a", 7), held("b", 7), held("c", 9)];
    assert_eq!(held_kinds(rows(), &moved), []);
    for deleted in 0..3 {
        let mut rows = rows();
        rows.remove(deleted);
        assert_eq!(
            held_kinds(rows, &moved),
            [Kind::MovedNotBooked],
            "{deleted}"
        );
    }
    let altered = vec![held("a", 7), held("b", 8), held("c", 9)];
    assert_eq!(held_kinds(altered, &moved), [Kind::AmountDiffers]);
    // The row with a wrong amount takes no transfer from a later row.
    let captured = [("escrow", "seller", 7), ("escrow", "seller", 5)];
    let altered = vec![held("a", 9), held("b", 7)];
    assert_eq!(held_kinds(altered, &captured), [Kind::AmountDiffers]);
    // A pruned row is matched last, by its amount.
    let mut pruned = rows();
    let row = pruned[0].row.as_mut().unwrap();
    (row.payer, row.pay_to) = (String::new(), String::new());
    assert_eq!(held_kinds(pruned, &moved), []);
}

/// A pruned row has no parties, and takes no transfer from a row that has some.
#[test]
fn a_pruned_row_is_matched_by_its_amount() {
    let (mut lines, seen) = make(1, 3, Planted::Nothing);
    let row = lines[1].row.as_mut().unwrap();
    (row.payer, row.pay_to) = (String::new(), String::new());
    assert_eq!(differences(lines.clone(), seen.clone()), []);
    lines[1].row.as_mut().unwrap().amount = Amount::from(5);
    assert_eq!(differences(lines, seen)[0].kind, Kind::AmountDiffers);
}

/// A payer's approval is a step: the facilitator gives it coins for its gas, and nothing else.
#[test]
fn only_a_step_may_pay_coins_from_the_signer() {
    let row = Row::moved(
        PaymentId::from_parts(&[b"s"]),
        "payer",
        "seller",
        COIN,
        Amount::from(7),
    );
    let mut sent = sent("0x1", 1);
    sent.transfers = vec![Transfer::native(SIGNER, "payer", Amount::from(9))];
    let seen = vec![Seen::Included(sent)];
    let step = Booked::row("0x1", row.says(Says::Step));
    assert_eq!(differences(vec![step], seen.clone()), []);
    let found = differences(vec![Booked::signed("0x1")], seen);
    assert_eq!(found[0].kind, Kind::ForeignTransfer);
}
