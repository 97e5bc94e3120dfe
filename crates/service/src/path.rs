//! Paths with redundant slashes.

use axum::http::{Request, Uri};

/// The request with a normalized path: `//verify` and `/verify/` mean `/verify`.
///
/// Some clients join a base URL that ends in a slash with `/verify`, or add a slash at the end. A
/// redirect would not help: many clients do not follow one for a POST, and others send the payment
/// twice.
pub(crate) fn normalized<B>(mut request: Request<B>) -> Request<B> {
    if let Some(uri) = plain(request.uri()) {
        *request.uri_mut() = uri;
    }
    request
}

/// `None` if the path is normalized already.
fn plain(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    let is_plain = !path.contains("//") && (path == "/" || !path.ends_with('/'));
    if is_plain || !path.starts_with('/') {
        return None;
    }
    let parts = path.split('/').filter(|part| !part.is_empty());
    let mut target: String = parts.flat_map(|part| ["/", part]).collect();
    if target.is_empty() {
        target.push('/');
    }
    if let Some(query) = uri.query() {
        target.push('?');
        target.push_str(query);
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.parse().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> String {
        let request = Request::builder().uri(text).body(()).unwrap();
        normalized(request).uri().to_string()
    }

    #[test]
    fn redundant_slashes_are_removed() {
        for (written, meant) in [
            ("/verify", "/verify"),
            ("/verify/", "/verify"),
            ("//verify", "/verify"),
            ("///settlements//ab//?x=/a//b/", "/settlements/ab?x=/a//b/"),
            ("/", "/"),
            ("//", "/"),
            ("/Verify", "/Verify"),
            ("/a%2F%2Fb", "/a%2F%2Fb"),
            ("http://host.example//verify", "http://host.example/verify"),
            ("*", "*"),
        ] {
            assert_eq!(path(written), meant, "{written}");
        }
    }

    proptest! {
        /// Normalizing twice changes nothing, and only slashes are removed.
        #[test]
        fn a_normalized_path_stays_as_it_is(text in "/[a-z/%2F.]{0,20}(\\?[a-z/]{0,5})?") {
            prop_assume!(text.parse::<Uri>().is_ok());
            let once = path(&text);
            prop_assert_eq!(path(&once), once.clone());
            let without_slashes = |text: &str| text.split('?').next().unwrap().replace('/', "");
            prop_assert_eq!(without_slashes(&once), without_slashes(&text));
        }
    }
}
