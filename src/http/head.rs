//! A request's head, and how it is read from bytes. Pure.

use std::fmt;

use super::Method;
use super::body::Framing;

/// Room for any honest client's head; curl sends 100 bytes, a browser 1 KiB. The limit of most proxies.
pub const MAX_HEAD: usize = 8 * 1024;

/// Twice what a browser behind two proxies sends.
const MAX_HEADERS: usize = 64;

/// What a client hears that asks before it sends its body (RFC 9110, 10.1.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Everything of a request but its body.
pub struct Head {
    pub method: Method,
    /// The path of the target, as sent, without the query: it is only ever compared with constants.
    pub path: String,
    /// Names as sent, values without surrounding white space.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Where the body ends.
    pub framing: Framing,
    /// The client waits for `100 Continue` before it sends its body.
    pub expects_continue: bool,
    /// The client's address, for the log.
    pub peer: String,
}

/// Names only of its fields: a value may be the key.
impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        write!(f, "{} {:?} with {names:?} from {}", self.method, self.path, self.peer)
    }
}

/// Why bytes are no head that this program accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadError {
    TooLarge,
    /// The remedy: what was expected.
    Malformed(&'static str),
}

use HeadError::{Malformed, TooLarge};

impl HeadError {
    pub const CUT_SHORT: Self = Malformed("the request ended before it was complete");
}

/// Where the head ends in `bytes`, behind its empty line; `None` while that has not arrived. An earlier call has looked
/// at the bytes before `checked`.
///
/// httparse accepts a lone line feed as the end of a line. Proxies that disagree about it can be made to see two
/// requests where this program sees one (RFC 9112, 11.2). A lone LF or CR is refused before httparse sees the head, like
/// any other control character.
///
/// # Errors
/// `Malformed` at the first byte that no head can contain.
pub fn head_end(bytes: &[u8], checked: usize) -> Result<Option<usize>, HeadError> {
    for (at, &byte) in bytes.iter().enumerate().skip(checked) {
        let after_cr = at > 0 && bytes[at - 1] == b'\r';
        match byte {
            b'\n' if !after_cr => return Err(Malformed("expected every line to end with CR LF")),
            b'\n' if bytes[..=at].ends_with(b"\r\n\r\n") => return Ok(Some(at + 1)),
            b'\n' => {}
            _ if after_cr => return Err(Malformed("expected a line feed behind each carriage return")),
            b'\r' | b'\t' => {}
            0..=0x1f | 0x7f => {
                return Err(Malformed(
                    "expected plain HTTP, without control characters (is this a TLS client?)",
                ));
            }
            _ => {}
        }
    }
    Ok(None)
}

impl Head {
    /// Reads a whole head, up to and including its empty line (RFC 9112, sections 2 to 6).
    ///
    /// # Errors
    /// `Malformed` for anything that a strict reader of RFC 9112 does not accept, `TooLarge` for too many fields.
    pub fn parse(bytes: &[u8], peer: String) -> Result<Self, HeadError> {
        // RFC 9112, 2.2: one empty line before the request line is skipped.
        let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
        if bytes.starts_with(b"\r\n") {
            return Err(Malformed("expected a request line"));
        }
        let mut room = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut room);
        let length = match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => {
                return Err(Malformed("expected a request line and header fields"));
            }
            Err(error) => return Err(from_httparse(error)),
        };
        let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version)
        else {
            return Err(Malformed("expected a method, a target and a version in the request line"));
        };
        if length != bytes.len() {
            return Err(Malformed("expected one empty line at the end of the head"));
        }
        let fields = request.headers.iter();
        let headers: Vec<_> =
            fields.map(|field| (field.name.to_owned(), trimmed(field.value).to_vec())).collect();
        Self::assemble(method, target, version, headers, peer)
    }

    fn assemble(
        method: &str,
        target: &str,
        version: u8,
        headers: Vec<(String, Vec<u8>)>,
        peer: String,
    ) -> Result<Self, HeadError> {
        let mut head = Self {
            method: method.parse().map_err(|()| Malformed("expected an ASCII method"))?,
            path: path_of(target)?.to_owned(),
            headers,
            framing: Framing::Length(0),
            expects_continue: false,
            peer,
        };
        head.check_host(version)?;
        head.framing = head.announced_body(version)?;
        head.expects_continue = version == 1
            && head.framing != Framing::Length(0)
            && head.values("Expect").any(|value| value.eq_ignore_ascii_case(b"100-continue"));
        Ok(head)
    }

    /// The values of every field of that name (RFC 9110, 5.1: names are case-insensitive).
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers
            .iter()
            .filter(move |(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| &value[..])
    }

    /// RFC 9112, 3.2: exactly one valid `Host` in HTTP/1.1, at most one in HTTP/1.0.
    fn check_host(&self, version: u8) -> Result<(), HeadError> {
        let hosts: Vec<_> = self.values("Host").collect();
        match hosts[..] {
            [] if version == 0 => Ok(()),
            [host] if is_host(host) => Ok(()),
            [_] => Err(Malformed("expected a host name or address, and perhaps a port, in Host")),
            _ => Err(Malformed("expected exactly one Host field")),
        }
    }

    /// RFC 9112, 6.3, without what makes smuggling possible: one `Content-Length`, or one `Transfer-Encoding` that is
    /// `chunked` alone, and never both.
    fn announced_body(&self, version: u8) -> Result<Framing, HeadError> {
        let codings: Vec<_> = self.values("Transfer-Encoding").collect();
        let lengths: Vec<_> = self.values("Content-Length").collect();
        match (&codings[..], &lengths[..]) {
            ([], []) => Ok(Framing::Length(0)),
            ([], [length]) => Ok(Framing::Length(parse_length(length)?)),
            ([], _) => Err(Malformed("expected at most one Content-Length field")),
            ([_, ..], [_, ..]) => Err(Malformed("expected Content-Length or Transfer-Encoding, not both")),
            // HTTP/1.0 has no transfer codings (RFC 9112, 6.1).
            ([coding], []) if version == 1 && coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
            _ => Err(Malformed("expected no Transfer-Encoding but chunked, once, in HTTP/1.1")),
        }
    }
}

/// A body's length in bytes (RFC 9110, 8.6): digits and nothing else.
///
/// # Errors
/// `Malformed` for anything else.
pub fn parse_length(text: &[u8]) -> Result<u64, HeadError> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(Malformed("expected a plain decimal number in Content-Length"));
    }
    // A number that a u64 cannot hold is far too much in any case.
    Ok(str::from_utf8(text).ok().and_then(|digits| digits.parse().ok()).unwrap_or(u64::MAX))
}

fn from_httparse(error: httparse::Error) -> HeadError {
    use httparse::Error;
    match error {
        Error::TooManyHeaders => TooLarge,
        Error::HeaderName => Malformed("expected header fields of the form NAME: VALUE, one a line"),
        Error::HeaderValue => Malformed("expected header values without control characters"),
        Error::Version => Malformed("expected HTTP/1.1 or HTTP/1.0"),
        Error::Token | Error::NewLine | Error::Status => {
            Malformed("expected a request line such as GET /health HTTP/1.1")
        }
    }
}

/// The path of a request target in origin form, absolute form or asterisk form (RFC 9112, 3.2).
fn path_of(target: &str) -> Result<&str, HeadError> {
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) || target.contains('#') {
        return Err(Malformed("expected a target of ASCII characters, without a fragment"));
    }
    let scheme = "http://";
    let is_absolute = target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    let origin = if is_absolute {
        let rest = &target[scheme.len()..];
        let authority = rest.find(['/', '?']).unwrap_or(rest.len());
        // RFC 9110, 4.2.1: an empty host is invalid here, though not in `Host`.
        if authority == 0 || rest.starts_with(':') || !is_host(&rest.as_bytes()[..authority]) {
            return Err(Malformed("expected a host in the target"));
        }
        &rest[authority..]
    } else if target == "*" || target.starts_with('/') {
        target
    } else {
        return Err(Malformed("expected a target that begins with /"));
    };
    let path = origin.split('?').next().unwrap_or(origin);
    Ok(if path.is_empty() { "/" } else { path })
}

/// `uri-host [":" port]` (RFC 9110, 7.2), by its characters. The value is checked and never used.
fn is_host(value: &[u8]) -> bool {
    let (host, port) = match value.iter().rposition(|&byte| byte == b':') {
        Some(colon) if !value[colon..].contains(&b']') => (&value[..colon], &value[colon + 1..]),
        _ => (value, &b""[..]),
    };
    let literal = host.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    let is_unreserved = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let host_is_valid = match literal {
        Some(literal) => {
            // RFC 6874: the zone of a link-local address. Browsers and curl also send it without the 25.
            let mut parts = literal.splitn(2, |&byte| byte == b'%');
            let (address, zone) = (parts.next().unwrap_or_default(), parts.next());
            !address.is_empty()
                && address.iter().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(byte))
                && zone.is_none_or(|zone| !zone.is_empty() && zone.iter().all(is_unreserved))
        }
        None => host.iter().all(|byte| is_unreserved(byte) || b"%!$&'()*+,;=".contains(byte)),
    };
    host_is_valid && port.iter().all(u8::is_ascii_digit)
}

/// Without the optional white space around a field's value (RFC 9110, 5.5): spaces and tabs, nothing else.
fn trimmed(value: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !b" \t".contains(byte);
    let start = value.iter().position(is_text).unwrap_or(value.len());
    let end = value.iter().rposition(is_text).map_or(start, |last| last + 1);
    &value[start..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::select;

    fn parse(text: &str) -> Result<Head, HeadError> {
        let end = head_end(text.as_bytes(), 0)?.ok_or(Malformed("no end"))?;
        Head::parse(&text.as_bytes()[..end], "test".into())
    }

    #[test]
    fn a_plain_request_is_read() {
        let head = parse("POST /power/on?x=1 HTTP/1.1\r\nHost: a:8080\r\nX-API-Key: \t k \r\n\r\n").unwrap();
        assert_eq!(
            (head.method.as_str(), &head.path[..], head.framing),
            ("POST", "/power/on", Framing::Length(0))
        );
        assert_eq!(head.values("x-api-key").collect::<Vec<_>>(), [b"k"]);
    }

    #[test]
    fn targets_give_their_path() {
        for (target, path) in [
            ("/health", Ok("/health")),
            ("/health?", Ok("/health")),
            ("//health", Ok("//health")),
            ("/health/../x", Ok("/health/../x")),
            ("/%68ealth", Ok("/%68ealth")),
            ("http://bmc.example:80/health?q", Ok("/health")),
            ("HTTP://a/health", Ok("/health")),
            ("http://a", Ok("/")),
            ("http://a?x", Ok("/")),
            ("*", Ok("*")),
            ("http:///health", Err(())),
            ("http://:80/health", Err(())),
            ("https://a/health", Err(())),
            ("a:443", Err(())),
            ("health", Err(())),
            ("/health#x", Err(())),
            ("/h\u{e9}alth", Err(())),
        ] {
            assert_eq!(path_of(target).map_err(|_| ()), path, "{target}");
        }
    }

    #[test]
    fn hosts_are_checked_by_their_characters() {
        for valid in [
            "a",
            "a:80",
            "a:",
            "[fe80::77%v0]:8080",
            "[fe80::1%25en-0.1]",
            "[::1]",
            "[::1]:80",
            "192.0.2.1:8080",
            "",
            "a_b.c",
        ] {
            assert!(is_host(valid.as_bytes()), "{valid}");
        }
        for invalid in [
            "a b",
            "a/b",
            "a:b",
            "[::1",
            "::1",
            "a@b",
            "a:80:80",
            "[]",
            "[fe80::1%]",
            "[%v0]",
            "[fe80::1%v 0]",
            "[fe80::1%v/0]",
            "a,\"b",
        ] {
            assert!(!is_host(invalid.as_bytes()), "{invalid}");
        }
    }

    #[test]
    fn heads_that_are_refused() {
        let ok = "Host: a\r\n";
        for text in [
            "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\n\r\n".to_owned(),
            format!("GET / HTTP/1.1\r\n{ok}{ok}\r\n"),
            "GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: a\0\r\n\r\n".to_owned(),
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(),
            "GET /\r\nHost: a\r\n\r\n".to_owned(),
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            format!("GET / HTTP/1.1\r\n{ok}Name : x\r\n\r\n"),
            format!("GET / HTTP/1.1\r\n{ok}a: b\r\n folded\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{ok}Transfer-Encoding: gzip, chunked\r\n\r\n"),
            format!(
                "POST / HTTP/1.1\r\n{ok}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"
            ),
            format!("POST / HTTP/1.1\r\n{ok}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n"),
            format!("POST / HTTP/1.0\r\n{ok}Transfer-Encoding: chunked\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{ok}Content-Length: 4\r\nContent-Length: 4\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{ok}Content-Length: +4\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{ok}Content-Length: 4, 4\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{ok}Content-Length: \r\n\r\n"),
            "\u{16}\u{3}\u{1}".to_owned(),
        ] {
            assert!(matches!(parse(&text), Err(Malformed(_))), "{text:?}");
        }
    }

    #[test]
    fn a_body_comes_with_its_length_or_in_chunks() {
        for (fields, framing) in [
            ("", Framing::Length(0)),
            ("Content-Length: 4\r\n", Framing::Length(4)),
            ("Transfer-Encoding: chunked\r\n", Framing::Chunked),
            ("transfer-encoding: CHUNKED\r\n", Framing::Chunked),
        ] {
            let head = parse(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).unwrap();
            assert_eq!(head.framing, framing, "{fields}");
        }
    }

    #[test]
    fn one_empty_line_before_the_request_is_skipped() {
        // The head that follows the empty line has its own end, so the first CR LF must not hide it.
        assert_eq!(parse("\r\nGET /health HTTP/1.0\r\n\r\n").unwrap().path, "/health");
    }

    #[test]
    fn too_many_headers_are_too_large() {
        let many = "a: b\r\n".repeat(MAX_HEADERS);
        assert_eq!(parse(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n")).unwrap_err(), TooLarge);
    }

    #[test]
    fn a_length_beyond_any_number_is_still_a_length() {
        let head = parse("POST / HTTP/1.0\r\nContent-Length: 99999999999999999999999\r\n\r\n").unwrap();
        assert_eq!(head.framing, Framing::Length(u64::MAX));
    }

    #[test]
    fn a_head_in_pieces_ends_where_the_whole_one_does() {
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        let mut found = None;
        for arrived in 1..=text.len() {
            found = found.or(head_end(&text[..arrived], arrived - 1).unwrap());
        }
        assert_eq!(found, head_end(text, 0).unwrap());
        assert_eq!(found, Some(text.len() - 4));
    }

    /// Pieces of heads, good and bad: noise alone would hardly ever be one.
    const PIECES: &[&str] = &[
        "GET",
        "POST",
        " /power/on",
        " /health?a#b",
        " http://a:80/health",
        " *",
        " HTTP/1.1",
        " HTTP/1.0",
        "Host: a",
        "Host:",
        "X-API-Key: \t k",
        "Content-Length: 4",
        "Transfer-Encoding: chunked",
        "Expect: 100-continue",
        ": ",
        "\r",
        "\n",
        "\r\n\r\n",
        "\u{7f}",
        "\u{e9}",
    ];

    fn head_bytes() -> impl Strategy<Value = Vec<u8>> {
        let line_end = prop_oneof![9 => Just("\r\n"), 1 => Just("\n"), 1 => Just("")];
        let piece = prop_oneof![
            8 => select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..8),
        ];
        let start = prop_oneof![
            4 => "(GET|POST|[!-~]{1,8}) (/[!-~]{0,20}|http://[!-~]{0,9}/|\\*) HTTP/1\\.[01]"
                .prop_map(String::into_bytes),
            1 => piece.clone(),
        ];
        let line = prop_oneof![2 => "[A-Za-z-]{1,9}: [ -~]{0,9}".prop_map(String::into_bytes), 1 => piece];
        let ended = |line: Vec<u8>, end: &str| [&line[..], end.as_bytes()].concat();
        let lines = prop::collection::vec((line, line_end.clone()), 0..5);
        (start, line_end, lines, any::<bool>()).prop_map(move |(start, end, lines, has_host)| {
            let mut bytes = ended(start, end);
            bytes.extend(if has_host { &b"Host: a\r\n"[..] } else { b"" });
            bytes.extend(lines.into_iter().flat_map(|(line, end)| ended(line, end)));
            bytes.extend(b"\r\nrest");
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

        #[test]
        fn no_bytes_are_too_much_for_it(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = head_end(&bytes, 0);
            let _ = Head::parse(&bytes, String::new());
        }

        #[test]
        fn a_head_ends_at_the_same_place_in_whatever_pieces(
            bytes in head_bytes(),
            pieces in prop::collection::vec(1_usize..40, 0..40),
        ) {
            let (mut arrived, mut found) = (0, Ok(None));
            for piece in pieces.into_iter().chain([bytes.len()]) {
                let checked = arrived;
                arrived = bytes.len().min(arrived + piece);
                found = head_end(&bytes[..arrived], checked);
                if found != Ok(None) {
                    break;
                }
            }
            prop_assert_eq!(found, head_end(&bytes, 0));
        }

        #[test]
        fn what_passes_is_plain(bytes in head_bytes()) {
            let Ok(Some(end)) = head_end(&bytes, 0) else { return Ok(()) };
            let Ok(head) = Head::parse(&bytes[..end], String::new()) else { return Ok(()) };
            prop_assert!(head.path.bytes().all(|byte| byte.is_ascii_graphic()), "{:?}", head.path);
            prop_assert!(head.path.starts_with('/') || head.path == "*", "{:?}", head.path);
            prop_assert!(!head.path.contains(['?', '#']), "{:?}", head.path);
            prop_assert!(head.method.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
            for (name, value) in &head.headers {
                prop_assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'), "{name:?}");
                prop_assert!(value.iter().all(|byte| !byte.is_ascii_control() || *byte == b'\t'), "{value:?}");
            }
            for (name, most) in [("Host", 1), ("Content-Length", 1), ("Transfer-Encoding", 1)] {
                prop_assert!(head.values(name).count() <= most, "{name}");
            }
        }
    }
}
