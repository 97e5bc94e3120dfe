//! Reading bodies that somebody else wrote.

use quittance_core::json::TEXT_MAX;

/// Why a body is not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("{}", error.to_string())]
    Broken { error: reqwest::Error },
    #[error("longer than {TEXT_MAX} bytes")]
    TooLong,
}

/// The whole body, as long as it is no longer than any message of the protocol.
pub(crate) async fn read(response: reqwest::Response) -> Result<Vec<u8>, BodyError> {
    match read_part(response).await {
        (body, None) => Ok(body),
        (_, Some(error)) => Err(error),
    }
}

/// The body up to the length of the longest message of the protocol, or up to where it breaks off, and why no more.
pub(crate) async fn read_part(mut response: reqwest::Response) -> (Vec<u8>, Option<BodyError>) {
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
