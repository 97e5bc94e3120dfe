//! A third family of chains is a file and a line in the program. `simulated.rs` is the file, and
//! `Setting::families` has the line. The program's own parts read its configuration, check it, and
//! serve its payments.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod simulated;

use std::path::PathBuf;

use quittance_cli::config::Config;
use quittance_cli::families::{Families, Family};
use quittance_cli::startup::{self, CheckReport, Startup};
use quittance_core::{
    Amount, Clock, Facilitator, Payer, PaymentId, PaymentRequest, Reason, SaleId, Scope,
    SystemClock,
};
use quittance_service::{router, serve};
use quittance_testing::world::{COIN, NETWORK, PRICE, USD, World};
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

use simulated::{SimulatedFamily, SimulatedPayerArgs};

/// A world, and a folder with the configuration of a facilitator for it.
struct Setting {
    world: World,
    folder: TempDir,
}

impl Setting {
    fn new() -> Self {
        let world = World::new();
        // The program reads the time from the system, so authorizations must agree with it.
        world.clock().set(SystemClock.now());
        world.includes_at_once(true);
        let setting = Self {
            world,
            folder: tempfile::tempdir().unwrap(),
        };
        let [signer, _] = World::signer_keys();
        std::fs::write(setting.path("signer"), hex::encode(signer.to_bytes())).unwrap();
        setting
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The families of a program that also knows the simulated chain.
    fn families(&self) -> Families {
        Families::shipped().with(SimulatedFamily(self.world.clone()))
    }

    /// The text of a configuration, with more keys in the table of the simulated chain.
    fn text(&self, more: &str) -> String {
        format!(
            "listen = \"127.0.0.1:0\"\njournal = {:?}\naccess.anyone = true\n\n[[simulated]]\n\
             network = {NETWORK:?}\nrpc = []\nsigners = [{{ file = {:?} }}]\n{more}\n",
            self.path("journal.db"),
            self.path("signer"),
        )
    }

    /// The configuration, read from a file as the program does.
    fn config(&self, more: &str) -> Config {
        let path = self.path("quittance.toml");
        std::fs::write(&path, self.text(more)).unwrap();
        Config::read(&path, &self.families()).unwrap()
    }

    async fn check(&self, more: &str) -> CheckReport {
        startup::check(&self.config(more), &self.families()).await
    }

    fn received(&self) -> Amount {
        self.world.balance(&self.world.seller(), USD)
    }
}

/// A facilitator that is being served.
struct Serving {
    url: String,
    stop: oneshot::Sender<()>,
    stopped: tokio::task::JoinHandle<()>,
}

impl Serving {
    /// Starts the facilitator, as `quittance serve` does.
    async fn start(setting: &Setting, more: &str) -> Self {
        let config = setting.config(more);
        let startup = Startup::read(&config, &setting.families()).unwrap();
        let service = config.service_options(startup.keys.clone());
        let server = config.server_options();
        let listener = startup::listen(&config).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let engine = startup.start(&config).await.unwrap();
        let (stop, stopping) = oneshot::channel();
        let stopped = tokio::spawn(async move {
            let stopping = async { drop(stopping.await) };
            let left = serve(router(engine.clone(), service), listener, server, stopping).await;
            engine.shut_down(left).await;
        });
        Self { url, stop, stopped }
    }

    async fn get(&self, path: &str) -> Value {
        let get = Client::new().get(format!("{}{path}", self.url));
        get.send().await.unwrap().json().await.unwrap()
    }

    async fn post(&self, path: &str, request: &PaymentRequest) -> Value {
        let post = Client::new().post(format!("{}{path}", self.url));
        let post = post.body(request.text().to_owned());
        post.send().await.unwrap().json().await.unwrap()
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.stopped.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_on_a_third_family_settles_over_http() {
    let setting = Setting::new();
    let more = "min_amounts = { usd = \"0.01\" }";
    let checked = setting.check(more).await;
    assert!(checked.problems.is_empty(), "{:?}", checked.problems);
    assert!(checked.warnings.is_empty(), "{:?}", checked.warnings);
    let [network] = checked.networks.as_slice() else {
        panic!("{:?}", checked.networks)
    };
    assert_eq!(network.network.id(), NETWORK);
    assert!(network.can_settle && network.health.problems.is_empty());

    let serving = Serving::start(&setting, more).await;
    let supported = serving.get("/supported").await;
    let kind = &supported["kinds"][0];
    assert_eq!(kind["scheme"], "exact");
    assert_eq!(kind["network"], NETWORK);
    let payer = setting.world.payer(0);
    let request = setting.world.request(&payer).await;
    let verified = serving.post("/verify", &request).await;
    assert_eq!(
        (&verified["isValid"], &verified["payer"]),
        (&json!(true), &json!(payer.address())),
        "{verified}"
    );
    assert_eq!(setting.received(), Amount::ZERO);
    let settled = serving.post("/settle", &request).await;
    assert_eq!(settled["success"], true, "{settled}");
    assert_eq!(settled["network"], NETWORK);
    assert_eq!(setting.received(), Amount::from(PRICE));
    serving.stop().await;
}

/// The keys that all families have apply without code of the family's own.
#[tokio::test(flavor = "multi_thread")]
async fn limits_apply_to_a_third_family() {
    let other = World::new().payer(1).account();
    for (more, reason) in [
        (
            "min_amounts = { USD = \"0.02\" }".to_owned(),
            "amount_too_low",
        ),
        (format!("recipients = [\"{other}\"]"), "recipient"),
    ] {
        let setting = Setting::new();
        let serving = Serving::start(&setting, &more).await;
        let request = setting.world.request(&setting.world.payer(0)).await;
        let verified = serving.post("/verify", &request).await;
        assert_eq!(verified["isValid"], false, "{verified}");
        let found = verified["invalidReason"].as_str().unwrap();
        assert!(found.contains(reason), "{verified}");
        serving.stop().await;
    }
}

#[tokio::test]
async fn check_reports_the_health_of_a_third_family() {
    let setting = Setting::new();
    let warnings = setting.check("").await.warnings;
    assert_eq!(warnings, ["sim:local: no minimum amount for USD"]);

    for signer in setting.world.chain().signers() {
        setting.world.set_balance(signer, COIN, Amount::ZERO);
    }
    let networks = setting.check("").await.networks;
    let [problem] = networks[0].health.problems.as_slice() else {
        panic!("{networks:?}")
    };
    assert!(matches!(problem.scope, Scope::Lane(_)), "{problem:?}");
    assert!(!networks[0].can_settle);

    setting.world.nodes_down();
    let networks = setting.check("").await.networks;
    assert_eq!(networks[0].health.problems[0].scope, Scope::Network);
    assert!(!networks[0].can_settle);
}

#[tokio::test]
async fn mistakes_in_the_table_of_a_third_family_are_named() {
    let setting = Setting::new();
    let families = setting.families();
    let problem = |text: &str| {
        let config = Config::parse(text, &families);
        let read = config.and_then(|config| Startup::read(&config, &families));
        read.err().unwrap().to_string()
    };
    let table = setting.text("");
    for (text, expected) in [
        (
            setting.text("singers = []"),
            "simulated[0].singers: unknown key `singers`; did you mean `signers`?",
        ),
        (
            setting.text("recipient = []"),
            "simulated[0].recipient: unknown key `recipient`; did you mean `recipients`?",
        ),
        (
            table.replace("[[simulated]]", "[[simulatd]]"),
            "unknown key `simulatd`; did you mean `simulated`?",
        ),
        (
            table.replace(NETWORK, "sim:other"),
            "simulated[0].network: \"sim:other\" is not the simulated chain: write sim:local",
        ),
        (
            format!("{table}{}", table.split_once("\n\n").unwrap().1),
            "simulated[1].network: sim:local is already configured by simulated[0]",
        ),
        (table.replace("file =", "env ="), "is not set"),
        (
            table.replace("signers = [", "signers = [\"0a0a\", "),
            "simulated[0].signers[0]: the configuration must not contain secrets",
        ),
        (
            "access.anyone = true".to_owned(),
            "configure at least one network: [[evm]] or [[solana]] or [[simulated]]",
        ),
    ] {
        let found = problem(&text);
        assert!(found.contains(expected), "{found}\ninstead of: {expected}");
    }
}

#[test]
fn a_payer_of_a_third_family_is_made_from_its_options() {
    let setting = Setting::new();
    let family = SimulatedFamily(setting.world.clone());
    let key_file = setting.path("payer");
    let args = SimulatedPayerArgs {
        simulated_key_file: Some(key_file.clone()),
    };
    std::fs::write(&key_file, hex::encode(World::payer_key(0).to_bytes())).unwrap();
    let payers = family.payers(&args).unwrap();
    assert_eq!(payers[0].address(), setting.world.payer(0).address());

    std::fs::write(&key_file, "hunter2").unwrap();
    let error = family.payers(&args).err().unwrap().to_string();
    assert!(
        error.contains("not a key of 64 hexadecimal digits"),
        "{error}"
    );
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
#[should_panic(expected = "two families have the key simulated")]
fn a_family_cannot_be_registered_twice() {
    let setting = Setting::new();
    let _ = setting
        .families()
        .with(SimulatedFamily(setting.world.clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_over_http_never_exceeds_its_payment() {
    let setting = Setting::new();
    let serving = Serving::start(&setting, "").await;
    let facilitator = quittance_http::RemoteFacilitator::new(&serving.url).unwrap();
    let world = &setting.world;
    // The seller has more than this payment.
    world.set_balance(world.seller(), USD, Amount::from(9 * PRICE));
    let request = world.request(&world.payer(0)).await;
    let sale = SaleId::new("a-sale").unwrap();
    let request = request.with_sale(sale);
    let settled = facilitator.settle(&request).await.unwrap();
    assert!(settled.success, "{settled:?}");
    // The header `Idempotency-Key` says which sale it is.
    assert!(facilitator.settle(&request).await.unwrap().is_repeated());
    assert!(facilitator.verify(&request).await.unwrap().is_repeated());
    let id = settled.extra.unwrap().tree()["settlement"].clone();
    let id: PaymentId = id.as_str().unwrap().parse().unwrap();
    for (amount, expected) in [(PRICE, None), (1, Some(Reason::REFUND_EXCEEDS_PAYMENT))] {
        let refund = world.refund(&request, amount).await.as_refund_of(id);
        let answer = facilitator.settle(&refund).await.unwrap();
        let reason = answer.error_reason.map(Reason::from_code);
        assert_eq!((answer.success, reason), (expected.is_none(), expected));
    }
    let path = "/settlements/no-id/refunds";
    let refused = serving.post(path, &request).await;
    assert!(refused.to_string().contains("settlement id"), "{refused}");
    let post = Client::new().post(format!("{}/settle", serving.url));
    let post = post.header("idempotency-key", "two words");
    let refused = post.body(request.text().to_owned()).send().await.unwrap();
    assert_eq!(refused.status(), 400);
    assert!(refused.text().await.unwrap().contains("Idempotency-Key"));
    serving.stop().await;
}
