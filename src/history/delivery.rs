//! What tells one delivery from another: an id in the head, or the alerts in the body. Pure.
//!
//! Automations deliver at least once, and a power cycle must happen once.

use super::alerts::{Alert, Skip, firing};
use crate::http::{Head, HeadError};

/// Fields that name a delivery. Most senders use the first, Standard Webhooks the second, GitHub the third.
const ID_FIELDS: [&str; 3] = ["Idempotency-Key", "webhook-id", "X-GitHub-Delivery"];

/// A UUID has 36 characters, a signed token a hundred or two.
const MAX_ID: usize = 255;

/// What a change is remembered by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The sender's own name for it.
    Named(String),
    /// The alerts that fire, sorted. Alertmanager sends no id, and sends the same alerts again and again.
    Alerts(Vec<Alert>),
}

impl Delivery {
    /// The id that the head brings, if there is one. Of different fields the first in the order of `ID_FIELDS` counts:
    /// relays add a second one.
    ///
    /// # Errors
    /// `Malformed` for one field with two values, and for an id that is empty, too long, or not ASCII.
    pub fn from_head(head: &Head) -> Result<Option<Self>, HeadError> {
        let mut first = None;
        for name in ID_FIELDS {
            let mut values = head.values(name);
            let Some(id) = values.next() else { continue };
            if values.any(|other| other != id) {
                return Err(HeadError::Malformed(
                    "expected one value in Idempotency-Key, webhook-id or X-GitHub-Delivery",
                ));
            }
            let is_visible = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
            if !(1..=MAX_ID).contains(&id.len()) || !id.iter().all(is_visible) {
                return Err(HeadError::Malformed(
                    "expected 1 to 255 ASCII characters, spaces included, in Idempotency-Key, webhook-id or X-GitHub-Delivery",
                ));
            }
            first = first.or_else(|| Some(Self::Named(String::from_utf8_lossy(id).into_owned())));
        }
        Ok(first)
    }

    /// The alerts that the body reports. `Ok(None)` for the body of any other sender.
    ///
    /// # Errors
    /// Why the body asks for nothing.
    pub fn from_body(body: &[u8]) -> Result<Option<Self>, Skip> {
        Ok(firing(body)?.map(Self::Alerts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_head(fields: &str) -> Result<Option<Delivery>, HeadError> {
        let text = format!("POST /power/on HTTP/1.0\r\n{fields}\r\n");
        Delivery::from_head(&Head::parse(text.as_bytes(), "test".into()).unwrap())
    }

    #[test]
    fn an_id_comes_in_one_of_three_fields() {
        let id = |id: &str| Ok(Some(Delivery::Named(id.to_owned())));
        assert_eq!(from_head(""), Ok(None));
        assert_eq!(from_head("Idempotency-Key: a-1\r\n"), id("a-1"));
        assert_eq!(from_head("idempotency-key: \"a-1\"\r\n"), id("\"a-1\""));
        assert_eq!(from_head("Webhook-Id: msg_2\r\n"), id("msg_2"));
        assert_eq!(from_head("X-GitHub-Delivery: 3\r\n"), id("3"));
        assert_eq!(from_head("webhook-id: job 7, step 2\r\n"), id("job 7, step 2"));
        // GitLab sends two fields with one value; a relay repeats a field, or adds one of its own.
        assert_eq!(from_head("webhook-id: a\r\nIdempotency-Key: a\r\n"), id("a"));
        assert_eq!(from_head("webhook-id: a\r\nwebhook-id: a\r\n"), id("a"));
        assert_eq!(from_head("X-GitHub-Delivery: c\r\nwebhook-id: b\r\nIdempotency-Key: a\r\n"), id("a"));
        assert_eq!(from_head("X-GitHub-Delivery: c\r\nwebhook-id: b\r\n"), id("b"));
        let longest = "x".repeat(MAX_ID);
        assert_eq!(from_head(&format!("webhook-id: {longest}\r\n")), id(&longest));
        for bad in [
            "webhook-id:\r\n".to_owned(),
            "webhook-id: a\tb\r\n".to_owned(),
            "webhook-id: \u{e9}\r\n".to_owned(),
            format!("webhook-id: {longest}x\r\n"),
            "webhook-id: a\r\nwebhook-id: b\r\n".to_owned(),
            "Idempotency-Key: a\r\nwebhook-id:\r\n".to_owned(),
        ] {
            assert!(matches!(from_head(&bad), Err(HeadError::Malformed(_))), "{bad:?}");
        }
    }
}
