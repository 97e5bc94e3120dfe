//! Reading response bodies up to a limit.

use quittance_core::json::TEXT_MAX;

/// Why a body cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The connection broke, or the body is not encoded as its headers say.
    #[error("{error}")]
    Broken {
        /// What happened, without the URL.
        #[source]
        error: reqwest::Error,
    },
    /// The body is longer than any message of the protocol.
    #[error("longer than {TEXT_MAX} bytes")]
    TooLong,
}

/// Reads the whole body.
///
/// # Errors
/// When the connection breaks, or the body is longer than [`TEXT_MAX`].
pub async fn read(response: reqwest::Response) -> Result<Vec<u8>, BodyError> {
    match read_part(response).await {
        (body, None) => Ok(body),
        (_, Some(error)) => Err(error),
    }
}

/// Reads the body up to [`TEXT_MAX`] bytes, or up to where it breaks off. The second value says why the body is incomplete.
pub async fn read_part(mut response: reqwest::Response) -> (Vec<u8>, Option<BodyError>) {
    let mut body = Vec::new();
    loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return (body, None),
            Err(error) => {
                let error = error.without_url();
                return (body, Some(BodyError::Broken { error }));
            }
        };
        let room = TEXT_MAX - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            return (body, Some(BodyError::TooLong));
        }
    }
}
