//! The charge in a handler's response.

use http::{Extensions, HeaderMap};
use quittance_core::json;
use serde::Deserialize;

use crate::charge::Charge;

/// The header of a handler's response that says what it charges. It never reaches the client.
const SETTLEMENT_OVERRIDES: &str = "settlement-overrides";

/// The value of the header. Other fields have no meaning for this library.
#[derive(Deserialize)]
struct SettlementOverrides {
    #[serde(default)]
    amount: Option<String>,
}

/// Takes the charge out of a handler's response; `None` if the handler charges the price.
///
/// # Errors
/// When it cannot be read, or the response has several. A handler that meant less must not charge
/// the price.
pub(crate) fn take_charge(
    headers: &mut HeaderMap,
    extensions: &mut Extensions,
) -> Result<Option<Charge>, String> {
    let stated = extensions.remove::<Charge>();
    let values: Vec<_> = headers
        .get_all(SETTLEMENT_OVERRIDES)
        .iter()
        .cloned()
        .collect();
    headers.remove(SETTLEMENT_OVERRIDES);
    match (stated, values.as_slice()) {
        (stated, []) => Ok(stated),
        (None, [value]) => {
            let overrides = json::read(SETTLEMENT_OVERRIDES, value.as_bytes());
            let overrides: SettlementOverrides = overrides.map_err(|error| error.to_string())?;
            Ok(overrides.amount.map(Charge::from_words))
        }
        _ => Err("the response states its charge more than once".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn taken(values: &[&'static str], stated: Option<Charge>) -> Result<Option<Charge>, String> {
        let (mut headers, mut extensions) = (HeaderMap::new(), Extensions::new());
        for value in values {
            headers.append("Settlement-Overrides", HeaderValue::from_static(value));
        }
        if let Some(stated) = stated {
            extensions.insert(stated);
        }
        let taken = take_charge(&mut headers, &mut extensions);
        assert!(headers.is_empty() && extensions.get::<Charge>().is_none());
        taken
    }

    #[test]
    fn charge_is_read_once_and_removed() {
        let five = Charge::percent("5");
        assert_eq!(taken(&[], None), Ok(None));
        assert_eq!(taken(&[], Some(five.clone())), Ok(Some(five.clone())));
        assert_eq!(taken(&[r#"{"amount":"5%"}"#], None), Ok(Some(five.clone())));
        assert_eq!(taken(&[r#"{"other":1}"#], None), Ok(None));
        for (values, stated) in [
            (&[r#"{"amount":"5%"}"#][..], Some(five)),
            (&[r#"{"amount":"5%"}"#; 2], None),
            (&["5%"], None),
            (&[r#"{"amount":5}"#], None),
            (&[r#"{"amount":"1","amount":"2"}"#], None),
            (&[""], None),
        ] {
            assert!(taken(values, stated).is_err(), "{values:?}");
        }
    }
}
