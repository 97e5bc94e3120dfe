//! Signed webhooks: how a facilitator signs a message, and how its receiver verifies it.
//!
//! The format is that of [Standard Webhooks](https://www.standardwebhooks.com), version 1 with
//! symmetric keys. A receiver needs the headers, the body as it came, and the secret:
//!
//! ```
//! use http::HeaderMap;
//! use quittance_core::{Clock, SystemClock};
//! use quittance_http::webhook::{WebhookError, WebhookSecret, verify_webhook};
//!
//! fn receive(headers: &HeaderMap, body: &[u8]) -> Result<(), WebhookError> {
//!     let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
//!     let secret: WebhookSecret = secret.parse().expect("a secret");
//!     let id = verify_webhook(headers, body, &[secret], SystemClock.now())?;
//!     // The same message may come again, with the same id.
//!     println!("{id}");
//!     Ok(())
//! }
//! # assert!(receive(&HeaderMap::new(), b"{}").is_err());
//! ```

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use http::{HeaderMap, HeaderName, HeaderValue};
use quittance_core::Timestamp;
use secrecy::{ExposeSecret, SecretSlice};
use sha2::Sha256;

/// The header with the id of the message: the same for every attempt to deliver it.
pub const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");

/// The header with the time of the attempt, in seconds since 1970.
pub const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");

/// The header with the signatures, separated by spaces.
pub const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// How far the time of a message may be from the receiver's clock, in seconds. A recorded message
/// cannot be sent again after that. Five minutes are what the libraries of Standard Webhooks use.
pub const WEBHOOK_TOLERANCE: u64 = 5 * 60;

/// The prefix of a secret's text.
const SECRET_PREFIX: &str = "whsec_";

/// The fewest and the most bytes of a secret, by Standard Webhooks.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The prefix of a signature by a symmetric key.
const SIGNATURE_PREFIX: &str = "v1,";

/// How many signatures of one message are compared: more than any rotation of secrets needs.
const SIGNATURES_MAX: usize = 8;

/// The most characters of an id.
const ID_LEN_MAX: usize = 128;

/// A secret that a facilitator shares with the receiver of its webhooks. It is never printed.
#[derive(Clone)]
pub struct WebhookSecret(SecretSlice<u8>);

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(..)")
    }
}

impl FromStr for WebhookSecret {
    type Err = InvalidWebhookSecret;

    /// Reads `whsec_` and 24 to 64 bytes in base64, such as
    /// `echo whsec_$(openssl rand -base64 32)` writes.
    fn from_str(text: &str) -> Result<Self, InvalidWebhookSecret> {
        let text = text
            .strip_prefix(SECRET_PREFIX)
            .ok_or(InvalidWebhookSecret)?;
        let bytes = STANDARD.decode(text).map_err(|_| InvalidWebhookSecret)?;
        match SECRET_BYTES.contains(&bytes.len()) {
            true => Ok(Self(bytes.into())),
            false => Err(InvalidWebhookSecret),
        }
    }
}

/// A text is not a secret for webhooks. The error contains no part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write whsec_ and 24 to 64 random bytes in base64: echo whsec_$(openssl rand -base64 32)")]
pub struct InvalidWebhookSecret;

impl WebhookSecret {
    /// The code of a message, which is over its id, its time and its body.
    fn code(&self, id: &str, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
        let key = self.0.expose_secret();
        let mut code = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            code.update(part);
        }
        code
    }
}

/// The three headers of a message that is sent now, signed with each of these secrets. While a
/// secret is replaced, there are two: the receiver accepts either.
///
/// # Errors
/// When the id is not one of 1 to 128 letters, digits, `-` and `_`. Another character could move
/// the border between the id and the time, which one signature covers.
pub fn sign_webhook(
    secrets: &[WebhookSecret],
    id: &str,
    now: Timestamp,
    body: &[u8],
) -> Result<HeaderMap, WebhookError> {
    check_id(id)?;
    let timestamp = now.secs().to_string();
    let signature = |secret: &WebhookSecret| {
        let code = secret.code(id, &timestamp, body).finalize().into_bytes();
        format!("{SIGNATURE_PREFIX}{}", STANDARD.encode(code))
    };
    let signatures: Vec<String> = secrets.iter().map(signature).collect();
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (WEBHOOK_ID, id),
        (WEBHOOK_TIMESTAMP, timestamp.as_str()),
        (WEBHOOK_SIGNATURE, signatures.join(" ").as_str()),
    ] {
        let value = HeaderValue::from_str(value);
        headers.insert(name, value.expect("letters, digits and base64"));
    }
    Ok(headers)
}

/// Verifies a message, and returns its id. A receiver must verify before it reads the body, and
/// over the bytes as they came. It should ignore an id that it has handled before: a message comes
/// at least once.
///
/// `secrets` are those that the receiver accepts: one, or two while it is replaced.
///
/// # Errors
/// When a header is missing, repeated or malformed, when the message's time is more than five
/// minutes from `now`, and when no signature is by one of the secrets. Answer 401 then.
pub fn verify_webhook(
    headers: &HeaderMap,
    body: &[u8],
    secrets: &[WebhookSecret],
    now: Timestamp,
) -> Result<String, WebhookError> {
    let id = only(headers, &WEBHOOK_ID)?;
    check_id(id)?;
    let timestamp = only(headers, &WEBHOOK_TIMESTAMP)?;
    let sent = seconds(timestamp)?;
    if now.secs().abs_diff(sent) > WEBHOOK_TOLERANCE {
        return Err(WebhookError::Expired);
    }
    let signatures = only(headers, &WEBHOOK_SIGNATURE)?;
    // Other versions of the format may stand beside ours.
    let codes = signatures.split(' ').take(SIGNATURES_MAX);
    let codes = codes.filter_map(|one| STANDARD.decode(one.strip_prefix(SIGNATURE_PREFIX)?).ok());
    for code in codes {
        let is_by = |secret: &WebhookSecret| {
            // Takes the same time for every wrong code.
            let expected = secret.code(id, timestamp, body);
            expected.verify_slice(&code).is_ok()
        };
        if secrets.iter().any(is_by) {
            return Ok(id.to_owned());
        }
    }
    Err(WebhookError::Signature)
}

/// The value of a header that comes once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h str, WebhookError> {
    let malformed = || WebhookError::Header { name: name.clone() };
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(malformed());
    };
    value.to_str().map_err(|_| malformed())
}

fn check_id(id: &str) -> Result<(), WebhookError> {
    let is_permitted = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_id = (1..=ID_LEN_MAX).contains(&id.len()) && id.bytes().all(is_permitted);
    let name = WEBHOOK_ID;
    is_id.then_some(()).ok_or(WebhookError::Header { name })
}

/// Seconds since 1970 in digits, without a sign or a leading zero.
fn seconds(text: &str) -> Result<u64, WebhookError> {
    let name = WEBHOOK_TIMESTAMP;
    let parsed = text.parse::<u64>().ok();
    let parsed = parsed.filter(|seconds| seconds.to_string() == text);
    parsed.ok_or(WebhookError::Header { name })
}

/// A message is not from the sender that it claims, or is not fresh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    /// A header is missing, comes twice, or is malformed.
    #[error("the header {name} is missing, comes twice, or is malformed")]
    Header {
        /// The header's name.
        name: HeaderName,
    },
    /// The message is too old, or from the future: it is a repeated one, or a clock is wrong.
    #[error("the message's time is more than five minutes from this machine's clock")]
    Expired,
    /// No signature is by an accepted secret.
    #[error("no signature of the message is by an accepted secret")]
    Signature,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_614_265_330);

    fn secret(byte: u8) -> WebhookSecret {
        let text = format!("whsec_{}", STANDARD.encode([byte; 32]));
        text.parse().unwrap()
    }

    /// The example of the Standard Webhooks libraries.
    #[test]
    fn the_signature_is_that_of_standard_webhooks() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let body = br#"{"test": 2432232314}"#;
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let headers = sign_webhook(&[secret], id, NOW, body).unwrap();
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(headers[WEBHOOK_SIGNATURE], expected);
        assert_eq!(headers[WEBHOOK_ID], id);
        assert_eq!(headers[WEBHOOK_TIMESTAMP], "1614265330");
    }

    #[test]
    fn a_message_is_fresh_for_five_minutes() {
        let secrets = [secret(1)];
        let headers = sign_webhook(&secrets, "1", NOW, b"{}").unwrap();
        let at = |secs| verify_webhook(&headers, b"{}", &secrets, Timestamp::from_secs(secs));
        for secs in [NOW.secs() - 300, NOW.secs(), NOW.secs() + 300] {
            assert_eq!(at(secs).as_deref(), Ok("1"));
        }
        for secs in [0, NOW.secs() - 301, NOW.secs() + 301, u64::MAX] {
            assert_eq!(at(secs), Err(WebhookError::Expired));
        }
    }

    /// The sender signs with both, and each end may be the first that changes.
    #[test]
    fn a_secret_is_replaced_without_a_gap() {
        let (old, new) = (secret(1), secret(2));
        let both = [old.clone(), new.clone()];
        let accepted = |sender: &[WebhookSecret], receiver: &[WebhookSecret]| {
            let headers = sign_webhook(sender, "1", NOW, b"{}").unwrap();
            verify_webhook(&headers, b"{}", receiver, NOW).is_ok()
        };
        for secrets in [&both[..], &both[..1], &both[1..]] {
            assert!(accepted(&both, secrets) && accepted(secrets, &both));
        }
        assert!(!accepted(&both[..1], &both[1..]));
        assert!(!accepted(&[], &both) && !accepted(&both, &[]));
    }

    #[test]
    fn a_header_that_is_missing_or_repeated_is_refused() {
        let secrets = [secret(1)];
        let headers = sign_webhook(&secrets, "1", NOW, b"{}").unwrap();
        for name in [WEBHOOK_ID, WEBHOOK_TIMESTAMP, WEBHOOK_SIGNATURE] {
            let refused = Err(WebhookError::Header { name: name.clone() });
            let mut without = headers.clone();
            without.remove(&name);
            assert_eq!(verify_webhook(&without, b"{}", &secrets, NOW), refused);
            let mut twice = headers.clone();
            twice.append(&name, headers[&name].clone());
            assert_eq!(verify_webhook(&twice, b"{}", &secrets, NOW), refused);
        }
    }

    /// `1.2` and `3`, and `1` and `2.3`, would have one signature.
    #[test]
    fn the_border_of_id_and_time_cannot_be_moved() {
        let secrets = [secret(1)];
        assert!(sign_webhook(&secrets, "a.1", NOW, b"{}").is_err());
        let headers = sign_webhook(&secrets, "a", NOW, b"17.{}").unwrap();
        let mut moved = headers.clone();
        let id = format!("a.{NOW_SECS}", NOW_SECS = NOW.secs());
        moved.insert(WEBHOOK_ID, id.parse().unwrap());
        moved.insert(WEBHOOK_TIMESTAMP, HeaderValue::from_static("17"));
        let now = Timestamp::from_secs(17);
        assert!(verify_webhook(&moved, b"{}", &secrets, now).is_err());
    }

    #[test]
    fn a_secret_has_a_prefix_and_enough_bytes() {
        for bytes in [24, 64] {
            let text = format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
            let secret: WebhookSecret = text.parse().unwrap();
            assert_eq!(format!("{secret:?}"), "WebhookSecret(..)");
        }
        let good = STANDARD.encode([7; 32]);
        for text in [
            good.as_str(),
            "",
            "whsec_",
            "whsec_!",
            &format!("whsec_{}", STANDARD.encode([7; 23])),
            &format!("whsec_{}", STANDARD.encode([7; 65])),
        ] {
            assert!(text.parse::<WebhookSecret>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_message_is_verified_as_it_was_signed(
            id in "[A-Za-z0-9_-]{1,128}",
            body in prop::collection::vec(any::<u8>(), 0..200),
            secs in any::<u64>(),
        ) {
            let now = Timestamp::from_secs(secs);
            let headers = sign_webhook(&[secret(1)], &id, now, &body).unwrap();
            let verified = verify_webhook(&headers, &body, &[secret(2), secret(1)], now);
            prop_assert_eq!(verified, Ok(id));
        }

        #[test]
        fn a_message_with_another_byte_is_refused(
            body in prop::collection::vec(any::<u8>(), 1..100),
            part in 0_usize..4,
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let secrets = [secret(1)];
            let signed = sign_webhook(&secrets, "event-17", NOW, &body).unwrap();
            let (mut headers, mut sent) = (signed.clone(), body.clone());
            let names = [WEBHOOK_ID, WEBHOOK_TIMESTAMP, WEBHOOK_SIGNATURE];
            let is_changed = match names.get(part) {
                None => {
                    let at = at.index(sent.len());
                    std::mem::replace(&mut sent[at], byte) != byte
                }
                Some(name) => {
                    let mut value = signed[name].as_bytes().to_vec();
                    let at = at.index(value.len());
                    value[at] = byte;
                    match HeaderValue::from_bytes(&value) {
                        Ok(value) => {
                            headers.insert(name, value);
                            headers != signed
                        }
                        Err(_) => false,
                    }
                }
            };
            let verified = verify_webhook(&headers, &sent, &secrets, NOW);
            prop_assert_eq!(verified.is_err(), is_changed);
        }
    }
}
