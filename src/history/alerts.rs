//! The alerts that a body reports: Alertmanager's, Grafana's and Uptime Kuma's. Pure.
//!
//! Of a body only this is read: whether it was delivered before, and whether it asks for anything at all.

use serde_json::Value;

/// Alertmanager's and Grafana's have 16 hexadecimal digits.
const MAX_FINGERPRINT: usize = 64;

/// An alert that fires.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alert {
    /// The same whenever it fires.
    pub fingerprint: String,
    /// When it began to fire, in milliseconds since 1970. If two Prometheus report it, Alertmanager takes the earlier
    /// start, so this can move back while it fires.
    pub since: i64,
    /// The same, unless the sender's clock was ahead: then the moment when it was noted.
    pub counts_from: i64,
}

/// Why a change that was asked for is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// It was made for the same alerts before.
    Repeat,
    /// The trouble is over.
    Resolved,
    /// A person tries whether webhooks arrive.
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

/// The alerts that the body reports, sorted. `Ok(None)` for the body of any other sender.
///
/// # Errors
/// Why the body asks for nothing.
pub fn firing(body: &[u8]) -> Result<Option<Vec<Alert>>, Skip> {
    // A known sender sends an object, and most bodies are empty.
    let body = without_mark(body).trim_ascii_start();
    if !body.starts_with(b"{") {
        return Ok(None);
    }
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return Ok(None) };
    match (body.get("alerts"), body.get("heartbeat"), body.get("monitor")) {
        // Resolved is resolved, whatever stands beside it.
        (Some(_), ..) if body["status"] == "resolved" => Err(Skip::Resolved),
        (Some(Value::Array(alerts)), ..) => read(alerts),
        (None, Some(heartbeat), Some(_)) => kuma(heartbeat).map_or(Ok(None), Err),
        _ => Ok(None),
    }
}

/// Whether it is text that begins as JSON does and is none: an alert may stand in it that this program cannot read.
pub fn is_damaged_json(body: &[u8]) -> bool {
    let body = without_mark(body).trim_ascii();
    let begins = body.first().is_some_and(|first| b"{[".contains(first));
    begins && serde_json::from_slice::<Value>(body).is_err()
}

/// Some programs of Windows begin a text with a byte order mark.
fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body)
}

/// Alertmanager's alerts, or Grafana's. Each one fires or is over. One that fires has a fingerprint and a start.
fn read(alerts: &[Value]) -> Result<Option<Vec<Alert>>, Skip> {
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
    let meant = firing.filter(|alert| !is_test(alert)).map(Alert::from_json);
    let Some(mut meant) = meant.collect::<Option<Vec<_>>>() else { return Ok(None) };
    if meant.is_empty() {
        return Err(Skip::Test);
    }
    meant.sort_unstable();
    meant.dedup();
    Ok(Some(meant))
}

impl Alert {
    fn from_json(value: &Value) -> Option<Self> {
        let fingerprint = value["fingerprint"].as_str()?;
        let is_one = (1..=MAX_FINGERPRINT).contains(&fingerprint.len());
        let since = milliseconds(value["startsAt"].as_str()?)?;
        is_one.then(|| Self { fingerprint: fingerprint.to_owned(), since, counts_from: since })
    }
}

/// A date of RFC 3339 in milliseconds since 1970. As text, one moment in two time zones would be two moments.
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
    // Days since 1970. Years are counted from March, so that the leap day is the last of its year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468;
    Some((((days * 24 + hour) * 60 + minute - offset) * 60 + second) * 1000 + thousandths)
}

/// Uptime Kuma's heartbeat: 0 is down, another number is up or under repair, and none is its Test button.
fn kuma(heartbeat: &Value) -> Option<Skip> {
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

    fn read(body: &Value) -> Result<Option<Vec<Alert>>, Skip> {
        firing(body.to_string().as_bytes())
    }

    fn alert(status: &str, fingerprint: &str, start: &str) -> Value {
        json!({"status": status, "fingerprint": fingerprint, "startsAt": start, "labels": {"alertname": "Down"}})
    }

    /// With starts in seconds since 1970.
    fn alerts(alerts: &[(&str, i64)]) -> Vec<Alert> {
        let alert = |&(fingerprint, since): &(&str, i64)| Alert {
            fingerprint: fingerprint.to_owned(),
            since: since * 1000,
            counts_from: since * 1000,
        };
        alerts.iter().map(alert).collect()
    }

    const T1: &str = "1970-01-01T00:00:01Z";
    const T2: &str = "1970-01-01T00:00:02Z";

    #[test]
    fn firing_alerts_are_read_sorted_and_once() {
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
            assert_eq!(read(&body), expected, "{body}");
        }
    }

    #[test]
    fn a_test_and_a_resolved_alert_ask_for_nothing() {
        for alerts in
            [json!([]), json!([{}]), json!([{"status": "resolved"}]), json!({}), Value::Null, json!("x")]
        {
            assert_eq!(read(&json!({"status": "resolved", "alerts": alerts})), Err(Skip::Resolved));
        }
        let mut test = alert("firing", "f1", T1);
        test["labels"]["alertname"] = json!("TestAlert");
        assert_eq!(read(&json!({"alerts": [test]})), Err(Skip::Test));
        assert_eq!(
            read(&json!({"alerts": [test, alert("firing", "f2", T2)]})),
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
            assert_eq!(read(&body), expected, "{body}");
        }
    }

    #[test]
    fn a_byte_order_mark_hides_no_alert() {
        let body = format!("\u{feff}{}", json!({"status": "resolved", "alerts": []}));
        assert_eq!(firing(body.as_bytes()), Err(Skip::Resolved));
    }

    #[test]
    fn a_body_that_begins_as_json_and_is_none_is_noticed() {
        for (body, is_damaged) in [
            ("{\"status\": \"resolved\", \"alerts\": [", true),
            ("\u{feff}{\"a", true),
            ("[1,", true),
            ("{}", false),
            ("\u{feff} [] ", false),
            ("", false),
            ("reset=1", false),
            ("\0\u{ff}", false),
        ] {
            assert_eq!(is_damaged_json(body.as_bytes()), is_damaged, "{body:?}");
        }
    }

    #[test]
    fn any_other_body_reports_no_alert() {
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
            assert_eq!(read(&body), Ok(None), "{body}");
        }
        for text in ["", "{", "{}", "power=off", "\0", "{\"alerts\":[{\"status\":"] {
            assert_eq!(firing(text.as_bytes()), Ok(None), "{text}");
        }
        let deep = format!("{}{}", "{\"alerts\":[".repeat(5000), "]}".repeat(5000));
        assert_eq!(firing(deep.as_bytes()), Ok(None));
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
        fn any_bytes_are_read_without_a_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = firing(&body);
            let _ = firing(&[b"{\"alerts\":[", &body[..]].concat());
        }

        #[test]
        fn any_date_is_read_without_a_panic(date in ".{0,40}|[0-9TZ:.+-]{19,30}") {
            let _ = milliseconds(&date);
        }
    }
}
