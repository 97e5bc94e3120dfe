//! What the comparison prints: lines for people, or JSON Lines.

use quittance_books::{Compared, Difference, Finding, Gas, Payments, Totals};
use quittance_core::{Amount, Network, printable};
use serde_json::{Value, json};

use crate::commands::when;
use crate::families::Families;

/// Prints to standard output, and counts.
pub(super) struct Output<'a> {
    families: &'a Families,
    is_json: bool,
    lists_payments: bool,
    differences: u64,
    unknowns: u64,
}

impl<'a> Output<'a> {
    pub(super) fn new(families: &'a Families, is_json: bool, lists_payments: bool) -> Self {
        Self {
            families,
            is_json,
            lists_payments,
            differences: 0,
            unknowns: 0,
        }
    }

    /// How many differences were printed.
    pub(super) fn differences(&self) -> u64 {
        self.differences
    }

    /// How many things could not be read.
    pub(super) fn unknowns(&self) -> u64 {
        self.unknowns
    }

    /// Something that could not be read.
    pub(super) fn unknown(&mut self, network: &Network, problem: &str) {
        self.unknowns += 1;
        match self.is_json {
            true => line(json!({ "type": "unknown", "network": network.id(), "why": problem })),
            false => println!("{network}\tunknown\t{}", printable(problem)),
        }
    }

    /// A difference, or the gas of a payment.
    pub(super) fn found(&mut self, network: &Network, finding: Finding) {
        match finding {
            Finding::Difference(difference) => {
                self.differences += 1;
                match self.is_json {
                    true => line(difference_json(network, &difference)),
                    false => println!("{}", self.difference_text(network, &difference)),
                }
            }
            Finding::Gas(gas) if self.lists_payments => self.gas(network, &gas),
            _ => {}
        }
    }

    fn gas(&self, network: &Network, gas: &Gas) {
        let Gas {
            settlement, gas, ..
        } = gas;
        match self.is_json {
            true => line(json!({
                "type": "gas", "network": network.id(), "settlement": settlement.to_string(),
                "gas": gas,
            })),
            false => println!("{network}\tgas\t{gas}\tof {settlement}"),
        }
    }

    /// The end of a network's comparison.
    pub(super) fn compared(&mut self, network: &Network, compared: &Compared) {
        if let Some(first) = &compared.first_unknown {
            let count = compared.unknown;
            let problem = format!("the nodes do not report {count} transactions, such as {first}");
            self.unknown(network, &problem);
        }
        match self.is_json {
            true => line(totals_json(network, compared)),
            false => print_totals(network, &compared.totals),
        }
        eprintln!(
            "{network}: {} lines of the journal, {} transactions compared, {} differences",
            compared.lines, compared.transactions, compared.differences
        );
    }

    fn difference_text(&self, network: &Network, difference: &Difference) -> String {
        let Difference {
            kind,
            transaction,
            settlement,
            from,
            to,
            detail,
            ..
        } = difference;
        let amounts = [("booked", difference.booked), ("moved", difference.moved)];
        let amounts: Vec<String> = amounts
            .into_iter()
            .filter_map(|(name, amount)| Some((name, amount?)))
            .map(|(name, amount)| format!("{name} {}", self.amount(network, difference, amount)))
            .collect();
        let settlement = settlement.map_or("no settlement".to_owned(), |id| id.to_string());
        let block = difference
            .block
            .map_or("in no block".to_owned(), |block| format!("block {block}"));
        format!(
            "{network}\t{kind}\t{}\tfrom {}\tto {}\t{transaction}\t{block}\t{}\t{settlement}\t{detail}: {}",
            amounts.join(", "),
            printable(from),
            printable(to),
            when::text(difference.time),
            kind.advice()
        )
    }

    fn amount(&self, network: &Network, difference: &Difference, amount: Amount) -> String {
        let Some(asset) = &difference.asset else {
            return format!("{amount} units of the chain's own coin");
        };
        let mut families = self.families.iter();
        let token = families.find_map(|family| family.token(network.id(), asset));
        match token {
            Some(token) => format!("{} {}", amount.to_decimal(token.decimals), token.symbol),
            None => format!("{amount} atomic units of {}", printable(asset)),
        }
    }
}

fn line(value: Value) {
    println!("{value}");
}

fn difference_json(network: &Network, difference: &Difference) -> Value {
    json!({
        "type": "difference",
        "kind": difference.kind.as_str(),
        "network": network.id(),
        "transaction": difference.transaction.as_str(),
        "block": difference.block,
        "time": difference.time.secs(),
        "settlement": difference.settlement.map(|id| id.to_string()),
        "asset": difference.asset,
        "from": difference.from,
        "to": difference.to,
        "booked": difference.booked,
        "moved": difference.moved,
        "detail": difference.detail,
        "advice": difference.kind.advice(),
    })
}

fn totals_json(network: &Network, compared: &Compared) -> Value {
    let totals = &compared.totals;
    let payments = |name: Value, payments: &Payments| json!({ "name": name, "payments": payments.moved, "gas": payments.gas });
    let recipients = totals.by_recipient.iter();
    let callers = totals.by_caller.iter();
    json!({
        "type": "totals",
        "network": network.id(),
        "lines": compared.lines,
        "transactions": totals.transactions,
        "differences": compared.differences,
        "unknown": compared.unknown,
        "gas": totals.gas,
        "gas_without_payment": totals.gas_without_payment,
        "by_recipient": recipients.map(|(name, sums)| payments(json!(name), sums)).collect::<Vec<_>>(),
        "by_caller": callers.map(|(name, sums)| payments(json!(name), sums)).collect::<Vec<_>>(),
    })
}

fn print_totals(network: &Network, totals: &Totals) {
    println!(
        "{network}\tgas\t{} of the chain's smallest units in {} transactions\t{} of them for no payment",
        totals.gas, totals.transactions, totals.gas_without_payment
    );
    let row = |name: &str, sums: &Payments| {
        println!(
            "{network}\tgas\t{}\t{} payments\t{name}",
            sums.gas, sums.moved
        );
    };
    for (recipient, sums) in &totals.by_recipient {
        match recipient.as_str() {
            "" => row("to recipients that were pruned", sums),
            recipient => row(&format!("to {}", printable(recipient)), sums),
        }
    }
    for (caller, sums) in &totals.by_caller {
        match caller.as_deref() {
            None => row("for callers without a key", sums),
            Some("") => row("for callers that were pruned", sums),
            Some(caller) => row(&format!("for the caller {}", printable(caller)), sums),
        }
    }
}
