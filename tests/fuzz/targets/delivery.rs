//! Any bytes as a body and as a history file: no panic, and what was read is written down the same.

#![no_main]

use ipmi_sidecar::history::delivery::Delivery;
use ipmi_sidecar::history::{History, Now};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(Delivery::Alerts(alerts))) = Delivery::from_body(bytes) {
        assert!(!alerts.is_empty() && alerts.is_sorted(), "{alerts:?}");
    }
    let Ok(text) = str::from_utf8(bytes) else { return };
    let now = Now { boot: "b".to_owned(), moment: 1_000_000, time_of_day: 1_800_000_000_000 };
    if let Some((history, _)) = History::from_json(text, &now) {
        assert_eq!(History::from_json(&history.to_json(&now), &now), Some((history, false)));
    }
});
