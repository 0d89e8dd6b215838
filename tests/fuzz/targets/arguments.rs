//! `IPMITOOL_ARGS` of any text: what passes is a few known options, each with a plain value.

#![no_main]
#![allow(dead_code, unused_imports, reason = "a target uses a part of each file")]

#[path = "../../../src/secret.rs"]
mod secret;
#[path = "../../../src/http.rs"]
mod http;
#[path = "../../../src/ipmi.rs"]
mod ipmi;
#[path = "../../../src/exec.rs"]
mod exec;
#[path = "../../../src/auth.rs"]
mod auth;
#[path = "../../../src/ipmitool.rs"]
mod ipmitool;

use ipmitool::ExtraArguments;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if ExtraArguments::parse(text).is_err() {
        return;
    }
    let words = shell_words::split(text).expect("what passes can be split");
    for pair in words.chunks(2) {
        assert!(["-o", "-A", "-l", "-t", "-b", "-T", "-B"].contains(&pair[0].as_str()), "{text:?}");
        let value = &pair[1];
        assert!(value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+'), "{text:?}");
        assert!(!["power", "chassis", "raw", "list", "NONE"].contains(&value.as_str()), "{text:?}");
    }
});
