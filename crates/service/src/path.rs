//! Paths as clients write them.

use axum::http::{Request, Uri};

/// The same request with its path as this service writes it: `//verify` and `/verify/` mean `/verify`.
///
/// Clients join a base URL that ends in a slash with `/verify`, or add a slash of their own. A redirect would not help
/// them: many do not follow one for a POST, and those that do send the payment twice.
pub(crate) fn normalized<B>(mut request: Request<B>) -> Request<B> {
    if let Some(uri) = plain(request.uri()) {
        *request.uri_mut() = uri;
    }
    request
}

/// `None` where nothing is to be changed.
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
    fn slashes_too_many_are_left_out_and_everything_else_stays() {
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
        /// It is done once for all, and never makes a path of something else.
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
