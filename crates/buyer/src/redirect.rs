//! Redirects: followed within an origin, before anything is paid, and only where the request stays what it was.

use http::header::LOCATION;
use reqwest::{Method, Response, StatusCode};
use url::Url;

use crate::address::without_credentials;
use crate::error::BuyError;
use quittance_http::printable;

/// Where an answer sends the request; `None` for an answer that is none of those.
pub(crate) fn target(answer: &Response) -> Option<Url> {
    let location = answer.headers().get(LOCATION)?.to_str().ok()?;
    let redirects = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let mut to = redirects.then(|| answer.url().join(location).ok())??;
    // A server does not choose as whom a buyer logs in.
    without_credentials(&mut to);
    Some(to)
}

/// Where to ask next; `None` where this is the answer.
pub(crate) fn next(method: &Method, answer: &Response) -> Result<Option<Url>, BuyError> {
    let Some(to) = target(answer) else {
        return Ok(None);
    };
    let refused = |why| BuyError::Redirect {
        from: name(answer.url()),
        to: name(&to),
        why,
    };
    if to.origin() != answer.url().origin() {
        return Err(refused("a payment goes only to the origin that was asked"));
    }
    let keeps_method = matches!(
        answer.status(),
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
    );
    if !keeps_method && !matches!(*method, Method::GET | Method::HEAD) {
        return Err(refused("it would make another request of this one"));
    }
    Ok(Some(to))
}

/// A URL without what may be secret in it.
pub(crate) fn name(url: &Url) -> String {
    printable(&format!(
        "{}{}",
        url.origin().ascii_serialization(),
        url.path()
    ))
}
