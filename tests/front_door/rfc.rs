//! RFC 9110 and RFC 9112, section by section: valid and invalid requests. No request here runs a command.

use crate::front_door::monitor::sidecar;
use crate::support::{KEY, Running};

/// The section, the tested part of the request, and the status of the reply.
type Row<'a> = (&'a str, &'a str, u16);

/// Sends each row. `request` builds the request from the part and the status. The fake `ipmitool` would run
/// any command, but none may run. In a part, each character is the byte with its number.
#[track_caller]
fn check(rows: &[Row], request: impl Fn(&str, u16) -> String) {
    let sidecar = sidecar().start();
    let wrong: Vec<_> = rows
        .iter()
        .map(|(section, part, expected)| {
            (section, part, expected, status_of(&sidecar, &request(part, *expected)))
        })
        .filter(|(_, _, expected, actual)| *expected != actual)
        .collect();
    assert!(wrong.is_empty(), "section, part, expected status, actual status: {wrong:#?}");
    assert_eq!(sidecar.ipmitool_runs().len(), 0, "{:?}", sidecar.ipmitool_runs());
}

fn status_of(sidecar: &Running, text: &str) -> u16 {
    let bytes: Vec<_> = text.chars().map(|letter| u8::try_from(letter).expect("up to U+00FF")).collect();
    sidecar.raw(&bytes).status
}

/// A request for a change that a key allows.
fn keyed(request_line: &str) -> String {
    format!("{request_line}\r\nHost: a\r\nX-API-Key: {KEY}\r\nContent-Length: 0\r\n\r\n")
}

/// Valid fields come in a harmless request. Invalid fields come in a change, which must not run.
fn with_fields(fields: &str, status: u16) -> String {
    match status {
        200 => format!("GET /health HTTP/1.1\r\n{fields}\r\n\r\n1234"),
        _ => format!("POST /power/on HTTP/1.1\r\nX-API-Key: {KEY}\r\n{fields}\r\n\r\n1234"),
    }
}

#[test]
fn the_request_line() {
    let rows = [
        ("9112 2.2, an empty line ahead", "\r\nGET /health HTTP/1.1", 200),
        ("9112 2.2, two of them", "\r\n\r\nGET /health HTTP/1.1", 400),
        ("9112 2.2, a bare LF ahead", "\nGET /health HTTP/1.1", 400),
        ("9112 3", "GET /health HTTP/1.1", 200),
        ("9112 3, one space between its parts", "POST  /power/on HTTP/1.1", 400),
        ("9112 3", "POST /power/on  HTTP/1.1", 400),
        ("9112 3", "POST\t/power/on\tHTTP/1.1", 400),
        ("9112 3", "POST\u{b}/power/on HTTP/1.1", 400),
        ("9112 3", " POST /power/on HTTP/1.1", 400),
        ("9112 3", "POST /power/on HTTP/1.1 ", 400),
        ("9112 3", "POST /power/on HTTP/1.1 HTTP/1.1", 400),
        ("9112 3", "POST /power/on x HTTP/1.1", 400),
        ("9112 3", "POST /power/on\r\r\nHTTP/1.1", 400),
        ("9112 3", "POST HTTP/1.1", 400),
        ("9112 3", "/power/on HTTP/1.1", 400),
        ("9112 3", "POST", 400),
        ("9112 3", "", 400),
        ("9112 3.1, a method is a token", "POST( /power/on HTTP/1.1", 400),
        ("9112 3.1", "\"POST\" /power/on HTTP/1.1", 400),
        ("9112 3.1", "PO\u{e9}ST /power/on HTTP/1.1", 400),
        ("9112 3.1", "POST\0 /power/on HTTP/1.1", 400),
        ("9110 9.1, its case counts", "post /power/on HTTP/1.1", 405),
        ("9110 9.1", "Post /power/on HTTP/1.1", 405),
        ("9110 9.1, unknown ones", "POSTER /power/on HTTP/1.1", 405),
        ("9110 9.3.1", "GET /power/on HTTP/1.1", 405),
        ("9110 9.3.2", "HEAD /health HTTP/1.1", 200),
        ("9110 9.3.2", "HEAD /power/on HTTP/1.1", 405),
        ("9110 9.3.4", "PUT /power/on HTTP/1.1", 405),
        ("9110 9.3.5", "DELETE /power/on HTTP/1.1", 405),
        ("9110 9.3.6", "CONNECT /power/on HTTP/1.1", 405),
        ("9110 9.3.7", "OPTIONS /power/on HTTP/1.1", 405),
        ("9110 9.3.8", "TRACE /power/on HTTP/1.1", 405),
        ("RFC 5789", "PATCH /power/on HTTP/1.1", 405),
        ("9112 2.3, HTTP/1.0", "GET /health HTTP/1.0", 200),
        ("9112 2.3, its case counts", "POST /power/on http/1.1", 400),
        ("9112 2.3, one digit each", "POST /power/on HTTP/1.10", 400),
        ("9112 2.3", "POST /power/on HTTP/01.1", 400),
        ("9112 2.3", "POST /power/on HTTP/1,1", 400),
        ("9112 2.3", "POST /power/on HTTP/1", 400),
        ("9112 2.3", "POST /power/on HTTP/", 400),
        ("9112 2.3", "POST /power/on HTTPS/1.1", 400),
        ("9112 2.3", "POST /power/on ICE/1.0", 400),
        // A server should read a higher minor version as its own (9110 2.5). HTTP/1.2 does not exist and
        // never will.
        ("9110 2.5", "POST /power/on HTTP/1.2", 400),
        ("9110 2.5, another major version", "POST /power/on HTTP/0.9", 400),
        ("9110 2.5", "POST /power/on HTTP/2.0", 400),
        ("9110 2.5", "POST /power/on HTTP/3", 400),
    ];
    check(&rows, |line, _| keyed(line));
}

#[test]
fn the_forms_of_a_target() {
    let rows = [
        ("9112 3.2.1, origin form", "/health", 200),
        ("9112 3.2.1, a query is ignored", "/health?", 200),
        ("9112 3.2.1", "/health?/../power/on", 200),
        ("9112 3.2.1", "/health?a?b", 200),
        ("9112 3.2.1", "?/power/on", 400),
        ("9112 3.2.1, it begins with a slash", "power/on", 400),
        ("9112 3.2.2, absolute form", "http://a/health", 200),
        ("9112 3.2.2, another host than Host", "http://b:81/health?x", 200),
        ("9112 3.2.2", "http://[::1]:8080/health", 200),
        ("9110 4.2.3, a scheme in any case", "HTTP://a/health", 200),
        ("9112 3.2.2", "http://a", 404),
        ("9112 3.2.2", "http://a?/power/on", 404),
        ("9112 3.2.2", "http://a//power/on", 404),
        ("9112 3.2.2", "http://a\\power/on", 400),
        ("9110 4.2.1, a host is needed", "http:///power/on", 400),
        ("9110 4.2.1", "http:/power/on", 400),
        ("9110 4.2.1", "http://:80/power/on", 400),
        ("9110 4.2.4, no user in it", "http://user@a/power/on", 400),
        ("9110 4.2.4", "http://user:word@a/power/on", 400),
        ("9110 4.2.2", "https://a/power/on", 400),
        ("9110 7.4, other schemes", "ftp://a/power/on", 400),
        ("9110 7.4", "file:///power/on", 400),
        ("9112 3.2.3, authority form", "a:80", 400),
        ("9112 3.2.4, asterisk form", "*", 404),
        ("9112 3.2.4", "**", 400),
        ("9112 3.2.4", "*/power/on", 400),
        ("9110 7.1, no fragment", "/power/on#x", 400),
        ("9110 7.1", "/power/on?x#y", 400),
        ("9112 3.2, no white space", "/power /on", 400),
        ("9112 3.2", "/power/on?a b", 400),
        ("9112 3.2, ASCII", "/power/\u{f6}n", 400),
        ("9112 3.2", "/power/on?\u{fc}", 400),
        ("9112 3.2", "/power/on\0", 400),
        ("9112 3.2", "/power/on\u{7f}", 400),
    ];
    for method in ["POST", "GET", "OPTIONS", "CONNECT"] {
        let refused = rows.iter().filter(|(_, _, status)| *status != 200 || method == "GET");
        check(&refused.copied().collect::<Vec<_>>(), |target, _| {
            keyed(&format!("{method} {target} HTTP/1.1"))
        });
    }
}

/// RFC 3986, 6.2.2, allows a server to normalise these to one of its paths. The sidecar never does, so that a
/// proxy that filters paths and the sidecar always agree.
#[test]
fn only_the_documented_paths_match() {
    let others = [
        "/",
        "//",
        "/power",
        "/power/",
        "/on",
        "/power/soft",
        "/api/power/on",
        "/power/status/on",
        "//power/on",
        "/power//on",
        "/power/on/",
        "/power/on//",
        "///power/on",
        "/./power/on",
        "/power/./on",
        "/power/on/.",
        "/../power/on",
        "/health/../power/on",
        "/power/x/../on",
        "/power/on/..",
        "/%2e/power/on",
        "/power/%2e/on",
        "/%2e%2e/power/on",
        "/health/%2e%2e/power/on",
        "/health/%2E%2E/power/on",
        "/..;/power/on",
        "/.;/power/on",
        "/..%2fpower/on",
        "/%252e%252e/power/on",
        "/power%2fon",
        "/power%2Fon",
        "/power%5con",
        "/power\\on",
        "/power/\\on",
        "/%70ower/on",
        "/power/%6fn",
        "/power/%6Fn",
        "/power/o%6e",
        "/%70%6f%77%65%72%2f%6f%6e",
        "/power/%256fn",
        "/power/%u006fn",
        "/power/on%00",
        "/power/on%00.html",
        "/%00/power/on",
        "/power/on%20",
        "/power/on+",
        "/power/on%0a",
        "/power/on%0d%0aX:%20y",
        "/power/on;",
        "/power/on;a",
        "/power/on;a=b",
        "/power;a/on",
        "/;a/power/on",
        "/power/on,a",
        "/power/on:80",
        "/power/on!",
        "/power/on%",
        "/power/on%3f",
        "/power/on%23",
        "/power/on%2",
        "/power/on%zz",
        "/POWER/ON",
        "/Power/On",
        "/power/On",
        "/power/oN",
        "/pOwer/on",
        "/power/on.",
        "/power/on..",
        "/power/on.json",
        "/power/on~",
        "/power/on*",
        "/power/*",
        "/*",
        "/power/on'",
        "/power/on\"",
        "/power/on|id",
        "/power/$(id)",
        "/power/`id`",
        "/power/on&id",
        "/power/on{}",
        "/power/on<>",
        "/power/force_off",
        "/power/forceoff",
        "/power/force-off/",
        "/power/force%2doff",
        "/power/FORCE-OFF",
        "/power/status/",
        "/power/status%20",
        "/Power/status",
        "/health/",
        "/Health",
        "/healthz",
        "/health%00",
        "/.health",
    ];
    let rows = others.map(|path| ("RFC 3986 6.2.2", path, 404));
    for method in ["POST", "GET", "PUT"] {
        check(&rows, |path, _| keyed(&format!("{method} {path}?x=/power/on HTTP/1.1")));
    }
}

#[test]
fn host() {
    let rows = [
        ("9112 3.2", "Host: a", 200),
        ("9112 3.2", "hOsT:a:8080", 200),
        ("9112 3.2", "Host: a:", 200),
        ("9112 3.2, a URI without authority", "Host:", 200),
        ("9112 3.2", "Host: [::1]", 200),
        ("9112 3.2", "Host: [2001:db8::1]:8080", 200),
        ("9112 3.2", "Host: 192.0.2.1:8080", 200),
        ("RFC 3986 3.2.2, a registered name", "Host: a_b.c~!$&'()*+,;=%20", 200),
        ("9112 3.2, missing", "X-A: b", 400),
        ("9112 3.2", "X-Host: a", 400),
        ("9112 3.2, more than one", "Host: a\r\nHost: a", 400),
        ("9112 3.2", "Host: a\r\nHost: b", 400),
        ("9112 3.2", "Host: a\r\nX-A: b\r\nHOST:", 400),
        ("9112 3.2, not a host", "Host: a b", 400),
        ("9112 3.2", "Host: a\tb", 400),
        ("9112 3.2", "Host: http://a", 400),
        ("9112 3.2", "Host: a/power", 400),
        ("9112 3.2", "Host: a?b", 400),
        ("9112 3.2", "Host: a#b", 400),
        ("9112 3.2", "Host: a\\b", 400),
        ("9112 3.2", "Host: user@a", 400),
        ("9112 3.2", "Host: \"a\"", 400),
        ("9112 3.2", "Host: a:http", 400),
        ("9112 3.2", "Host: a:80:80", 400),
        ("9112 3.2", "Host: a:-1", 400),
        ("9112 3.2", "Host: ::1", 400),
        ("9112 3.2", "Host: [::1", 400),
        ("9112 3.2", "Host: [::1]a", 400),
        ("9112 3.2", "Host: [a]b]", 400),
        ("9112 3.2", "Host: []", 400),
        ("9112 3.2", "Host: \u{e9}", 400),
        ("9112 5.1", "Host : a", 400),
    ];
    check(&rows, with_fields);
    check(
        &[
            ("9112 3.2, HTTP/1.0 without", "GET /health HTTP/1.0\r\n", 200),
            ("9112 3.2, two in HTTP/1.0", "GET /health HTTP/1.0\r\nHost: a\r\nHost: a\r\n", 400),
            ("9112 3.2, an invalid one", "GET /health HTTP/1.0\r\nHost: a b\r\n", 400),
            ("9112 3.2.2, absolute form without", "GET http://a/health HTTP/1.1\r\n", 400),
        ],
        |head, _| format!("{head}\r\n"),
    );
}

#[test]
fn the_syntax_of_fields() {
    let rows = [
        ("9110 5.1, a name is a token", "!#$%&'*+-.^_`|~09azAZ: b", 200),
        ("9110 5.1", "X A: b", 400),
        ("9110 5.1", "X-\u{e9}: b", 400),
        ("9110 5.1", "X(A): b", 400),
        ("9110 5.1", "\"X-A\": b", 400),
        ("9110 5.1", "X/A: b", 400),
        ("9110 5.1", "X-A\0: b", 400),
        ("9110 5.1", ": b", 400),
        ("9110 5.5, white space around a value", "X-A: \t b\t ", 200),
        ("9110 5.5, none", "X-A:b", 200),
        ("9110 5.5, an empty value", "X-A:", 200),
        ("9110 5.5, obsolete text", "X-A: caf\u{e9} \u{80}\u{ff}", 200),
        ("9110 5.5, no control characters", "X-A: b\0", 400),
        ("9110 5.5", "X-A: b\u{1}c", 400),
        ("9110 5.5", "X-A: b\u{8}", 400),
        ("9110 5.5", "X-A: b\u{b}c", 400),
        ("9110 5.5", "X-A: b\u{c}c", 400),
        ("9110 5.5", "X-A: \u{1b}[2J", 400),
        ("9110 5.5", "X-A: b\u{7f}", 400),
        ("9110 5.5, a lone CR", "X-A: b\rc", 400),
        ("9110 5.5", "X-A: b\r\r", 400),
        ("9112 2.2, a lone LF may be accepted; here it is not", "X-A: b\nX-B: c", 400),
        ("9112 2.2", "X-A: b\n", 400),
        ("9112 2.2", "X-A: b\n\n", 400),
        ("9112 2.2, white space ahead of the first", " X-A: b", 400),
        ("9112 2.2", "\tX-A: b", 400),
        ("9112 5, a line without a colon", "X-A", 400),
        ("9112 5.1, white space before the colon", "X-A : b", 400),
        ("9112 5.1", "X-A\t: b", 400),
        ("9112 5.1", "X-A\u{b}: b", 400),
        ("9112 5.2, obs-fold", "X-A: b\r\n c", 400),
        ("9112 5.2", "X-A: b\r\n\tc", 400),
        ("9112 5.2", "X-A: b\r\n ", 400),
        ("9112 5.2", "X-A:\r\n b", 400),
        ("9112 9.6, one request a connection", "Connection: keep-alive", 200),
        ("9110 7.6.1", "Connection: close, X-API-Key, Host", 200),
        (
            "9110 7.8",
            "Upgrade: h2c, websocket\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAA",
            200,
        ),
        ("9110 10.1.1, other expectations may be ignored", "Expect: 200-ok", 200),
        ("9110 14.2", "Range: bytes=0-1", 200),
        ("9110 12.5.1", "Accept: text/html", 200),
        ("9110 13.1", "If-None-Match: *", 200),
    ];
    check(&rows, |fields, status| with_fields(&format!("{fields}\r\nHost: a"), status));
}

#[test]
fn the_length_of_a_body() {
    let rows = [
        ("9110 8.6", "Content-Length: 0", 200),
        ("9110 8.6", "Content-Length: 4", 200),
        ("9110 8.6", "Content-Length: \t4 ", 200),
        ("9110 8.6", "content-length:0004", 200),
        ("9110 8.6, only digits", "Content-Length: -1", 400),
        ("9110 8.6", "Content-Length: +4", 400),
        ("9110 8.6", "Content-Length: 4x", 400),
        ("9110 8.6", "Content-Length: x4", 400),
        ("9110 8.6", "Content-Length: 0x4", 400),
        ("9110 8.6", "Content-Length: 4.0", 400),
        ("9110 8.6", "Content-Length: 4e0", 400),
        ("9110 8.6", "Content-Length: 4 4", 400),
        ("9110 8.6", "Content-Length: 4;", 400),
        ("9110 8.6", "Content-Length: \"4\"", 400),
        ("9110 8.6", "Content-Length: 1_000", 400),
        ("9110 8.6", "Content-Length: \u{b2}", 400),
        ("9110 8.6", "Content-Length: \u{b}4", 400),
        ("9110 8.6", "Content-Length:", 400),
        ("9110 8.6, a list may be refused", "Content-Length: 4, 4", 400),
        ("9110 8.6", "Content-Length: 4,", 400),
        ("9110 8.6", "Content-Length: 4, 5", 400),
        ("9110 8.6, twice the same may be refused", "Content-Length: 4\r\nContent-Length: 4", 400),
        ("9112 6.3, twice different", "Content-Length: 4\r\nContent-Length: 5", 400),
        ("9112 6.3", "Content-Length: 0\r\nX-A: b\r\ncontent-length: 4", 400),
        ("9112 6.3", "Content-Length: 4\r\nContent-Length:", 400),
        ("9110 15.5.14, too large", "Content-Length: 65537", 413),
        ("9110 15.5.14", "Content-Length: 100000000000000000", 413),
        ("9110 8.6, no overflow", "Content-Length: 18446744073709551615", 413),
        ("9110 8.6", "Content-Length: 18446744073709551616", 413),
        ("9110 8.6", "Content-Length: 18446744073709551620", 413),
        ("9110 8.6", "Content-Length: 340282366920938463463374607431768211460", 413),
        ("9112 6.1, chunked alone", "Transfer-Encoding: chunked", 200),
        ("9112 6.1", "Transfer-Encoding: chunked\r\nContent-Length: 4", 400),
        ("9112 6.1", "Content-Length: 4\r\nTransfer-Encoding: chunked", 400),
        ("9112 6.1", "Content-Length: 4\r\ntransfer-encoding:chunked", 400),
        ("9112 6.1", "TRANSFER-ENCODING: CHUNKED", 200),
        ("9112 6.1", "Transfer-Encoding: identity", 400),
        ("9112 6.1", "Transfer-Encoding: gzip", 400),
        ("9112 6.1", "Transfer-Encoding: gzip, chunked", 400),
        ("9112 6.1", "Transfer-Encoding: chunked, gzip", 400),
        ("9112 6.1", "Transfer-Encoding: chunked, chunked", 400),
        ("9112 6.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
        ("9112 6.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", 400),
        ("9112 6.1", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", 400),
        ("9112 6.1", "Transfer-Encoding: xchunked", 400),
        ("9112 6.1", "Transfer-Encoding: chunkedx", 400),
        ("9112 6.1", "Transfer-Encoding: chunked;a=b", 400),
        ("9112 6.1", "Transfer-Encoding: \"chunked\"", 400),
        ("9112 6.1", "Transfer-Encoding: ,chunked", 400),
        ("9112 6.1", "Transfer-Encoding:", 400),
        ("9112 6.1", "Transfer-Encoding: \tchunked", 200),
        ("9112 6.1", "Transfer-Encoding: \u{a0}chunked", 400),
        ("9112 6.1", "Transfer-Encoding: \u{b}chunked", 400),
        ("9112 6.1", "Transfer-Encoding : chunked", 400),
        ("9112 6.1", "Transfer-Encoding\t: chunked", 400),
        ("9112 6.1", " Transfer-Encoding: chunked", 400),
        ("9112 6.1", "Transfer-Encoding\0: chunked", 400),
        ("9112 6.1", "Transfer-Encoding:\r\n chunked", 400),
        ("9112 6.1", "X-A: b\r\n\tTransfer-Encoding: chunked", 400),
        ("9112 6.1", "X-A: b\rTransfer-Encoding: chunked", 400),
        ("9112 6.1", "X-A: b\nTransfer-Encoding: chunked", 400),
        // These are other fields, without any meaning here.
        ("9112 6.1", "Transfer_Encoding: chunked", 200),
        ("9112 6.1", "X-Transfer-Encoding: chunked", 200),
        ("9112 7.4", "TE: trailers, chunked\r\nTrailer: Content-Length", 200),
        ("9110 8.4", "Content-Encoding: gzip", 200),
    ];
    check(&rows, |fields, status| with_fields(&format!("Host: a\r\n{fields}"), status));
    check(
        &[
            ("9112 6.1, in HTTP/1.0", "Transfer-Encoding: chunked", 400),
            ("9112 6.3", "Content-Length: 4, 4", 400),
        ],
        |field, _| format!("POST /power/on HTTP/1.0\r\nX-API-Key: {KEY}\r\n{field}\r\n\r\n"),
    );
}

#[test]
fn other_protocols() {
    let key = format!("X-API-Key: {KEY}");
    let rows = [
        ("HTTP/0.9", "GET /health\r\n\r\n", 400),
        ("HTTP/0.9", "GET /health\n", 400),
        ("9113 3.4, the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\u{12}\u{4}\0\0\0\0\0", 400),
        ("TLS", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}", 400),
        ("SSH", "SSH-2.0-OpenSSH_9.2\r\n\0\0\u{5}", 400),
        ("SMTP", "EHLO a\r\nMAIL FROM:<a@b>\r\n\r\n", 400),
        ("RTSP", "OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n", 400),
        ("SIP", "REGISTER sip:a SIP/2.0\r\nHost: a\r\n\r\n", 400),
        (
            "PROXY",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nPOST /power/on HTTP/1.1\r\nHost: a\r\nKEY\r\n\r\n",
            400,
        ),
        ("PROXY, version 2", "\r\n\r\n\0\r\nQUIT\n", 400),
        ("a reply", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 400),
        ("Redis", "*1\r\n$4\r\nPING\r\n\r\n", 400),
    ];
    check(&rows, |text, _| text.replace("KEY", &key));

    // A complete HTTP/0.9 request: it has only this line.
    let sidecar = sidecar().start();
    let old = sidecar.connect().write(b"GET /power/status\r\n").half_close();
    old.reply().expect_failure(400, "bad_request");
    assert_eq!(sidecar.ipmitool_runs().len(), 0);
}
