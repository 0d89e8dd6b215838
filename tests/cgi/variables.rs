//! The CGI variables and the standard input of a request: valid, missing, contradictory and hostile ones.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use serde_json::json;

use crate::cgi::program::cgi;
use crate::support::{KEY, Running, Sidecar, SimulatedBmc};

/// A request must be complete within 5 s. A busy machine needs a margin.
const LIMIT: Duration = Duration::from_secs(8);

fn with_fake() -> Running {
    Sidecar::with_fake_ipmitool("echo 'Chassis Power is on'; echo 'Chassis Power Control: Up/On'").start()
}

#[test]
fn missing_and_contradictory_variables_are_a_bad_request() {
    let sidecar = with_fake();
    let request = || cgi(&sidecar, "POST", "/power/on").key(KEY);
    for request in [
        request().without("REQUEST_METHOD"),
        request().variable("REQUEST_METHOD", ""),
        request().variable("REQUEST_METHOD", "G\u{c9}T"),
        request().variable("REQUEST_METHOD", "POST /power/on"),
        request().variable("REQUEST_METHOD", OsString::from_vec(b"P\xffST".to_vec())),
        request().variable("PATH_INFO", "power/on"),
        request().variable("CONTENT_LENGTH", "-1"),
        request().variable("CONTENT_LENGTH", "4x"),
        request().variable("CONTENT_LENGTH", " 4"),
        request().variable("CONTENT_LENGTH", OsString::from_vec(b"\xff".to_vec())),
        request().body("four").variable("HTTP_CONTENT_LENGTH", "5"),
        request().body("four").variable("HTTP_CONTENT_LENGTH", ""),
    ] {
        request.expect_failure(400, "bad_request").within(LIMIT);
    }
    // No CGI variable but GATEWAY_INTERFACE.
    let interface = BTreeMap::from([("GATEWAY_INTERFACE".to_owned(), "CGI/1.1".into())]);
    let bare = sidecar.command().get_envs().map(owned).chain(interface).collect();
    cgi(&sidecar, "", "").with_only(&bare).expect_failure(400, "bad_request");
    assert_eq!(sidecar.ipmitool_runs().len(), 0);
}

fn owned((name, value): (&std::ffi::OsStr, Option<&std::ffi::OsStr>)) -> (String, OsString) {
    (name.to_string_lossy().into_owned(), value.unwrap_or_default().to_owned())
}

#[test]
fn a_path_that_is_no_route_is_not_found() {
    let sidecar = with_fake();
    for path in ["", "/", "//power/on", "/power/on/", "/POWER/ON", "/power/\u{f6}n", "/power/on\n"] {
        cgi(&sidecar, "POST", path).key(KEY).expect_failure(404, "not_found");
    }
    cgi(&sidecar, "POST", "/").without("PATH_INFO").key(KEY).expect_failure(404, "not_found");
    let odd = OsString::from_vec(b"/power/\xff".to_vec());
    cgi(&sidecar, "POST", "/").variable("PATH_INFO", odd).key(KEY).expect_failure(404, "not_found");
    assert_eq!(sidecar.ipmitool_runs().len(), 0);
}

/// RFC 3875, 4.4: a web server may pass the query as arguments.
#[test]
fn arguments_are_ignored() {
    let sidecar = with_fake();
    for argument in ["--help", "check", "power", "-P", "x"] {
        let healthy = json!({"status": "healthy", "service": "ipmi-sidecar"});
        cgi(&sidecar, "GET", "/health").argument(argument).expect(200, &healthy);
    }
}

#[test]
fn a_body_is_read_and_ignored() {
    let sidecar = with_fake();
    let done = json!({"success": true, "output": "Chassis Power Control: Up/On", "command": "power on"});
    let request = || cgi(&sidecar, "POST", "/power/on").key(KEY).body(r#"{"command": "power off"}"#);
    request().expect(200, &done);
    // RFC 3875, 4.2: the program must not rely on the end of the input.
    request().stays_open().expect(200, &done).within(LIMIT);
    assert_eq!(sidecar.ipmitool_runs().len(), 2);
}

#[test]
fn an_incomplete_body_changes_nothing() {
    let sidecar = with_fake();
    let short = || cgi(&sidecar, "POST", "/power/on").key(KEY).body("four").variable("CONTENT_LENGTH", "50");
    short().expect_failure(400, "bad_request").within(LIMIT);
    short().stays_open().expect_failure(408, "request_timeout").within(LIMIT);
    // A descriptor that cannot be read.
    let unreadable = File::create("/dev/null").expect("/dev/null");
    short().input(unreadable).expect_failure(400, "bad_request").within(LIMIT);
    assert_eq!(sidecar.ipmitool_runs().len(), 0);
}

#[test]
fn a_body_that_is_too_large_changes_nothing() {
    let sidecar = with_fake();
    for length in ["65537", "999999999999999", "99999999999999999999999"] {
        let request = || cgi(&sidecar, "POST", "/power/on").key(KEY).variable("CONTENT_LENGTH", length);
        request().expect_failure(413, "body_too_large").within(LIMIT);
        // The program reads the rest for a moment, also when it never ends.
        request().stays_open().expect_failure(413, "body_too_large").within(LIMIT);
        let endless = File::open("/dev/zero").expect("/dev/zero");
        request().input(endless).expect_failure(413, "body_too_large").within(LIMIT);
    }
    // Apache passes a chunked body on without a length.
    let chunked = cgi(&sidecar, "POST", "/power/on").key(KEY).header("Transfer-Encoding", "chunked");
    let endless = File::open("/dev/zero").expect("/dev/zero");
    chunked.input(endless).expect_failure(413, "body_too_large").within(LIMIT);
    assert_eq!(sidecar.ipmitool_runs().len(), 0);
}

#[test]
fn an_unauthenticated_client_is_refused_with_any_body() {
    let sidecar = with_fake();
    let request = || cgi(&sidecar, "POST", "/power/on").key("wr0ng-key-5f2c81d07ae4").body("four");
    request().expect_failure(401, "unauthorized");
    request().variable("CONTENT_LENGTH", "50").expect_failure(401, "unauthorized");
    let waiting = request().variable("CONTENT_LENGTH", "50").stays_open();
    waiting.expect_failure(401, "unauthorized").within(Duration::from_secs(4)); // a body has 5 s
    assert_eq!(sidecar.ipmitool_runs().len(), 0);
}

/// A client can set variables such as `HTTP_PROXY`, which many programs use.
#[test]
fn no_header_reaches_ipmitool() {
    let sidecar = Sidecar::with_fake_ipmitool(r#"env >"$0.env"; echo 'Chassis Power is on'"#)
        .login("admin", "pw-8d2f61")
        .start();
    let reply = cgi(&sidecar, "GET", "/power/status")
        .key(KEY)
        .header("Proxy", "http://192.0.2.66:3128")
        .header("IPMITOOL_ARGS", "-vvv")
        .header("LD_PRELOAD", "/tmp/x.so")
        .run();
    assert_eq!(reply.status, 200);
    assert_eq!(sidecar.ipmitool_environment(), ["IPMITOOL_PASSWORD=pw-8d2f61", "LC_ALL=C"]);
}

/// Its bytes are no text. The program starts itself before it becomes `ipmitool`.
#[test]
fn a_kg_key_in_hexadecimal_reaches_ipmitool() {
    let digits = "f10203040506070809080b0c0d0e0fff";
    let keyed = |key: &str| {
        Sidecar::with_bmc(SimulatedBmc::off().kg_key(digits)).env("BMC_KG_KEY", key.to_owned()).start()
    };
    let sidecar = keyed(&format!("0x{digits}"));
    let reply = cgi(&sidecar, "POST", "/power/on").key(KEY).run();
    assert_eq!(reply.status, 200, "{reply:?}");
    sidecar.bmc_was_asked(["set power 1"]);
    cgi(&keyed("another-key"), "POST", "/power/on").key(KEY).expect_failure(502, "bmc_bad_kg_key");
}

/// A CGI program does not know the rejected logins of other processes.
#[test]
fn a_wrong_password_is_reported_each_time() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).login("admin", "wr0ng-passw0rd").start();
    for _ in 0..2 {
        let reply = cgi(&sidecar, "POST", "/power/on").key(KEY).expect_failure(502, "bmc_bad_password");
        assert!(!reply.headers.contains_key("retry-after"), "{reply:?}");
        reply.logs("WARN power on (API_KEY from 192.0.2.7)");
    }
    sidecar.bmc_was_never_asked();
}
