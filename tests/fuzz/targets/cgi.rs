//! Any variables of a web server as a head: no panic, and no contradiction passes.

#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use ipmi_sidecar::command;
use ipmi_sidecar::front_end::cgi;
use ipmi_sidecar::http::body::Framing;
use libfuzzer_sys::fuzz_target;

// Lines of NAME=value, so that a seed can be read.
fuzz_target!(|bytes: &[u8]| {
    let variables = bytes.split(|byte| *byte == b'\n').filter_map(|line| {
        let equals = line.iter().position(|byte| *byte == b'=')?;
        Some((OsString::from_vec(line[..equals].to_vec()), OsString::from_vec(line[equals + 1..].to_vec())))
    });
    let variables: Vec<_> = variables.collect();
    let Ok(head) = cgi::head(variables.iter().cloned()) else { return };

    let method = head.method.as_str();
    assert!(!method.is_empty() && method.bytes().all(|byte| byte.is_ascii_graphic()), "{head:?}");
    assert!(head.path.is_empty() || head.path.starts_with('/'), "{head:?}");
    assert!(!head.peer.chars().any(char::is_control), "{head:?}");
    if let Some((_, again)) = variables.iter().find(|(name, _)| name == "HTTP_CONTENT_LENGTH") {
        let length = again.to_str().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX);
        assert_eq!(head.framing, Framing::Length(length), "{head:?}");
    }
    let fields = variables.iter().filter(|(name, _)| name.to_str().is_some_and(|name| name.starts_with("HTTP_")));
    assert_eq!(head.headers.len(), fields.count());
    let _ = command::find(&head.method, &head.path);
});
