//! What a browser needs to know before it lets a page pay (CORS).

use std::time::Duration;

use http::HeaderName;
use http::header::RETRY_AFTER;
use quittance_core::wire::header;
use tower_http::cors::{AllowHeaders, AllowMethods, Any, CorsLayer};

/// How long a browser may remember the answer to a preflight. Browsers cut it at ten minutes to two
/// hours by themselves.
const PREFLIGHT_KEPT: Duration = Duration::from_secs(600);

/// A CORS layer with which a page in a browser can pay, for [`PaymentLayer::cors`]: any origin may
/// ask, with any method and any header, and may read the headers of the protocol.
///
/// Any header, because clients send more than the payment: those of the reference implementation
/// send `Access-Control-Expose-Headers`. What it lets out beside is its own methods' to say:
///
/// ```
/// use http::HeaderValue;
///
/// let mine: HeaderValue = "https://app.example".parse()?;
/// let cors = quittance_seller::cors().allow_origin(mine).allow_credentials(true);
/// # let _ = cors;
/// # Ok::<(), http::header::InvalidHeaderValue>(())
/// ```
///
/// [`PaymentLayer::cors`]: crate::PaymentLayer::cors
pub fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(exposed_headers())
        .max_age(PREFLIGHT_KEPT)
}

/// The response headers that a page must be able to read to pay: the terms, the receipts, and when to
/// come back. For [`CorsLayer::expose_headers`] of a layer of your own.
pub fn exposed_headers() -> [HeaderName; 4] {
    let of = |name: &str| {
        HeaderName::from_bytes(name.as_bytes()).expect("the protocol's headers are headers")
    };
    [
        of(header::PAYMENT_REQUIRED),
        of(header::PAYMENT_RESPONSE),
        of(header::X_PAYMENT_RESPONSE),
        RETRY_AFTER,
    ]
}
