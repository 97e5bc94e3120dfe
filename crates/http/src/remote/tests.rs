use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use quittance_core::FaultKind;
use quittance_core::wire::{PaymentPayload, PaymentRequirements};
use socket2::{Domain, Socket, Type};

use super::*;

/// A host that behaves as if it were switched off: it neither accepts nor refuses connections.
struct SilentHost {
    address: SocketAddr,
    _listener: Socket,
    /// These connections fill the backlog, so the next ones are dropped.
    _waiting: Vec<TcpStream>,
}

impl SilentHost {
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
                "this system has no limit for waiting connections"
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

/// Once, each address took 30 seconds, and with two addresses the payment counted as sent.
#[tokio::test]
async fn silent_host_fails_soon_and_was_sent_nothing() {
    let first = SilentHost::on("127.0.0.1:0".parse().unwrap());
    let port = first.address.port();
    let second = SilentHost::on(SocketAddr::from(([127, 0, 0, 2], port)));
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
            panic!("a silent host has answered")
        };
        assert!(fault.not_attempted, "{fault}");
        assert_eq!(fault.kind, FaultKind::FacilitatorUnreachable);
        assert!(
            asked.elapsed() < CONNECT_TIMEOUT * 2,
            "{:?}",
            asked.elapsed()
        );
    }
}

/// A host that received the payment and did not answer may have settled it.
#[tokio::test]
async fn connection_lost_after_sending_is_an_unknown_outcome() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = [0; 64];
        let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut seen).await;
    });
    let remote = RemoteFacilitator::new(&url).unwrap();
    let Err(FacilitatorError::Fault(fault)) = remote.settle(&request()).await else {
        panic!("a broken connection has a response")
    };
    assert!(!fault.not_attempted, "{fault}");
}

/// The connection ends in the middle of a response that has named its transaction.
#[tokio::test]
async fn transaction_in_a_truncated_response_is_pending() {
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

#[test]
fn all_names_of_this_machine_are_local() {
    for (url, local) in [
        ("http://127.0.0.1:1/", true),
        ("http://127.9.9.9/", true),
        ("http://localhost/", true),
        ("http://facilitator.localhost/", true),
        ("http://[::1]:1/", true),
        ("http://[::ffff:127.0.0.1]/", true),
        ("http://[::ffff:10.0.0.1]/", false),
        ("http://localhost.example/", false),
        ("http://10.0.0.1/", false),
        ("https://a.example/", false),
    ] {
        assert_eq!(is_local(&url.parse().unwrap()), local, "{url}");
    }
}

#[test]
fn url_errors_carry_their_cause() {
    use std::error::Error;
    let invalid = RemoteFacilitator::new("http://[").unwrap_err();
    assert!(
        invalid
            .source()
            .is_some_and(|it| it.is::<url::ParseError>())
    );
    let other = RemoteFacilitator::new("ftp://a.example/").unwrap_err();
    let RemoteError::UnsupportedScheme { scheme } = other else {
        panic!("{other}")
    };
    assert_eq!(scheme, "ftp");
}
