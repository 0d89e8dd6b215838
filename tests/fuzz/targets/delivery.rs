//! Bytes of a body as a delivery, and of a file as a memory: no panic, and what was read is written down the same.

#![no_main]
#![allow(dead_code, unused_imports, reason = "a target uses a part of each file")]

#[path = "../../../src/delivery.rs"]
mod delivery;
#[path = "../../../src/http.rs"]
mod http;
#[path = "../../../src/ipmi.rs"]
mod ipmi;
#[path = "../../../src/memory.rs"]
mod memory;

use delivery::Delivery;
use libfuzzer_sys::fuzz_target;
use memory::Memory;

const NOW: memory::Moment = 1_800_000_000_000;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(Delivery::Alerts(names))) = Delivery::by_body(bytes) {
        assert!(!names.is_empty() && names.is_sorted(), "{names:?}");
    }
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Some(memory) = Memory::from_json(text, NOW) {
        assert_eq!(Memory::from_json(&memory.to_json(), NOW), Some(memory));
    }
});
