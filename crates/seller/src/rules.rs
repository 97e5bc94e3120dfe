//! What HTTP's own rules mean for a sale: which requests are sold, and which answers are charged
//! for.

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::{Method, Request, StatusCode};

/// Whether a browser asks by this what it may do (CORS). Any other `OPTIONS` is a request like all
/// others.
pub(crate) fn is_preflight<I>(request: &Request<I>) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(ORIGIN)
        && request
            .headers()
            .contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Whether requests with this method are sold. `HEAD`, `OPTIONS` and `TRACE` ask about a resource
/// and deliver nothing of it (RFC 9110, sections 9.3.2, 9.3.7 and 9.3.8), so there is nothing to
/// charge for. Their handler does not run either: headers can be what is sold.
///
/// A method that this library does not know is sold like `GET`: only the handler knows what it does.
pub(crate) fn is_sold(method: &Method) -> bool {
    ![Method::HEAD, Method::OPTIONS, Method::TRACE].contains(method)
}

/// Whether an answer with this status is charged for.
///
/// * 2xx: the request was fulfilled (RFC 9110, section 15.3). 204 and 205 too: the deed was paid
///   for, not its description.
/// * 101: the connection is handed over; this is how a WebSocket is sold.
/// * 3xx: where it leads may be what is sold, such as a signed URL. It must not go out unpaid.
/// * 304 is not charged for: it delivers nothing, and the client has what it needs.
/// * 4xx, 5xx, and a 1xx that is no final answer: the handler failed.
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
    fn an_answer_is_charged_for_when_it_fulfils_the_request() {
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
    fn methods_that_deliver_nothing_are_not_sold() {
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
