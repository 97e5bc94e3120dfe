//! Streams: responses that are paid tick by tick while they run.
//!
//! The first request is an ordinary paid request. Its response begins after the first tick is
//! charged, and names the stream in the header [`PAYMENT_STREAM`]. Each further tick is a `POST` to
//! the same URL with that header and a payment of the same price. It is answered 204 with a receipt
//! once it is charged, 402 if it is refused, and 410 without a charge if the stream is over. A
//! `DELETE` with that header says that no more ticks come.

/// The header that names a stream: in its response, and in each request for a further tick.
pub const PAYMENT_STREAM: &str = "payment-stream";
