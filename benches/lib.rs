//! The service under load: a facilitator on a local chain, and requests to verify that come over
//! HTTP.
#![allow(clippy::expect_used, reason = "a benchmark that cannot go on stops")]

use futures_util::{StreamExt, stream};
use quittance_core::PaymentRequest;
use quittance_service::{Keys, ServerOptions, ServiceOptions, router, serve};
use quittance_tests::evm::Setting;
use tokio::net::TcpListener;

/// A facilitator that serves, with what it stands on.
pub struct Service {
    url: String,
    client: reqwest::Client,
    bodies: Vec<String>,
    // Stops when dropped.
    _setting: Setting,
}

impl Service {
    /// Starts one on a local chain, and signs this many payments to ask it about.
    pub async fn start(payments: usize) -> Self {
        let setting = Setting::start().await;
        let engine = setting.engine().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound socket"));
        let mut options = ServiceOptions::new(Keys::anyone());
        options.rate = None;
        let service = router(engine, options);
        tokio::spawn(serve(
            service,
            listener,
            ServerOptions::default(),
            std::future::pending(),
        ));
        let mut bodies = Vec::with_capacity(payments);
        for _ in 0..payments {
            let request: PaymentRequest = Setting::request().await;
            bodies.push(request.text().to_owned());
        }
        Self {
            url,
            client: reqwest::Client::new(),
            bodies,
            _setting: setting,
        }
    }

    /// How many payments are asked about.
    pub fn payments(&self) -> usize {
        self.bodies.len()
    }

    /// Asks about every payment, so many at a time.
    pub async fn verify_all(&self, in_flight: usize) {
        let asked = self.bodies.iter().map(|body| self.verify(body));
        let verdicts = stream::iter(asked).buffer_unordered(in_flight);
        verdicts.for_each(|()| async {}).await;
    }

    async fn verify(&self, body: &str) {
        let request = self.client.post(format!("{}/verify", self.url));
        let request = request.header("content-type", "application/json");
        let answer = request
            .body(body.to_owned())
            .send()
            .await
            .expect("an answer");
        let said = answer.text().await.expect("a verdict");
        assert!(said.contains("\"isValid\":true"), "{said}");
    }
}
