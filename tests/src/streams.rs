//! What the suites of streams sell.

use std::io;

use axum::Extension;
use axum::body::Body;
use futures_util::stream;
use quittance_seller::Meter;

/// A handler that sends the number of each tick, without an end.
pub async fn count(Extension(meter): Extension<Meter>) -> Body {
    Body::from_stream(stream::unfold(meter, |meter| async move {
        let tick = meter.next().await?;
        Some((Ok::<_, io::Error>(format!("{}\n", tick.number)), meter))
    }))
}
