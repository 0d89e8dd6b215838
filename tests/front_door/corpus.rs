//! Requests from gunicorn's tests, so that not all requests are our own.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::front_door::monitor::sidecar;
use crate::front_door::packages::gunicorn_requests;
use crate::support::KEY;

/// More than the 5 s after which an incomplete request times out.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The number of requests at the same time. It must not fill the places of a key in the queue of changes.
const AT_A_TIME: usize = 4;

const NO_CODING: &str = "another transfer coding than chunked: no sender of webhooks needs one";
const DROPPED: &str =
    "a trailer that no trailer may have: trailers are dropped, and never join the head (RFC 9110, 6.5.1)";
const NO_FOLDING: &str =
    "a folded field: obsolete, and read differently by different readers (RFC 9112, 5.2)";
const NO_PROXY_LINE: &str = "the PROXY protocol, which is not supported";
const NO_TUNNEL: &str = "a target for CONNECT, which only a proxy accepts";

/// Valid requests that are refused on purpose.
const REFUSED: &[(&str, u16, &str)] = &[
    ("005", 400, "a fragment, which no target has (RFC 9112, 3.2)"),
    ("024", 431, "a request line of 16 KiB, with gunicorn's own limit lifted"),
    ("025", 400, NO_CODING),
    ("025_line", 400, NO_CODING),
    ("026", 431, "a field of 8,190 bytes: the head has more than 8 KiB"),
    ("028", 400, "a space before a colon, which gunicorn accepts as an option (RFC 9112, 5.1, demands 400)"),
    ("029", 400, NO_CODING),
    ("030", 400, NO_CODING),
    ("compat_obs_fold", 400, NO_FOLDING),
    ("compat_obs_fold_huge", 400, NO_FOLDING),
    ("pp_01", 400, NO_PROXY_LINE),
    ("pp_02", 400, NO_PROXY_LINE),
    ("pp_04", 400, NO_PROXY_LINE),
    ("pp_05", 400, NO_PROXY_LINE),
    ("rfc9112_smuggle_gzip_chunked_01", 400, NO_CODING),
    ("rfc9112_smuggle_te_identity_chunked_01", 400, NO_CODING),
    ("rfc9112_target_absolute_https_01", 400, "https over a connection without TLS (RFC 9110, 7.4)"),
    ("rfc9112_target_absolute_userinfo_01", 400, "a user in the target (RFC 9110, 4.2.4: an error)"),
    ("rfc9112_target_authority_connect_01", 400, NO_TUNNEL),
    ("rfc9112_target_authority_ipv6_01", 400, NO_TUNNEL),
];

/// Requests that are invalid for gunicorn and valid here.
const ACCEPTED: &[(&str, &str)] = &[
    ("010", "a field of 13 bytes: only gunicorn's settings forbid it"),
    ("011", "three fields: only gunicorn's settings forbid them"),
    ("012", "a field of 99 bytes: only gunicorn's settings forbid it"),
    ("019", "X-Forwarded-Proto contradicts X-Forwarded-Ssl: neither is read"),
    (
        "040",
        "Transfer_Encoding, which is not Transfer-Encoding: no gateway here turns both into one variable",
    ),
    ("chunked_07", "Transfer_Encoding beside Transfer-Encoding: the same"),
    ("rfc9110_trailer_forbidden_cl_01", DROPPED),
    ("rfc9110_trailer_forbidden_host_01", DROPPED),
    ("rfc9110_trailer_forbidden_te_01", DROPPED),
    ("041", "two Content-Type: neither is read"),
];

#[test]
fn requests_that_gunicorn_calls_invalid_run_nothing() {
    let sidecar = sidecar().start();
    let address = sidecar.address;
    let files = requests("invalid");
    let statuses = replies(address, &files, <[u8]>::to_vec);
    for (name, status) in &statuses {
        assert!(status.is_none_or(|status| (400..500).contains(&status)), "{name}: {status:?}");
    }
    assert_eq!(sidecar.ipmitool_runs().len(), 0);

    // The sidecar refuses most of them for their path, or for a missing Host or key. So these are set, to
    // test the rest.
    let changes = replies(address, &files, as_change);
    let wrong: Vec<_> = changes
        .iter()
        .filter(|(name, status)| {
            let is_accepted = ACCEPTED.iter().any(|(accepted, _)| accepted == name);
            !status.map_or(!is_accepted, |status| {
                if is_accepted { status == 200 } else { (400..500).contains(&status) }
            })
        })
        .collect();
    assert!(wrong.is_empty(), "wrong statuses: {wrong:?}");
    assert_eq!(sidecar.ipmitool_runs().len(), ACCEPTED.len());
    report("invalid", &statuses, ACCEPTED.len());
}

#[test]
fn requests_that_gunicorn_calls_valid_are_understood() {
    let sidecar = sidecar().start();
    let files = requests("valid");
    let statuses = replies(sidecar.address, &files, with_host);
    let wrong: Vec<_> = statuses
        .iter()
        .filter(|(name, status)| {
            let refused = REFUSED.iter().find(|(refused, ..)| refused == name);
            // None of the paths is a route of the sidecar.
            **status != Some(refused.map_or(404, |(_, status, _)| *status))
        })
        .collect();
    assert!(wrong.is_empty(), "wrong statuses: {wrong:?}");
    assert_eq!(sidecar.ipmitool_runs().len(), 0);
    report("valid", &statuses, REFUSED.len());
}

/// Prints a line to standard error, which the test runner does not hide.
fn report(kind: &str, statuses: &BTreeMap<String, Option<u16>>, exceptions: usize) {
    let line = format!("gunicorn's {kind} requests: {} files, {exceptions} exceptions\n", statuses.len());
    let _ = io::stderr().write_all(line.as_bytes());
}

/// The name and the request of each file, decoded as in gunicorn's `tests/treq.py`.
#[track_caller]
fn requests(kind: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = gunicorn_requests().join(kind);
    let files =
        fs::read_dir(&folder).expect("gunicorn's requests").map(|entry| entry.expect("an entry").path());
    let requests: BTreeMap<_, _> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "http"))
        .map(|path| {
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            (name, decoded(&fs::read(&path).expect("a file")))
        })
        .collect();
    assert!(requests.len() > 50, "{} files in {}", requests.len(), folder.display());
    requests
}

/// Line ends in the file are ignored. A backslash starts an escape: `\r`, `\n`, `\t`, `\0` or `\xHH`.
fn decoded(text: &[u8]) -> Vec<u8> {
    let mut rest = text.iter().copied().filter(|byte| *byte != b'\n');
    let mut bytes = Vec::new();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next() {
                Some(b'r') => b'\r',
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                Some(b'0') => 0,
                Some(b'x') => {
                    let digits: String = rest.by_ref().take(2).map(char::from).collect();
                    u8::from_str_radix(&digits, 16).expect("two hexadecimal digits")
                }
                other => panic!("a backslash before {other:?}"),
            },
            _ => byte,
        });
    }
    bytes
}

/// Adds the Host that HTTP/1.1 requires and gunicorn does not (RFC 9112, 3.2).
fn with_host(bytes: &[u8]) -> Vec<u8> {
    if bytes.to_ascii_lowercase().windows(7).any(|window| window == b"\r\nhost:") {
        return bytes.to_vec();
    }
    with_fields(bytes, "Host: a\r\n")
}

/// Turns a request into a change with a valid key. Keeps its flaw.
fn as_change(bytes: &[u8]) -> Vec<u8> {
    let bytes = with_fields(&with_host(bytes), &format!("X-API-Key: {KEY}\r\n"));
    let line_end = bytes.windows(2).position(|window| window == b"\r\n").unwrap_or(bytes.len());
    let (line, rest) = bytes.split_at(line_end);
    match line.split(|byte| *byte == b' ').collect::<Vec<_>>()[..] {
        // A target that is itself the flaw stays.
        [method, target, version] if target.starts_with(b"/") && is_plain(target) => {
            let method = if [&b"GET"[..], b"PUT"].contains(&method) { b"POST" } else { method };
            [method, b" /power/on ", version, rest].concat()
        }
        _ => bytes,
    }
}

fn is_plain(target: &[u8]) -> bool {
    target.len() < 1_000 && target.iter().all(u8::is_ascii_graphic)
}

/// Inserts these fields after the request line, if there is one.
fn with_fields(bytes: &[u8], fields: &str) -> Vec<u8> {
    let start = bytes.windows(2).position(|window| window != b"\r\n" && window[0] != b'\n').unwrap_or(0);
    match bytes[start..].windows(2).position(|window| window == b"\r\n") {
        Some(end) => {
            let (line, rest) = bytes.split_at(start + end + 2);
            [line, fields.as_bytes(), rest].concat()
        }
        None => bytes.to_vec(),
    }
}

/// The status of each reply, or `None` if the connection was closed without one.
#[track_caller]
fn replies(
    address: SocketAddr,
    files: &BTreeMap<String, Vec<u8>>,
    request: impl Fn(&[u8]) -> Vec<u8> + Sync,
) -> BTreeMap<String, Option<u16>> {
    let files = Mutex::new(files.iter());
    let all = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let next = files.lock().unwrap().next();
                    let Some((name, bytes)) = next else { return };
                    let status = status_of(address, &request(bytes));
                    all.lock().unwrap().insert(name.clone(), status);
                }
            });
        }
    });
    all.into_inner().unwrap()
}

fn status_of(address: SocketAddr, request: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect(address).expect("a listener");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a time-out");
    let _ = stream.write_all(request); // the sidecar may reply and close before the end
    let mut reply = Vec::new();
    let end = stream.read_to_end(&mut reply);
    assert!(
        !end.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock),
        "neither a reply nor a close: {}",
        String::from_utf8_lossy(request)
    );
    let reply = String::from_utf8_lossy(&reply);
    let heads = reply.matches("\r\nConnection: close\r\n").count();
    assert!(heads <= 1, "{heads} replies: {reply}");
    reply.strip_prefix("HTTP/1.1 ").map(|rest| rest[..3].parse().expect("a status"))
}
