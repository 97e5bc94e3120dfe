//! The seller behind HTTP, and the requests of its payers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, header::HOST};
use hyper_util::rt::TokioIo;
use quittance_core::wire::header;
use quittance_seller::PaymentLayer;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until};

use crate::seller::{Payer, Seller};

/// How many requests of each connection are measured for the latency.
const MEASURED: usize = 40;

/// A route with a price and one without, with a connection for each payer.
pub(crate) struct Shop {
    seller: Seller,
    connections: Vec<SendRequest<Empty<Bytes>>>,
}

/// What a connection asks for.
enum Asked {
    Free,
    /// With the payment in its header.
    Sold(String),
}

impl Asked {
    fn request(self) -> Request<Empty<Bytes>> {
        let request = Request::builder().header(HOST, "shop");
        let request = match self {
            Self::Free => request.uri("/free"),
            Self::Sold(payment) => request
                .uri("/goods")
                .header(header::PAYMENT_SIGNATURE, payment),
        };
        request.body(Empty::new()).unwrap()
    }
}

impl Shop {
    pub(crate) async fn open(file: &Path, channels: usize) -> Self {
        let seller = Seller::open(file, channels).await;
        let layer = PaymentLayer::new(Arc::new(seller.channels.clone()));
        let layer = layer.accept(seller.offer.as_ref().clone());
        let app = Router::new()
            .route("/goods", get(|| async { "goods" }).layer(layer))
            .route("/free", get(|| async { "goods" }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        let mut connections = Vec::with_capacity(channels);
        for _ in 0..channels {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            connections.push(sender);
        }
        Self {
            seller,
            connections,
        }
    }

    /// The next requests of each connection.
    fn sales(&mut self, count: usize) -> Vec<Vec<Asked>> {
        let Seller { payers, terms, .. } = &mut self.seller;
        let sale = |payer: &mut Payer| {
            let payload = |_| Asked::Sold(header::encode(&payer.payload(terms)));
            (0..count).map(payload).collect()
        };
        payers.iter_mut().map(sale).collect()
    }

    fn gifts(&self, count: usize) -> Vec<Vec<Asked>> {
        let gifts = |_| (0..count).map(|_| Asked::Free).collect();
        self.connections.iter().map(gifts).collect()
    }

    /// Sells so many goods to each payer, one after another. Returns how long it takes.
    pub(crate) async fn sell(&mut self, count: usize) -> Duration {
        let asked = self.sales(count);
        self.ask_all(asked, Duration::ZERO).await.0
    }

    /// The same goods at no price.
    pub(crate) async fn give(&mut self, count: usize) -> Duration {
        let asked = self.gifts(count);
        self.ask_all(asked, Duration::ZERO).await.0
    }

    /// Prints how long a request with a voucher takes, and one without. Each connection sends one
    /// in this interval.
    pub(crate) async fn report_latency(&mut self, interval: f64) {
        let interval = Duration::from_secs_f64(interval);
        let rate = self.connections.len() as f64 / interval.as_secs_f64();
        println!("{rate:.0} requests a second:");
        let gifts = self.gifts(MEASURED);
        let free = self.ask_all(gifts, interval).await.1;
        let sales = self.sales(MEASURED);
        let sold = self.ask_all(sales, interval).await.1;
        for (name, mut times) in [("free", free), ("sold", sold)] {
            times.sort();
            let at = |share: f64| times[(share * (times.len() - 1) as f64) as usize];
            println!("{name}: median {:?}, p99 {:?}", at(0.5), at(0.99));
        }
    }

    /// Sends the requests of each connection one after another, one in each interval. Returns the
    /// time until the last answer, and the time for each request.
    async fn ask_all(
        &mut self,
        asked: Vec<Vec<Asked>>,
        interval: Duration,
    ) -> (Duration, Vec<Duration>) {
        let count = u32::try_from(asked.len()).unwrap();
        let connections = std::mem::take(&mut self.connections);
        let began = Instant::now();
        let asking = (0_u32..).zip(connections.into_iter().zip(asked));
        let asking = asking.map(|(index, (sender, asked))| {
            let first = began + interval * index / count;
            tokio::spawn(ask(sender, asked, first, interval))
        });
        let answered = join_all(asking.collect::<Vec<_>>()).await;
        let elapsed = began.elapsed();
        let mut times = Vec::new();
        for answered in answered {
            let (sender, took) = answered.unwrap();
            self.connections.push(sender);
            times.extend(took);
        }
        (elapsed, times)
    }
}

async fn ask(
    mut sender: SendRequest<Empty<Bytes>>,
    asked: Vec<Asked>,
    first: Instant,
    interval: Duration,
) -> (SendRequest<Empty<Bytes>>, Vec<Duration>) {
    let mut took = Vec::with_capacity(asked.len());
    let mut due = first;
    for asked in asked {
        if interval > Duration::ZERO {
            sleep_until(due).await;
        }
        let sent = Instant::now();
        let response = sender.send_request(asked.request()).await.unwrap();
        assert!(response.status().is_success(), "{response:?}");
        response.into_body().collect().await.unwrap();
        took.push(sent.elapsed());
        due += interval;
    }
    (sender, took)
}
