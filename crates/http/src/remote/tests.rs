use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use quittance_core::FaultKind;
use quittance_core::wire::{PaymentPayload, PaymentRequirements};
use socket2::{Domain, Socket, Type};

use super::*;

/// A host that is switched off, as seen from outside: no answer to a connection, not even a refusal.
struct Silent {
    address: SocketAddr,
    _listener: Socket,
    /// They fill the queue of connections that wait to be accepted; the next ones are dropped.
    _waiting: Vec<TcpStream>,
}

impl Silent {
    fn on(address: SocketAddr) -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&address.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            waiting.push(stream);
            assert!(
                waiting.len() < 100,
                "this system has no bound on waiting connections"
            );
        }
        Self {
            address,
            _listener: listener,
            _waiting: waiting,
        }
    }
}

fn request() -> PaymentRequest {
    let terms = r#"{"scheme":"exact","network":"test:1","amount":"5","asset":"coin","payTo":"seller","maxTimeoutSeconds":60}"#;
    let payment = format!(r#"{{"x402Version":2,"accepted":{terms},"payload":{{}}}}"#);
    let payment: PaymentPayload = serde_json::from_str(&payment).unwrap();
    let terms: PaymentRequirements = serde_json::from_str(terms).unwrap();
    PaymentRequest::new(payment, terms).unwrap()
}

/// It was waited for 30 seconds for each address, and with two addresses the payment counted as sent.
#[tokio::test]
async fn a_host_that_does_not_answer_is_given_up_soon_and_was_sent_nothing() {
    let first = Silent::on("127.0.0.1:0".parse().unwrap());
    let port = first.address.port();
    let second = Silent::on(SocketAddr::from(([127, 0, 0, 2], port)));
    let both = [first.address, second.address];
    for addresses in [&both[..1], &both] {
        let url = format!("http://silent.test:{port}");
        let http = client().resolve_to_addrs("silent.test", addresses);
        let silent = RemoteFacilitator {
            http: http.build().unwrap(),
            ..RemoteFacilitator::new(&url).unwrap()
        };
        let asked = Instant::now();
        let Err(FacilitatorError::Fault(fault)) = silent.settle(&request()).await else {
            panic!("a silent host has an answer")
        };
        assert!(fault.not_attempted, "{fault}");
        assert_eq!(fault.kind, FaultKind::FacilitatorUnreachable);
        assert!(
            asked.elapsed() < CONNECT_WITHIN * 2,
            "{:?}",
            asked.elapsed()
        );
    }
}

/// A host that takes the payment and then says nothing may do anything with it.
#[tokio::test]
async fn a_host_that_took_the_payment_and_broke_off_is_not_untouched() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = [0; 64];
        let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut seen).await;
    });
    let remote = RemoteFacilitator::new(&url).unwrap();
    let Err(FacilitatorError::Fault(fault)) = remote.settle(&request()).await else {
        panic!("a broken connection has an answer")
    };
    assert!(!fault.not_attempted, "{fault}");
}

/// The connection breaks off in the middle of an answer that has named its transaction.
#[tokio::test]
async fn a_transaction_in_an_answer_that_breaks_off_is_pending() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = [0; 4096];
        let _ = stream.read(&mut seen).await;
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{\"success\":true,\"transaction\":\"0xab\",\"netw";
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
    });
    let remote = RemoteFacilitator::new(&url).unwrap();
    let settled = remote.settle(&request()).await.unwrap();
    assert!(
        settled.is_pending() && settled.transaction == "0xab",
        "{settled:?}"
    );
}
