//! Redirects. A buyer follows them before it pays, within the origin, and only if they keep the
//! request's method.

use http::header::LOCATION;
use reqwest::{Method, Response, StatusCode};
use url::Url;

use super::address::without_credentials;
use super::error::{BuyError, RedirectRefusal};
use quittance_core::printable;

/// The target of a redirect; `None` if the response is not a redirect.
pub(crate) fn target(response: &Response) -> Option<Url> {
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    let redirects = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let mut to = redirects.then(|| response.url().join(location).ok())??;
    // The server does not choose the buyer's credentials.
    without_credentials(&mut to);
    Some(to)
}

/// The URL of the next request; `None` if the response is not a redirect.
pub(crate) fn next(method: &Method, response: &Response) -> Result<Option<Url>, BuyError> {
    let Some(to) = target(response) else {
        return Ok(None);
    };
    let refused = |reason| BuyError::Redirect {
        from: name(response.url()),
        to: name(&to),
        reason,
    };
    if to.origin() != response.url().origin() {
        return Err(refused(RedirectRefusal::OtherOrigin));
    }
    let keeps_method = matches!(
        response.status(),
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
    );
    if !keeps_method && !matches!(*method, Method::GET | Method::HEAD) {
        return Err(refused(RedirectRefusal::ChangesMethod));
    }
    Ok(Some(to))
}

/// The origin and the path of a URL: its other parts may hold secrets.
pub(crate) fn name(url: &Url) -> String {
    printable(&format!(
        "{}{}",
        url.origin().ascii_serialization(),
        url.path()
    ))
}
