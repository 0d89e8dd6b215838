//! The bytes of a connection as a head: no panic, the same end in whatever pieces they arrive, and nothing dangerous
//! passes.

#![no_main]

use ipmi_sidecar::http::Head;
use ipmi_sidecar::http::head::head_end;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = head_end(bytes, 0);
    let mut in_pieces = Ok(None);
    for arrived in 1..=bytes.len() {
        in_pieces = head_end(&bytes[..arrived], arrived - 1);
        if !matches!(in_pieces, Ok(None)) {
            break;
        }
    }
    assert_eq!(whole, in_pieces);

    let Ok(Some(end)) = whole else { return };
    let Ok(head) = Head::parse(&bytes[..end], String::new()) else { return };
    assert!(head.path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?'), "{head:?}");
    assert!(head.values("Transfer-Encoding").all(|coding| coding.eq_ignore_ascii_case(b"chunked")));
    assert!(head.values("Host").count() <= 1);
    assert!(head.values("Content-Length").count() <= 1);
    assert!(head.headers.iter().all(|(_, value)| !value.iter().any(|byte| b"\r\n\0".contains(byte))), "{head:?}");
});
