//! A model of servers, honest and lying, against a payer's book.

use alloy::primitives::Address;
use proptest::prelude::*;

use super::*;

fn config() -> ChannelConfig {
    ChannelConfig {
        payer: Address::repeat_byte(1),
        payer_authorizer: Address::repeat_byte(1),
        receiver: Address::repeat_byte(3),
        receiver_authorizer: Address::repeat_byte(4),
        token: Address::repeat_byte(5),
        withdraw_delay: 900,
        salt: B256::ZERO,
    }
}

fn book() -> PayerBook {
    let mut book = PayerBook::new("eip155:1", B256::ZERO, config(), ("USDC", 6));
    book.balance = 1_000_000;
    book
}

/// Signs the next voucher.
fn sign(book: &mut PayerBook, price: u128) -> Increment {
    let increment = book.increment(price).unwrap();
    book.sign(increment);
    increment
}

fn said(charged: u128, proven: u128) -> Correction {
    Correction {
        charged,
        proven,
        balance: None,
    }
}

/// What a server does with a presented voucher.
#[derive(Debug, Clone, Copy)]
enum Answer {
    /// It charges this many percent of the price, and delivers.
    Serves(u128),
    /// It charges as much, and its answer is lost.
    LosesServed(u128),
    /// The request is lost.
    LosesRequest,
    /// It refuses without a reason.
    Refuses,
}

/// What happens next in the life of a channel.
#[derive(Debug, Clone)]
enum Event {
    /// A new purchase, with the answers to its vouchers that are the next ones.
    Buys(u128, Vec<Answer>),
    /// The call for an earlier purchase is repeated.
    Repeats(usize, Vec<Answer>),
    /// Another program with the same key buys for this price.
    Elsewhere(u128),
    /// The process ends, and its successor reads the book.
    Restarts,
}

fn answers() -> impl Strategy<Value = Vec<Answer>> {
    let answer = prop_oneof![
        4 => (0..=100_u128).prop_map(Answer::Serves),
        2 => (0..=100_u128).prop_map(Answer::LosesServed),
        1 => Just(Answer::LosesRequest),
        1 => Just(Answer::Refuses),
    ];
    prop::collection::vec(answer, 1..4)
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (1..100_u128, answers()).prop_map(|(price, answers)| Event::Buys(price, answers)),
        3 => (0..20_usize, answers()).prop_map(|(at, answers)| Event::Repeats(at, answers)),
        1 => (1..100_u128).prop_map(Event::Elsewhere),
        1 => Just(Event::Restarts),
    ];
    prop::collection::vec(event, 1..40)
}

/// A purchase whose end is not known.
struct Purchase {
    price: u128,
    voucher: Increment,
    presented: bool,
    /// How often the server has charged it.
    charges: u32,
}

/// An honest server, and the calls of a buyer.
struct Model {
    book: PayerBook,
    charged: u128,
    /// The newest voucher that the server has.
    newest: u128,
    open: Vec<Purchase>,
    /// The sum of all prices that were to be paid by the key, here and elsewhere.
    asked: u128,
}

impl Model {
    fn new() -> Self {
        Self {
            book: book(),
            charged: 0,
            newest: 0,
            open: Vec::new(),
            asked: 0,
        }
    }

    /// Presents a purchase until its call ends, as the buyer does. Returns it if it stays open.
    fn call(&mut self, mut purchase: Purchase, answers: &[Answer]) -> Option<Purchase> {
        let mut replaced = 0;
        for answer in answers {
            let presented_before = purchase.presented;
            purchase.presented = true;
            if matches!(answer, Answer::LosesRequest) {
                continue;
            }
            let is_next = purchase.voucher.max == self.charged + purchase.price;
            let correction = match (is_next, answer) {
                (true, Answer::Serves(percent) | Answer::LosesServed(percent)) => {
                    let amount = purchase.price * percent / 100;
                    self.charged += amount;
                    self.newest = purchase.voucher.max;
                    purchase.charges += u32::from(amount > 0);
                    assert!(purchase.charges <= 1, "a purchase was charged twice");
                    match answer {
                        Answer::Serves(_) => {
                            self.book.served(purchase.voucher, amount);
                            return None;
                        }
                        _ => continue,
                    }
                }
                (true, _) => said(self.book.charged, 0),
                (false, _) => said(self.charged, self.newest),
            };
            let next = self
                .book
                .corrected(purchase.voucher, &correction, presented_before);
            match next {
                Next::Replace if replaced < 2 => {
                    replaced += 1;
                    purchase.voucher = sign(&mut self.book, purchase.price);
                    purchase.presented = false;
                }
                _ => return Some(purchase),
            }
        }
        Some(purchase)
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Buys(price, answers) => {
                self.asked += price;
                let voucher = sign(&mut self.book, price);
                let purchase = Purchase {
                    price,
                    voucher,
                    presented: false,
                    charges: 0,
                };
                let left = self.call(purchase, &answers);
                self.open.extend(left);
            }
            Event::Repeats(at, answers) => {
                if at < self.open.len() {
                    let purchase = self.open.remove(at);
                    let left = self.call(purchase, &answers);
                    self.open.extend(left);
                }
            }
            Event::Elsewhere(price) => {
                self.asked += price;
                self.charged += price;
                self.newest = self.charged;
            }
            Event::Restarts => {
                let text = self.book.to_text().unwrap();
                let read = PayerBook::read(&text).unwrap();
                assert_eq!(read, self.book);
                self.book = read;
            }
        }
    }
}

/// Which amount a server names as charged, which voucher it shows, and whether it had the payment
/// before.
fn lie() -> impl Strategy<Value = (prop::sample::Index, prop::sample::Index, bool)> {
    any::<(prop::sample::Index, prop::sample::Index, bool)>()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// With an honest server, whatever is lost.
    #[test]
    fn no_purchase_is_charged_twice(events in events()) {
        let mut model = Model::new();
        for event in events {
            model.apply(event);
            // No more is ever signed than everything cost that was to be bought.
            prop_assert!(model.book.signed <= model.asked);
            prop_assert!(model.book.charged <= model.book.signed);
        }
    }

    /// A server says what it likes, and delivers when it likes. It can show every voucher that it
    /// has seen, and names amounts that vouchers had.
    #[test]
    fn lying_server_gets_one_price_for_a_purchase(
        purchases in prop::collection::vec(
            (1..4_u128, prop::collection::vec(lie(), 0..6), any::<Option<bool>>()), 1..12,
        ),
    ) {
        let (mut book, mut seen, mut asked) = (book(), vec![0], 0);
        for (price, lies, delivers) in purchases {
            asked += price;
            let mut voucher = sign(&mut book, price);
            seen.extend([voucher.base, voucher.max]);
            for (charged, proven, presented_before) in lies {
                let correction = said(*charged.get(&seen), *proven.get(&seen));
                let next = book.corrected(voucher, &correction, presented_before);
                prop_assert!(book.signed <= asked, "{} for {asked}", book.signed);
                if next != Next::Replace {
                    continue;
                }
                voucher = sign(&mut book, price);
                seen.extend([voucher.base, voucher.max]);
                prop_assert!(book.signed <= asked, "{} for {asked}", book.signed);
            }
            // Otherwise the answer is lost.
            if let Some(is_charged) = delivers {
                book.served(voucher, if is_charged { price } else { 0 });
            }
        }
    }

    /// Servers that deliver, and name any charge.
    #[test]
    fn receipt_cannot_charge_more_than_the_price(
        purchases in prop::collection::vec((1..100_u128, any::<u128>()), 1..20),
    ) {
        let (mut book, mut asked) = (book(), 0);
        for (price, charged) in purchases {
            asked += price;
            let voucher = sign(&mut book, price);
            book.served(voucher, charged);
            prop_assert!(book.charged <= asked && book.signed <= asked);
        }
    }
}

#[test]
fn next_voucher_begins_where_less_was_charged() {
    let mut book = book();
    let first = sign(&mut book, 10);
    book.served(first, 3);
    assert_eq!((book.charged, book.next(10)), (3, Some(13)));
    // The same receipt again changes nothing.
    book.served(first, 10);
    assert_eq!(book.charged, 3);
}

/// The answer was lost. Whether the payment was charged decides the next purchase.
#[test]
fn lost_payment_is_decided_by_the_next_one() {
    let mut book = book();
    let lost = sign(&mut book, 10);
    assert_eq!(book.state_of(lost.max), AuthorizationState::Usable);
    // The same voucher again, and it is served: the lost payment was not charged.
    let mut served = book.clone();
    let next = sign(&mut served, 10);
    assert_eq!(next, lost);
    served.served(next, 10);
    assert_eq!(served.state_of(lost.max), AuthorizationState::Expired);
    assert_eq!(served.corrected(lost, &said(10, 10), true), Next::Replace);
    // It is refused: the lost payment was charged.
    let next = sign(&mut book, 10);
    assert_eq!(book.corrected(next, &said(10, 10), false), Next::Replace);
    assert_eq!(sign(&mut book, 10).max, 20);
    assert_eq!(book.corrected(lost, &said(10, 10), true), Next::Used);
    // It is the explanation of no other refusal.
    assert_eq!(book.state_of(lost.max), AuthorizationState::Unknown);
}

/// The server takes the voucher, and shows it as the proof that it was charged before.
#[test]
fn own_voucher_is_no_proof_of_another_charge() {
    let mut book = book();
    let voucher = sign(&mut book, 10);
    assert_eq!(book.corrected(voucher, &said(10, 10), false), Next::Used);
    // Nor is it after a lost payment for less.
    let mut book = self::book();
    sign(&mut book, 4);
    let voucher = sign(&mut book, 10);
    assert_eq!(book.corrected(voucher, &said(10, 10), false), Next::Used);
}

/// A server once got two prices for the second purchase: it named less than was charged, so that a
/// voucher from the beginning was signed again, and then explained all charges by the first one.
#[test]
fn charge_that_falls_and_rises_is_paid_once() {
    let mut book = book();
    let first = sign(&mut book, 10);
    assert_eq!(book.corrected(first, &said(10, 10), false), Next::Used);
    let second = sign(&mut book, 10);
    assert_eq!(book.corrected(second, &said(0, 20), false), Next::Replace);
    let again = sign(&mut book, 10);
    assert_eq!(again, first);
    assert_eq!(book.corrected(again, &said(20, 20), false), Next::Used);
    assert_eq!(book.signed, 20);
    // What the chain shows stays charged.
    let claimed = ChannelState {
        balance: 1_000_000,
        total_claimed: 20,
        ..ChannelState::default()
    };
    book.sync(&claimed);
    let third = sign(&mut book, 10);
    assert_eq!(book.corrected(third, &said(0, 20), false), Next::Keep);
    assert_eq!(book.charged, 20);
}

/// Its payment was the one that was charged, once.
#[test]
fn one_lost_payment_explains_one_refusal() {
    let mut book = book();
    sign(&mut book, 10);
    let second = sign(&mut book, 10);
    assert_eq!(book.corrected(second, &said(10, 10), false), Next::Replace);
    let second = sign(&mut book, 10);
    book.served(second, 10);
    let third = sign(&mut book, 10);
    assert_eq!(book.corrected(third, &said(0, 30), false), Next::Replace);
    let third = sign(&mut book, 10);
    assert_eq!(book.corrected(third, &said(10, 30), false), Next::Used);
    assert_eq!(book.signed, 30);
}

/// A withdrawal changes no number of refunds.
#[test]
fn book_recovers_after_a_withdrawal() {
    let announced = ChannelState {
        balance: 1_000_000,
        withdraw_requested_at: 5,
        ..ChannelState::default()
    };
    let withdrawn = ChannelState::default();
    let mut book = book();
    book.sync(&announced);
    assert_eq!(book.withdraw_requested_at, 5);
    book.sync(&withdrawn);
    assert_eq!(
        (book.balance, book.locked(), book.withdraw_requested_at),
        (0, 0, 0)
    );
    // The payer did not see the announcement: the second look counts.
    let mut book = self::book();
    for balance in [1_000_000, 0] {
        book.sync(&withdrawn);
        assert_eq!(book.balance, balance);
    }
}

#[test]
fn correction_beyond_what_was_signed_changes_nothing() {
    let mut book = book();
    let voucher = sign(&mut book, 10);
    let before = book.clone();
    assert_eq!(book.corrected(voucher, &said(11, 10), false), Next::Keep);
    assert_eq!(book, before);
}

#[test]
fn lost_books_are_corrected_by_a_signed_voucher() {
    let mut book = book();
    let voucher = sign(&mut book, 10);
    assert_eq!(book.corrected(voucher, &said(50, 50), false), Next::Replace);
    assert_eq!(sign(&mut book, 10).max, 60);
    // Not if the server may have charged the voucher itself.
    let mut book = self::book();
    let voucher = sign(&mut book, 10);
    assert_eq!(book.corrected(voucher, &said(50, 50), true), Next::Used);
}

/// The same voucher again would be refused again.
#[test]
fn refusal_with_an_equal_book_replaces_nothing() {
    let mut book = book();
    let voucher = sign(&mut book, 10);
    assert_eq!(book.corrected(voucher, &said(0, 0), false), Next::Keep);
    // Unless the channel has less than the payer thought: a deposit was missing.
    book.set_balance(5);
    assert_eq!(book.corrected(voucher, &said(0, 0), false), Next::Replace);
    assert_eq!(book.locked(), 1_000_000);
}

/// A node that is behind does not know the newest deposit.
#[test]
fn balance_becomes_less_only_by_a_proven_payment() {
    let mut book = book();
    let chain = |balance, nonce: u64| ChannelState {
        balance,
        total_claimed: 0,
        withdraw_requested_at: 0,
        refund_nonce: U256::from(nonce),
    };
    book.sync(&chain(0, 0));
    assert_eq!(book.balance, 1_000_000);
    book.sync(&chain(2_000_000, 0));
    assert_eq!(book.balance, 2_000_000);
    book.sync(&chain(7, 1));
    assert_eq!(book.balance, 7);
    // What a seller says stays locked up until the chain shows it.
    book.set_balance(2);
    assert_eq!((book.balance, book.locked()), (2, 7));
    book.sync(&chain(7, 1));
    assert_eq!((book.balance, book.locked()), (7, 7));
}

/// A seller that names a huge balance must not use up the limits of deposits elsewhere.
#[test]
fn named_balance_pays_vouchers_and_counts_for_no_limit() {
    let mut book = PayerBook::new("eip155:1", B256::ZERO, config(), ("USDC", 6));
    assert_eq!(book.shortage(10), 10);
    book.set_balance(u128::MAX);
    assert_eq!((book.shortage(10), book.locked()), (0, 0));
    book.set_balance(4);
    assert_eq!((book.shortage(10), book.refundable()), (6, 4));
}

#[test]
fn refund_is_corrected_within_what_was_signed() {
    let mut book = book();
    let voucher = sign(&mut book, 10);
    book.served(voucher, 4);
    assert_eq!(book.corrected_refund(4, &said(11, 10)), Next::Keep);
    assert_eq!(book.charged, 4);
    assert_eq!(book.corrected_refund(4, &said(10, 10)), Next::Replace);
    // The same correction again is no reason for another one.
    assert_eq!(book.corrected_refund(10, &said(10, 10)), Next::Keep);
}

#[test]
fn only_a_book_of_this_format_is_read() {
    let text = String::from_utf8(book().to_text().unwrap()).unwrap();
    assert!(PayerBook::read(text.as_bytes()).is_ok());
    for odd in [
        "",
        "{}",
        "[]",
        &text.replace("\"format\": 1", "\"format\": 2"),
        &text.replace("\"1000000\"", "\"-1\""),
    ] {
        assert!(PayerBook::read(odd.as_bytes()).is_err(), "{odd}");
    }
}
