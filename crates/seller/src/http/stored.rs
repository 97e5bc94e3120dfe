//! A complete response in memory.

use http::{HeaderMap, Response, StatusCode};

use super::body::BufferedBody;

/// The estimated overhead of a response beside its body and headers, in bytes.
const OVERHEAD: usize = 512;

/// A complete response. Clones share the bytes of the body.
#[derive(Clone)]
pub(crate) struct StoredResponse {
    status: StatusCode,
    headers: HeaderMap,
    pub(crate) body: BufferedBody,
}

impl StoredResponse {
    pub(crate) fn new(response: &Response<()>, body: &BufferedBody) -> Self {
        Self {
            status: response.status(),
            headers: response.headers().clone(),
            body: body.clone(),
        }
    }

    /// How many bytes it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        let headers = self.headers.iter();
        let headers: usize = headers
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        OVERHEAD + headers + self.body.len()
    }

    /// The response without its body.
    pub(crate) fn head(&self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = self.status;
        response.headers_mut().clone_from(&self.headers);
        response
    }
}
