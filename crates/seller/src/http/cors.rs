//! CORS for pages that pay.

use std::time::Duration;

use http::HeaderName;
use http::header::RETRY_AFTER;
use quittance_core::wire::header;
use quittance_http::PAYMENT_STREAM;
use tower_http::cors::{AllowHeaders, AllowMethods, Any, CorsLayer};

/// How long a browser may cache the response to a preflight. Browsers limit it to between ten
/// minutes and two hours.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(600);

/// A CORS layer that lets pages in browsers pay, for [`PaymentLayer::cors`]. It allows any origin,
/// method and request header, and exposes the protocol's response headers.
///
/// It allows any request header because clients send more than the payment. Those of the reference
/// implementation send `Access-Control-Expose-Headers`. Its methods change the rules:
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
        .max_age(PREFLIGHT_MAX_AGE)
}

/// The response headers that a page needs to read to pay: the payment options, the receipts, the
/// name of a stream and `Retry-After`. For [`CorsLayer::expose_headers`] of your own CORS layer.
pub fn exposed_headers() -> [HeaderName; 5] {
    let header_name = |name: &str| {
        HeaderName::from_bytes(name.as_bytes()).expect("the protocol's header names are valid")
    };
    [
        header_name(header::PAYMENT_REQUIRED),
        header_name(header::PAYMENT_RESPONSE),
        header_name(header::X_PAYMENT_RESPONSE),
        header_name(PAYMENT_STREAM),
        RETRY_AFTER,
    ]
}
