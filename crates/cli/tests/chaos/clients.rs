//! Buyers and sellers in one: each client signs payments and has them settled, by any facilitator,
//! with races, repeats and disconnections.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use quittance_core::wire::{PaymentRequirements, SupportedKind};
use quittance_core::{Amount, Clock as _, Offer, Payer, PaymentRequest, SaleId, SystemClock};
use quittance_devnet::{Evm, SOLANA_USDC, Solana};
use quittance_evm::{ExactOffer, ExactPayer};
use quittance_solana::{
    ExactOffer as SolanaOffer, ExactPayer as SolanaPayer, Token, TokenProgram, known,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::stage::Stage;

/// How many clients pay at once on each chain. More of them wait for the machine, not for faults.
const EVM_CLIENTS: usize = 10;
const SOLANA_CLIENTS: usize = 4;

/// How long a client waits for an answer. A facilitator answers within eight seconds, unless it is
/// stopped.
const ANSWER_WAIT: Duration = Duration::from_secs(20);

/// The chain of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chain {
    Evm,
    Solana,
}

/// A payment, and everything that clients were answered about it.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) chain: Chain,
    /// The amount in atomic units. Amounts are drawn so that sums of different payments differ.
    pub(crate) amount: Amount,
    /// The nonce of the authorization, on the EVM chain.
    pub(crate) nonce: Option<String>,
    pub(crate) answers: Vec<Answer>,
}

/// An answer to /settle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It settled, and this answer is the first that says so.
    Success,
    /// It settled, as the same sale was answered before.
    SuccessAgain,
    /// A verdict against it, or against this answer.
    Refused(String),
    /// Not decided: pending, or a fault of the facilitator.
    Undecided(String),
    /// The client went away, or the connection broke.
    None,
}

impl Answer {
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Success | Self::SuccessAgain | Self::Refused(_))
    }
}

impl Record {
    /// Whether a client's connection ended without an answer.
    pub(crate) fn lost_an_answer(&self) -> bool {
        self.answers.contains(&Answer::None)
    }
}

/// The ids that answers have named.
#[derive(Debug, Default)]
pub(crate) struct Named {
    pub(crate) settlements: BTreeSet<String>,
    pub(crate) transactions: BTreeSet<String>,
}

/// A payment that a client works on.
struct Payment {
    record: Record,
    request: PaymentRequest,
    named: Named,
    /// The key of its sale, if its client sends one.
    sale: Option<String>,
}

/// All clients of a run.
pub(crate) struct Clients {
    stopping: Arc<AtomicBool>,
    working: Vec<JoinHandle<Vec<Payment>>>,
    urls: Vec<String>,
}

impl Clients {
    pub(crate) async fn start(stage: &Stage, seed: u64) -> Self {
        let urls: Vec<String> = stage
            .facilitators
            .iter()
            .map(|facilitator| facilitator.url.clone())
            .collect();
        let stopping = Arc::new(AtomicBool::new(false));
        let evm = std::iter::repeat_n(Chain::Evm, EVM_CLIENTS);
        let solana = std::iter::repeat_n(Chain::Solana, SOLANA_CLIENTS);
        let mut working = Vec::new();
        for (at, chain) in evm.chain(solana).enumerate() {
            let client = PayingClient {
                random: StdRng::seed_from_u64(seed ^ (at as u64 + 1)),
                seller: Seller::new(stage, chain, at),
                urls: urls.clone(),
                stopping: Arc::clone(&stopping),
            };
            working.push(tokio::spawn(client.run()));
        }
        Self {
            stopping,
            working,
            urls,
        }
    }

    /// Stops paying, and asks again for each payment until it is decided.
    pub(crate) async fn finish(self, wait: Duration) -> (Vec<Record>, Named) {
        self.stopping.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + wait;
        let mut payments: Vec<Payment> = join_all(self.working)
            .await
            .into_iter()
            .flat_map(Result::unwrap)
            .collect();
        // Every payment is asked for once more, by a client without a sale's key.
        let urls = &self.urls;
        let asking = payments.chunks_mut(16).map(|chunk| async move {
            for payment in chunk {
                payment.sale = None;
                while Instant::now() < deadline {
                    let answer = settle(payment, &urls[0], ANSWER_WAIT).await;
                    let is_final = answer.is_final();
                    payment.record.answers.push(answer);
                    if is_final {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        });
        join_all(asking).await;
        let mut named = Named::default();
        let records = payments.into_iter().map(|payment| {
            named.settlements.extend(payment.named.settlements);
            named.transactions.extend(payment.named.transactions);
            payment.record
        });
        (records.collect(), named)
    }
}

/// What a client needs to sign payments on its chain.
struct Seller {
    chain: Chain,
    payer: Box<dyn Payer>,
    requirements: Vec<PaymentRequirements>,
}

impl Seller {
    fn new(stage: &Stage, chain: Chain, at: usize) -> Self {
        match chain {
            Chain::Evm => Self::on_evm(at),
            Chain::Solana => Self::on_solana(stage),
        }
    }

    fn on_evm(at: usize) -> Self {
        let accounts = Evm::accounts();
        let seller = accounts[1].address.to_string();
        let offer = ExactOffer::usdc("base-sepolia", "1", &seller).unwrap();
        let kind = SupportedKind::new(2, "exact", offer.network().id());
        let mut requirements = offer.requirements(&kind).unwrap();
        // A reorganisation may put a payment off. An hour is longer than a run puts it off.
        requirements.max_timeout_seconds = 3600;
        // Accounts 2 to 7 pay; 0 and 8 sign for the facilitators, and 1 sells.
        Self {
            chain: Chain::Evm,
            payer: Box::new(ExactPayer::new(accounts[2 + at % 6].signer.clone())),
            requirements: vec![requirements],
        }
    }

    fn on_solana(stage: &Stage) -> Self {
        let network = known::network("solana-devnet").unwrap();
        let token = Token::new(SOLANA_USDC, "USDC", 6, TokenProgram::SplToken);
        let mut accounts = Solana::accounts();
        let seller = accounts[2].address.to_string();
        let offer = SolanaOffer::new(network.clone(), token.clone(), "1", &seller).unwrap();
        let requirements = accounts[..2].iter().map(|fee_payer| {
            let mut kind = SupportedKind::new(2, "exact", network.id());
            let extra = json!({ "feePayer": fee_payer.address.to_string() });
            kind.extra = Some(quittance_core::json::Object::of(&extra).unwrap());
            offer.requirements(&kind).unwrap()
        });
        let requirements = requirements.collect();
        let url = stage.solana.url().parse().unwrap();
        let payer = SolanaPayer::new(accounts.swap_remove(3).keypair)
            .with_token(network.id(), token)
            .with_rpc(&network, &[url]);
        Self {
            chain: Chain::Solana,
            payer: Box::new(payer.unwrap()),
            requirements,
        }
    }

    async fn pay(&self, random: &mut StdRng) -> Payment {
        let mut requirements =
            self.requirements[random.random_range(0..self.requirements.len())].clone();
        // Twenty digits of a run's sum tell which payments are in it.
        let amount = Amount::from(random.random_range(1_000_u64..1_000_000));
        requirements.amount = amount.to_string();
        let request = quittance_testing::pay(&*self.payer, &requirements, SystemClock.now()).await;
        let payload = request.payload.tree();
        let nonce = payload.get("authorization").and_then(|signed| {
            let nonce = signed.get("nonce").and_then(Value::as_str);
            nonce.map(str::to_owned)
        });
        let sale = random
            .random_bool(0.5)
            .then(|| format!("sale-{:032x}", random.random::<u128>()));
        Payment {
            record: Record {
                chain: self.chain,
                amount,
                nonce,
                answers: Vec::new(),
            },
            request,
            named: Named::default(),
            sale,
        }
    }
}

/// A client that pays, one payment after the other.
struct PayingClient {
    random: StdRng,
    seller: Seller,
    urls: Vec<String>,
    stopping: Arc<AtomicBool>,
}

impl PayingClient {
    async fn run(mut self) -> Vec<Payment> {
        let mut payments = Vec::new();
        while !self.stopping.load(Ordering::SeqCst) {
            let mut payment = self.seller.pay(&mut self.random).await;
            self.settle(&mut payment).await;
            payments.push(payment);
            tokio::time::sleep(Duration::from_millis(self.random.random_range(0..600))).await;
        }
        payments
    }

    /// Has a payment settled, as an impatient seller would.
    async fn settle(&mut self, payment: &mut Payment) {
        while !self.stopping.load(Ordering::SeqCst) {
            // Now and then several processes of a seller ask at once.
            let racers = match self.random.random_range(0..10) {
                0 => 3,
                1 | 2 => 2,
                _ => 1,
            };
            let asked = (0..racers).map(|_| {
                let url = &self.urls[self.random.random_range(0..self.urls.len())];
                let wait = match self.random.random_range(0..8) {
                    0 => Duration::from_millis(self.random.random_range(0..2_000)),
                    _ => ANSWER_WAIT,
                };
                (url.clone(), wait)
            });
            let asked: Vec<(String, Duration)> = asked.collect();
            let (request, sale) = (payment.request.text(), payment.sale.as_deref());
            let answers = asked
                .iter()
                .map(|(url, wait)| ask(request, sale, url, *wait));
            let mut is_final = false;
            for (answer, named) in join_all(answers).await {
                is_final |= answer.is_final();
                payment.record.answers.push(answer);
                payment.named.settlements.extend(named.settlements);
                payment.named.transactions.extend(named.transactions);
            }
            if is_final {
                return;
            }
            tokio::time::sleep(Duration::from_millis(self.random.random_range(100..1_000))).await;
        }
    }
}

/// Asks once for a payment, and notes what the answer names.
async fn settle(payment: &mut Payment, url: &str, wait: Duration) -> Answer {
    let (request, sale) = (payment.request.text(), payment.sale.as_deref());
    let (answer, named) = ask(request, sale, url, wait).await;
    payment.named.settlements.extend(named.settlements);
    payment.named.transactions.extend(named.transactions);
    answer
}

async fn ask(request: &str, sale: Option<&str>, url: &str, wait: Duration) -> (Answer, Named) {
    let mut post = Client::new()
        .post(format!("{url}/settle"))
        .timeout(wait)
        .header("content-type", "application/json")
        .body(request.to_owned());
    if let Some(sale) = sale {
        post = post.header("idempotency-key", sale);
    }
    let Ok(answer) = post.send().await else {
        return (Answer::None, Named::default());
    };
    let status = answer.status();
    let Ok(body) = answer.json::<Value>().await else {
        return (Answer::None, Named::default());
    };
    (read(status, &body), named(&body))
}

fn read(status: StatusCode, body: &Value) -> Answer {
    let reason = || {
        let reason = ["errorReason", "error"]
            .into_iter()
            .find_map(|field| body[field].as_str());
        reason.unwrap_or_default().to_owned()
    };
    match (status, body["success"].as_bool()) {
        (StatusCode::OK, Some(true)) if body["extra"][SaleId::REPEATED] == true => {
            Answer::SuccessAgain
        }
        (StatusCode::OK, Some(true)) => Answer::Success,
        (StatusCode::OK, Some(false)) if reason() == "settlement_pending" => {
            Answer::Undecided(reason())
        }
        (StatusCode::OK, Some(false)) => Answer::Refused(reason()),
        _ => Answer::Undecided(format!("{status} {}", reason())),
    }
}

fn named(body: &Value) -> Named {
    let text = |value: &Value| {
        let text = value.as_str().filter(|text| !text.is_empty());
        text.map(str::to_owned)
    };
    Named {
        settlements: text(&body["extra"]["settlement"]).into_iter().collect(),
        transactions: text(&body["transaction"]).into_iter().collect(),
    }
}
