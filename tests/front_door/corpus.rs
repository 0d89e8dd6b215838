//! Requests that no one here wrote: those of gunicorn's own tests.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::monitor::sidecar;
use crate::packages::gunicorn_requests;
use crate::support::KEY;

/// More than the five seconds after which an incomplete request is given up.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Requests that are sent at a time: fewer than changes may wait.
const AT_A_TIME: usize = 8;

const NO_CODING: &str = "a transfer coding: nobody needs one to send a body that is not looked at";
const NO_FOLDING: &str =
    "a folded field: obsolete, and read differently by different readers (RFC 9112, 5.2)";
const NO_PROXY_LINE: &str = "the PROXY protocol, which no one has told us to expect";
const NO_TUNNEL: &str = "a target for CONNECT, which only a proxy serves";

/// Valid ones that are refused on purpose.
const REFUSED: [(&str, u16, &str); 28] = [
    ("005", 400, "a fragment, which no target has (RFC 9112, 3.2)"),
    ("010", 400, NO_CODING),
    ("011", 400, NO_CODING),
    ("012", 400, NO_CODING),
    ("013", 400, NO_CODING),
    ("023", 400, NO_CODING),
    ("024", 431, "a request line of 16 KiB, with gunicorn's own limit lifted"),
    ("025", 400, NO_CODING),
    ("025_line", 400, NO_CODING),
    ("026", 431, "a field of 8,190 bytes: the head has more than 8 KiB"),
    ("028", 400, "a space before a colon, taken only on request (RFC 9112, 5.1, demands 400)"),
    ("029", 400, NO_CODING),
    ("030", 400, NO_CODING),
    ("compat_obs_fold", 400, NO_FOLDING),
    ("compat_obs_fold_huge", 400, NO_FOLDING),
    ("pp_01", 400, NO_PROXY_LINE),
    ("pp_02", 400, NO_PROXY_LINE),
    ("pp_04", 400, NO_PROXY_LINE),
    ("pp_05", 400, NO_PROXY_LINE),
    ("rfc9112_chunked_ext_quoted_01", 400, NO_CODING),
    ("rfc9112_chunked_size_leading_zeros_01", 400, NO_CODING),
    ("rfc9112_chunked_size_uppercase_hex_01", 400, NO_CODING),
    ("rfc9112_smuggle_gzip_chunked_01", 400, NO_CODING),
    ("rfc9112_smuggle_te_identity_chunked_01", 400, NO_CODING),
    ("rfc9112_target_absolute_https_01", 400, "https over a connection without TLS (RFC 9110, 7.4)"),
    ("rfc9112_target_absolute_userinfo_01", 400, "a user in the target (RFC 9110, 4.2.4: an error)"),
    ("rfc9112_target_authority_connect_01", 400, NO_TUNNEL),
    ("rfc9112_target_authority_ipv6_01", 400, NO_TUNNEL),
];

/// Invalid ones that are as good as any other here.
const TAKEN: [(&str, &str); 6] = [
    ("010", "a field of 13 bytes: only its own settings forbid that"),
    ("011", "three fields: only its own settings forbid that"),
    ("012", "a field of 99 bytes: only its own settings forbid that"),
    ("019", "X-Forwarded-Proto against X-Forwarded-Ssl: neither is read"),
    (
        "040",
        "Transfer_Encoding, another field than Transfer-Encoding: nobody turns both into one variable here",
    ),
    ("041", "two Content-Type: neither is read"),
];

#[test]
fn what_gunicorn_finds_invalid_runs_nothing() {
    let sidecar = sidecar().start();
    let address = sidecar.address;
    let files = requests("invalid");
    let asked = answers(address, &files, <[u8]>::to_vec);
    for (name, status) in &asked {
        assert!(status.is_none_or(|status| (400..500).contains(&status)), "{name}: {status:?}");
    }
    assert_eq!(sidecar.ipmitool_runs().len(), 0);

    // Most of them would be refused for their path alone, or for a missing Host or key.
    let aimed = answers(address, &files, aimed);
    let wrong: Vec<_> = aimed
        .iter()
        .filter(|(name, status)| {
            let is_taken = TAKEN.iter().any(|(taken, _)| taken == name);
            !status.map_or(
                !is_taken,
                |status| if is_taken { status == 200 } else { (400..500).contains(&status) },
            )
        })
        .collect();
    assert!(wrong.is_empty(), "answered: {wrong:?}");
    assert_eq!(sidecar.ipmitool_runs().len(), TAKEN.len());
    report("invalid", &asked, TAKEN.len());
}

#[test]
fn what_gunicorn_finds_valid_is_understood() {
    let sidecar = sidecar().start();
    let files = requests("valid");
    let asked = answers(sidecar.address, &files, with_host);
    let wrong: Vec<_> = asked
        .iter()
        .filter(|(name, status)| {
            let refused = REFUSED.iter().find(|(refused, ..)| refused == name);
            // None of its paths is one of ours.
            **status != Some(refused.map_or(404, |(_, status, _)| *status))
        })
        .collect();
    assert!(wrong.is_empty(), "answered: {wrong:?}");
    assert_eq!(sidecar.ipmitool_runs().len(), 0);
    report("valid", &asked, REFUSED.len());
}

/// For people, past the test runner.
fn report(kind: &str, asked: &BTreeMap<String, Option<u16>>, exceptions: usize) {
    let line = format!("gunicorn's {kind} requests: {} files, {exceptions} exceptions\n", asked.len());
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Each file and its request, as gunicorn's `tests/treq.py` decodes it.
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

/// Link ends of the file mean nothing; a backslash begins `\r`, `\n`, `\t`, `\0` or `\xHH`.
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

/// With the Host that HTTP/1.1 demands and that gunicorn does not miss (RFC 9112, 3.2).
fn with_host(bytes: &[u8]) -> Vec<u8> {
    if bytes.to_ascii_lowercase().windows(7).any(|window| window == b"\r\nhost:") {
        return bytes.to_vec();
    }
    with_fields(bytes, "Host: a\r\n")
}

/// The same flaw in a request that would be carried out.
fn aimed(bytes: &[u8]) -> Vec<u8> {
    let bytes = with_fields(&with_host(bytes), &format!("X-API-Key: {KEY}\r\n"));
    let line_end = bytes.windows(2).position(|window| window == b"\r\n").unwrap_or(bytes.len());
    let (line, rest) = bytes.split_at(line_end);
    match line.split(|byte| *byte == b' ').collect::<Vec<_>>()[..] {
        // A target that is itself the flaw is left as it is.
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

/// With these fields in front of the others, where there is a first line to stand behind.
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

/// The status of each answer; `None` where the connection was closed without one.
#[track_caller]
fn answers(
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
    let _ = stream.write_all(request); // it may have been answered and closed half-way
    let mut reply = Vec::new();
    let end = stream.read_to_end(&mut reply);
    assert!(
        !end.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock),
        "neither answered nor closed: {}",
        String::from_utf8_lossy(request)
    );
    let reply = String::from_utf8_lossy(&reply);
    let heads = reply.matches("\r\nConnection: close\r\n").count();
    assert!(heads <= 1, "{heads} replies: {reply}");
    reply.strip_prefix("HTTP/1.1 ").map(|rest| rest[..3].parse().expect("a status"))
}
