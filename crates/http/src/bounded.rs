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
pub(crate) async fn read(mut response: reqwest::Response) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    let broken = |error: reqwest::Error| BodyError::Broken {
        error: error.without_url(),
    };
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.len() + chunk.len() > TEXT_MAX {
            return Err(BodyError::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
