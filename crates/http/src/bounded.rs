//! Reading the bodies of responses without trusting their length.

use quittance_core::json::TEXT_MAX;

/// Why a body was not read to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The connection failed, or the body could not be decompressed.
    #[error("the body ended early: {0}")]
    Incomplete(#[source] reqwest::Error),
    /// The body is longer than any message of the protocol.
    #[error("the body is longer than {TEXT_MAX} bytes")]
    TooLong,
}

/// Reads a whole body.
///
/// # Errors
/// When the body ends early or is longer than [`TEXT_MAX`] bytes, the longest message of the
/// protocol.
pub async fn read(response: reqwest::Response) -> Result<Vec<u8>, BodyError> {
    match read_part(response).await {
        (body, None) => Ok(body),
        (_, Some(error)) => Err(error),
    }
}

/// Reads a body up to [`TEXT_MAX`] bytes, or up to where it ends early. Returns the bytes that were
/// read, and the reason if they are not the whole body.
pub async fn read_part(mut response: reqwest::Response) -> (Vec<u8>, Option<BodyError>) {
    let mut body = Vec::new();
    loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return (body, None),
            // The URL may contain a key.
            Err(error) => return (body, Some(BodyError::Incomplete(error.without_url()))),
        };
        let room = TEXT_MAX - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            return (body, Some(BodyError::TooLong));
        }
    }
}
