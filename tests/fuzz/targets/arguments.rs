//! `IPMITOOL_ARGS` of any text: only a few known options pass, each with a plain value.

#![no_main]

use ipmi_sidecar::bmc::arguments::ExtraArguments;
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
