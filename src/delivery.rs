//! What tells one delivery from another: an id in the head, or the alerts in the body. Pure.
//!
//! Automations deliver at least once, and a power cycle must happen once. Of a body nothing is read but what tells
//! whether this was delivered before, and whether it asks for anything at all.

use serde_json::Value;

use crate::http::{Head, HeadError};

/// Senders that repeat what they were not answered, and name each delivery: most, Standard Webhooks, GitHub.
const ID_FIELDS: [&str; 3] = ["Idempotency-Key", "webhook-id", "X-GitHub-Delivery"];

/// A UUID has 36 characters, a signed token a hundred or two.
const MAX_ID: usize = 255;

/// Of an alert's fingerprint and of its start: 16 hexadecimal digits, and an RFC 3339 date of 35 characters.
const MAX_ALERT_WORD: usize = 64;

/// What a change is remembered by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The sender's own name for it.
    Named(String),
    /// The alerts that fire, each as its fingerprint and its start, sorted. Alertmanager sends no id, and sends the
    /// same alerts again and again.
    Alerts(Vec<String>),
}

/// Why a change that was asked for is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// It was made for the same alerts before.
    Repeat,
    /// Whatever was the matter is over.
    Resolved,
    /// Somebody tries whether webhooks arrive.
    Test,
}

impl Skip {
    /// The word in replies.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Repeat => "repeat",
            Self::Resolved => "resolved",
            Self::Test => "test",
        }
    }
}

impl Delivery {
    /// The id that the head brings, if it does.
    ///
    /// # Errors
    /// `Malformed` for more than one, or one that cannot be meant.
    pub fn by_head(head: &Head) -> Result<Option<Self>, HeadError> {
        let ids: Vec<_> = ID_FIELDS.into_iter().flat_map(|name| head.values(name)).collect();
        match ids[..] {
            [] => Ok(None),
            [id] if (1..=MAX_ID).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic) => {
                Ok(Some(Self::Named(String::from_utf8_lossy(id).into_owned())))
            }
            [_] => Err(HeadError::Malformed(
                "expected 1 to 255 visible ASCII characters in Idempotency-Key, webhook-id or X-GitHub-Delivery",
            )),
            _ => Err(HeadError::Malformed(
                "expected one of Idempotency-Key, webhook-id and X-GitHub-Delivery, once",
            )),
        }
    }

    /// The alerts that the body reports. `Ok(None)` for any body that nobody we know sends.
    ///
    /// # Errors
    /// Why the body asks for nothing.
    pub fn by_body(body: &[u8]) -> Result<Option<Self>, Skip> {
        // Anything but an object is nobody's, and most bodies are empty.
        if !body.trim_ascii_start().starts_with(b"{") {
            return Ok(None);
        }
        let Ok(body) = serde_json::from_slice::<Value>(body) else { return Ok(None) };
        match (body.get("alerts"), body.get("heartbeat"), body.get("monitor")) {
            (Some(Value::Array(alerts)), ..) => alerts_of(alerts),
            (None, Some(heartbeat), Some(_)) => heard(heartbeat).map_or(Ok(None), Err),
            _ => Ok(None),
        }
    }
}

/// Alertmanager's alerts, or Grafana's: each with a status, a fingerprint and a start.
fn alerts_of(alerts: &[Value]) -> Result<Option<Delivery>, Skip> {
    let Some(alerts) = alerts.iter().map(Alert::of).collect::<Option<Vec<_>>>() else { return Ok(None) };
    if alerts.is_empty() {
        return Ok(None);
    }
    let fires = alerts.iter().filter(|alert| alert.fires);
    // Grafana's Test button.
    let mut names: Vec<_> =
        fires.clone().filter(|alert| !alert.is_test).map(|alert| alert.name.clone()).collect();
    if names.is_empty() {
        return Err(if fires.count() > 0 { Skip::Test } else { Skip::Resolved });
    }
    names.sort_unstable();
    names.dedup();
    Ok(Some(Delivery::Alerts(names)))
}

struct Alert {
    /// The same for as long as it fires, and never the same again.
    name: String,
    fires: bool,
    is_test: bool,
}

impl Alert {
    fn of(value: &Value) -> Option<Self> {
        let word =
            |name: &str| value.get(name)?.as_str().filter(|word| (1..=MAX_ALERT_WORD).contains(&word.len()));
        let (status, fingerprint, start) = (word("status")?, word("fingerprint")?, word("startsAt")?);
        Some(Self {
            name: format!("{fingerprint} {start}"),
            fires: match status {
                "firing" => true,
                "resolved" => false,
                _ => return None,
            },
            is_test: value["labels"]["alertname"] == "TestAlert",
        })
    }
}

/// Uptime Kuma's heartbeat: 0 is down, 1 is up again, and none is its Test button.
fn heard(heartbeat: &Value) -> Option<Skip> {
    match heartbeat {
        Value::Null => Some(Skip::Test),
        _ if heartbeat["status"] == 1 => Some(Skip::Resolved),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn by_head(fields: &str) -> Result<Option<Delivery>, HeadError> {
        let text = format!("POST /power/on HTTP/1.0\r\n{fields}\r\n");
        Delivery::by_head(&Head::parse(text.as_bytes(), "test".into()).unwrap())
    }

    fn by_body(body: &Value) -> Result<Option<Delivery>, Skip> {
        Delivery::by_body(body.to_string().as_bytes())
    }

    fn alert(status: &str, fingerprint: &str, start: &str) -> Value {
        json!({"status": status, "fingerprint": fingerprint, "startsAt": start, "labels": {"alertname": "Down"}})
    }

    fn alerts(names: &[&str]) -> Delivery {
        Delivery::Alerts(names.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn an_id_comes_in_one_of_three_fields_and_alone() {
        let id = |id: &str| Ok(Some(Delivery::Named(id.to_owned())));
        assert_eq!(by_head(""), Ok(None));
        assert_eq!(by_head("Idempotency-Key: a-1\r\n"), id("a-1"));
        assert_eq!(by_head("idempotency-key: \"a-1\"\r\n"), id("\"a-1\""));
        assert_eq!(by_head("Webhook-Id: msg_2\r\n"), id("msg_2"));
        assert_eq!(by_head("X-GitHub-Delivery: 3\r\n"), id("3"));
        let longest = "x".repeat(MAX_ID);
        assert_eq!(by_head(&format!("webhook-id: {longest}\r\n")), id(&longest));
        for bad in [
            "webhook-id:\r\n".to_owned(),
            "webhook-id: a b\r\n".to_owned(),
            "webhook-id: \u{e9}\r\n".to_owned(),
            format!("webhook-id: {longest}x\r\n"),
            "webhook-id: a\r\nwebhook-id: a\r\n".to_owned(),
            "webhook-id: a\r\nIdempotency-Key: a\r\n".to_owned(),
        ] {
            assert!(matches!(by_head(&bad), Err(HeadError::Malformed(_))), "{bad:?}");
        }
    }

    #[test]
    fn firing_alerts_are_the_name_of_a_delivery() {
        let (one, two) = (alert("firing", "f1", "t1"), alert("firing", "f2", "t2"));
        let over = alert("resolved", "f3", "t3");
        for (list, expected) in [
            (json!([one]), Ok(Some(alerts(&["f1 t1"])))),
            (json!([two, one, two]), Ok(Some(alerts(&["f1 t1", "f2 t2"])))),
            (json!([one, over]), Ok(Some(alerts(&["f1 t1"])))),
            (json!([over]), Err(Skip::Resolved)),
        ] {
            let body = json!({"version": "4", "groupKey": "{}", "status": "firing", "alerts": list});
            assert_eq!(by_body(&body), expected, "{body}");
        }
    }

    #[test]
    fn what_only_tries_the_line_or_reports_an_end_asks_for_nothing() {
        let mut test = alert("firing", "f1", "t1");
        test["labels"]["alertname"] = json!("TestAlert");
        assert_eq!(by_body(&json!({"alerts": [test]})), Err(Skip::Test));
        assert_eq!(
            by_body(&json!({"alerts": [test, alert("firing", "f2", "t2")]})),
            Ok(Some(alerts(&["f2 t2"])))
        );
        for (heartbeat, expected) in [
            (json!({"status": 0, "msg": "timeout"}), Ok(None)),
            (json!({"status": 1}), Err(Skip::Resolved)),
            (Value::Null, Err(Skip::Test)),
        ] {
            let body = json!({"heartbeat": heartbeat, "monitor": null, "msg": "x"});
            assert_eq!(by_body(&body), expected, "{body}");
        }
    }

    #[test]
    fn any_other_body_names_nothing() {
        let long = "f".repeat(MAX_ALERT_WORD + 1);
        for body in [
            json!({"alerts": []}),
            json!({"alerts": {}}),
            json!({"alerts": [{}]}),
            json!({"alerts": [alert("firing", "f1", "t1"), 7]}),
            json!({"alerts": [alert("pending", "f1", "t1")]}),
            json!({"alerts": [alert("firing", &long, "t1")]}),
            json!({"alerts": [{"status": "resolved"}]}),
            json!({"heartbeat": null}),
            json!({"action": "reset"}),
            json!([]),
            json!("power off"),
        ] {
            assert_eq!(by_body(&body), Ok(None), "{body}");
        }
        for text in ["", "{", "{}", "power=off", "\0", "{\"alerts\":[{\"status\":"] {
            assert_eq!(Delivery::by_body(text.as_bytes()), Ok(None), "{text}");
        }
        let deep = format!("{}{}", "{\"alerts\":[".repeat(5000), "]}".repeat(5000));
        assert_eq!(Delivery::by_body(deep.as_bytes()), Ok(None));
    }

    proptest! {
        #[test]
        fn no_body_is_too_strange(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Delivery::by_body(&body);
            let _ = Delivery::by_body(&[b"{\"alerts\":[", &body[..]].concat());
        }
    }
}
