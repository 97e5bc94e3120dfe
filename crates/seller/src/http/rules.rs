//! HTTP semantics: which requests are sold, and which responses are charged.

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::{Method, Request, StatusCode};

/// Whether a request is a CORS preflight. Any other `OPTIONS` request is not special.
pub(crate) fn is_preflight<I>(request: &Request<I>) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(ORIGIN)
        && request
            .headers()
            .contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Whether requests with this method are sold. `HEAD`, `OPTIONS` and `TRACE` deliver nothing of a
/// resource (RFC 9110, sections 9.3.2, 9.3.7 and 9.3.8), so they are not charged. Their handler
/// does not run either, because its headers may be what is sold.
///
/// An unknown method is sold like `GET`: only the handler knows what it does.
pub(crate) fn is_sold(method: &Method) -> bool {
    ![Method::HEAD, Method::OPTIONS, Method::TRACE].contains(method)
}

/// Whether a response with this status is charged.
///
/// * 2xx is charged: the request was fulfilled (RFC 9110, section 15.3). This includes 204 and 205,
///   where the action was paid for.
/// * 101 is charged: the connection changes its protocol, for example to WebSocket.
/// * 3xx is charged: the location may be what is sold, such as a signed URL.
/// * 304 is not charged: it delivers nothing, and the client already has the content.
/// * 4xx, 5xx and other 1xx are not charged: the handler failed.
pub(crate) fn is_charged(status: StatusCode) -> bool {
    match status {
        StatusCode::SWITCHING_PROTOCOLS => true,
        StatusCode::NOT_MODIFIED => false,
        status => status.is_success() || status.is_redirection(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fulfilling_statuses_are_charged() {
        for status in [
            101, 200, 201, 202, 204, 205, 206, 299, 301, 302, 303, 307, 308,
        ] {
            assert!(
                is_charged(StatusCode::from_u16(status).unwrap()),
                "{status}"
            );
        }
        for status in [
            100, 102, 103, 304, 400, 402, 404, 416, 429, 500, 503, 599, 600, 999,
        ] {
            assert!(
                !is_charged(StatusCode::from_u16(status).unwrap()),
                "{status}"
            );
        }
    }

    #[test]
    fn methods_without_content_are_not_sold() {
        for method in ["HEAD", "OPTIONS", "TRACE"] {
            assert!(!is_sold(&method.parse().unwrap()), "{method}");
        }
        for method in [
            "GET", "POST", "PUT", "PATCH", "DELETE", "QUERY", "PROPFIND", "head",
        ] {
            assert!(is_sold(&method.parse().unwrap()), "{method}");
        }
    }
}
