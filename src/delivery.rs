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

/// Alertmanager's and Grafana's have 16 hexadecimal digits.
const MAX_FINGERPRINT: usize = 64;

/// What a change is remembered by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The sender's own name for it.
    Named(String),
    /// The alerts that fire, sorted. Alertmanager sends no id, and sends the same alerts again and again.
    Alerts(Vec<Alert>),
}

/// An alert that fires.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alert {
    /// The same whenever it fires.
    pub fingerprint: String,
    /// When it began to, in milliseconds since 1970. Of two Prometheus that report it, Alertmanager takes the earlier
    /// start, so this can move back while it fires.
    pub since: i64,
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
            (Some(Value::Array(_)), ..) if body["status"] == "resolved" => Err(Skip::Resolved),
            (Some(Value::Array(alerts)), ..) => alerts_of(alerts),
            (None, Some(heartbeat), Some(_)) => heard(heartbeat).map_or(Ok(None), Err),
            _ => Ok(None),
        }
    }
}

/// Alertmanager's alerts, or Grafana's: each fires or is over, and those that fire have a fingerprint and a start.
fn alerts_of(alerts: &[Value]) -> Result<Option<Delivery>, Skip> {
    let fires = |alert: &Value| match alert["status"].as_str() {
        Some("firing") => Some(true),
        Some("resolved") => Some(false),
        _ => None,
    };
    let Some(all) = alerts.iter().map(fires).collect::<Option<Vec<_>>>() else { return Ok(None) };
    if all.is_empty() {
        return Ok(None);
    }
    if !all.contains(&true) {
        return Err(Skip::Resolved);
    }
    // Grafana's Test button.
    let is_test = |alert: &Value| alert["labels"]["alertname"] == "TestAlert";
    let firing = alerts.iter().zip(all).filter(|(_, fires)| *fires).map(|(alert, _)| alert);
    let meant = firing.filter(|alert| !is_test(alert)).map(Alert::of);
    let Some(mut meant) = meant.collect::<Option<Vec<_>>>() else { return Ok(None) };
    if meant.is_empty() {
        return Err(Skip::Test);
    }
    meant.sort_unstable();
    meant.dedup();
    Ok(Some(Delivery::Alerts(meant)))
}

impl Alert {
    fn of(value: &Value) -> Option<Self> {
        let fingerprint = value["fingerprint"].as_str()?;
        let is_one = (1..=MAX_FINGERPRINT).contains(&fingerprint.len());
        let since = milliseconds(value["startsAt"].as_str()?)?;
        is_one.then(|| Self { fingerprint: fingerprint.to_owned(), since })
    }
}

/// A date of RFC 3339 in milliseconds since 1970. Compared as text, two offsets of one moment would be two moments.
fn milliseconds(date: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| {
        let digits = date.get(range)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<i64>().ok())?
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let rest = date.get(19..)?;
    let fraction = rest.strip_prefix('.').unwrap_or_default();
    let fraction = &fraction[..fraction.bytes().take_while(u8::is_ascii_digit).count()];
    let thousandths = format!("{fraction:0<3}").get(..3)?.parse::<i64>().ok()?;
    let zone = date.len() - rest.len() + if fraction.is_empty() { 0 } else { 1 + fraction.len() };
    let offset = match date.get(zone..)? {
        "Z" => 0,
        other if other.len() == 6 => {
            let minutes = number(zone + 1..zone + 3)? * 60 + number(zone + 4..zone + 6)?;
            if other.starts_with('-') { -minutes } else { minutes }
        }
        _ => return None,
    };
    // Days since 1970, by counting years from March: the leap day is then the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468;
    Some((((days * 24 + hour) * 60 + minute - offset) * 60 + second) * 1000 + thousandths)
}

/// Uptime Kuma's heartbeat: 0 is down, another number is up again or under repair, and none is its Test button.
fn heard(heartbeat: &Value) -> Option<Skip> {
    match heartbeat {
        Value::Null => Some(Skip::Test),
        _ if heartbeat["status"].is_number() && heartbeat["status"] != 0 => Some(Skip::Resolved),
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

    /// With starts in seconds since 1970.
    fn alerts(alerts: &[(&str, i64)]) -> Delivery {
        let alert = |&(fingerprint, since): &(&str, i64)| Alert {
            fingerprint: fingerprint.to_owned(),
            since: since * 1000,
        };
        Delivery::Alerts(alerts.iter().map(alert).collect())
    }

    const T1: &str = "1970-01-01T00:00:01Z";
    const T2: &str = "1970-01-01T00:00:02Z";

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
        let (one, two) = (alert("firing", "f1", T1), alert("firing", "f2", T2));
        let over = alert("resolved", "f3", T2);
        for (list, expected) in [
            (json!([one]), Ok(Some(alerts(&[("f1", 1)])))),
            (json!([two, one, two]), Ok(Some(alerts(&[("f1", 1), ("f2", 2)])))),
            (json!([one, over]), Ok(Some(alerts(&[("f1", 1)])))),
            (json!([over]), Err(Skip::Resolved)),
            (json!([{"status": "resolved"}]), Err(Skip::Resolved)),
        ] {
            let body = json!({"version": "4", "groupKey": "{}", "status": "firing", "alerts": list});
            assert_eq!(by_body(&body), expected, "{body}");
        }
    }

    #[test]
    fn what_only_tries_the_line_or_reports_an_end_asks_for_nothing() {
        for alerts in [json!([]), json!([{}]), json!([{"status": "resolved"}])] {
            assert_eq!(by_body(&json!({"status": "resolved", "alerts": alerts})), Err(Skip::Resolved));
        }
        let mut test = alert("firing", "f1", T1);
        test["labels"]["alertname"] = json!("TestAlert");
        assert_eq!(by_body(&json!({"alerts": [test]})), Err(Skip::Test));
        assert_eq!(
            by_body(&json!({"alerts": [test, alert("firing", "f2", T2)]})),
            Ok(Some(alerts(&[("f2", 2)])))
        );
        for (heartbeat, expected) in [
            (json!({"status": 0, "msg": "timeout"}), Ok(None)),
            (json!({"status": 1}), Err(Skip::Resolved)),
            (json!({"status": 3}), Err(Skip::Resolved)),
            (json!({}), Ok(None)),
            (Value::Null, Err(Skip::Test)),
        ] {
            let body = json!({"heartbeat": heartbeat, "monitor": null, "msg": "x"});
            assert_eq!(by_body(&body), expected, "{body}");
        }
    }

    #[test]
    fn any_other_body_names_nothing() {
        let long = "f".repeat(MAX_FINGERPRINT + 1);
        for body in [
            json!({"alerts": []}),
            json!({"alerts": {}}),
            json!({"status": "firing", "alerts": [{}]}),
            json!({"alerts": [alert("firing", "f1", T1), 7]}),
            json!({"alerts": [alert("pending", "f1", T1)]}),
            json!({"alerts": [alert("firing", &long, T1)]}),
            json!({"alerts": [alert("firing", "f1", "today")]}),
            json!({"alerts": [{"status": "firing"}]}),
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

    #[test]
    fn dates_are_those_of_rfc_3339() {
        for (date, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:34:56.789Z", Some(951_827_696_789)),
            ("2000-03-01T00:00:00Z", Some(951_868_800_000)),
            ("2026-11-24T03:00:00.5Z", Some(1_795_489_200_500)),
            ("2026-11-24T03:00:00.123456789Z", Some(1_795_489_200_123)),
            ("2026-11-24T04:30:00+01:30", Some(1_795_489_200_000)),
            ("2026-11-23T19:00:00.000-08:00", Some(1_795_489_200_000)),
            ("0001-01-01T00:00:00Z", Some(-62_135_596_800_000)),
            ("", None),
            ("today", None),
            ("2026-11-24", None),
            ("2026-11-24T03:00:00", None),
            ("2026-11-24T03:00:00+1", None),
            ("2026-11-24T03:00:0\u{e9}Z", None),
            ("+026-11-24T03:00:00Z", None),
        ] {
            assert_eq!(milliseconds(date), expected, "{date}");
        }
    }

    proptest! {
        #[test]
        fn no_body_is_too_strange(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Delivery::by_body(&body);
            let _ = Delivery::by_body(&[b"{\"alerts\":[", &body[..]].concat());
        }

        #[test]
        fn no_date_is_too_strange(date in ".{0,40}|[0-9TZ:.+-]{19,30}") {
            let _ = milliseconds(&date);
        }
    }
}
