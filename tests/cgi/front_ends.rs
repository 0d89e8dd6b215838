//! One table of requests, sent through every front end. The statuses, the JSON and the calls of the BMC must
//! be equal.

use serde_json::{Map, Value};

use crate::cgi::program::cgi;
use crate::cgi::web_server::{Served, WebServer, give_to_web_server};
use crate::support::{KEY, Running, Sidecar, SimulatedBmc, TempDir, eventually};

struct Case {
    method: &'static str,
    target: &'static str,
    headers: Vec<(&'static str, String)>,
    body: &'static str,
    status: u16,
}

fn case(status: u16, method: &'static str, target: &'static str) -> Case {
    Case { method, target, headers: vec![("X-API-Key", KEY.to_owned())], body: "", status }
}

impl Case {
    fn with(mut self, headers: &[(&'static str, &str)]) -> Self {
        self.headers = headers.iter().map(|&(name, value)| (name, value.to_owned())).collect();
        self
    }

    fn body(mut self, body: &'static str) -> Self {
        self.body = body;
        self
    }
}

const FIRING: &str =
    r#"{"alerts": [{"status": "firing", "fingerprint": "f", "startsAt": "2026-11-24T03:00:00Z"}]}"#;

const RESOLVED: &str =
    r#"{"alerts": [{"status": "resolved", "fingerprint": "f", "startsAt": "2026-11-24T03:00:00Z"}]}"#;

/// The requests in their order. The server is off at the start.
fn table() -> Vec<Case> {
    let bearer = format!("Bearer {KEY}");
    let authorization = |value: &str| case(200, "GET", "/power/status").with(&[("Authorization", value)]);
    let change = || case(0, "POST", "/power/on");
    let change_with = |status, headers: &[(&'static str, &str)]| Case { status, ..change().with(headers) };
    vec![
        case(200, "GET", "/health"),
        case(200, "GET", "/health").with(&[]),
        case(200, "GET", "/power/status"),
        case(200, "POST", "/power/on"),
        case(200, "GET", "/power/status"),
        case(200, "POST", "/power/off"),
        case(200, "POST", "/power/reset"),
        case(200, "POST", "/power/force-off"),
        case(200, "GET", "/power/status"),
        case(200, "POST", "/power/on").body("{\"entity\": \"switch\"}"),
        case(200, "POST", "/power/on?force=1&x=%41"),
        authorization(&bearer),
        authorization(&bearer.to_uppercase().replace(&KEY.to_uppercase(), KEY)),
        change_with(401, &[]),
        change_with(401, &[("X-API-Key", "wr0ng-key-5f2c81d07ae4")]),
        change_with(401, &[("X-API-Key", "")]),
        change_with(401, &[("Authorization", "Bearer wr0ng-key-5f2c81d07ae4")]),
        change_with(401, &[("Authorization", "Basic !!!")]),
        change_with(200, &[("X-API-Key", KEY), ("Authorization", "Basic cHJveHk6aXRz")]),
        change_with(403, &[("X-API-Key", KEY), ("Sec-Fetch-Site", "cross-site")]),
        change_with(200, &[("X-API-Key", KEY), ("Sec-Fetch-Site", "none")]),
        case(405, "GET", "/power/on"),
        case(405, "POST", "/power/status"),
        case(405, "DELETE", "/power/on"),
        case(405, "PUT", "/health"),
        case(404, "POST", "/power/explode"),
        case(404, "GET", "/power/status/"),
        case(404, "GET", "/power"),
        case(404, "GET", "/power/STATUS"),
        case(200, "HEAD", "/health"),
        case(200, "HEAD", "/power/status"),
        case(405, "HEAD", "/power/on"),
        case(401, "HEAD", "/power/status").with(&[]),
        case(200, "POST", "/power/on").body("{\"alerts\": []}"),
        case(200, "POST", "/power/on").body(RESOLVED),
        change_with(400, &[("X-API-Key", KEY), ("Idempotency-Key", &"x".repeat(256))]),
        change_with(200, &[("X-API-Key", KEY), ("Idempotency-Key", "a-b")]),
        change_with(200, &[("X-API-Key", KEY), ("Idempotency-Key", "a-b")]),
        case(422, "POST", "/power/off").with(&[("X-API-Key", KEY), ("Idempotency-Key", "a-b")]),
        case(200, "POST", "/power/reset").body(FIRING),
        case(200, "POST", "/power/reset").body(FIRING),
        change_with(415, &[("X-API-Key", KEY), ("Content-Encoding", "gzip")]),
        case(200, "GET", "/servers"),
        case(401, "GET", "/servers").with(&[]),
        case(405, "POST", "/servers"),
        case(200, "GET", "/servers/nas/power/status"),
        case(200, "POST", "/servers/nas/power/off"),
        case(404, "POST", "/servers/no-such/power/off"),
        case(404, "GET", "/servers/nas"),
        case(401, "POST", "/servers/nas/power/off").with(&[]),
        // The last row, since it takes about 3 s in the simulator.
        case(200, "POST", "/power/cycle"),
    ]
}

enum FrontEnd {
    Listener(Running),
    /// The program, started with CGI variables. The listener beside it gets no requests and has another `STATE_DIR`.
    Cgi(Running, TempDir),
    WebServer(Served),
}

impl FrontEnd {
    const fn running(&self) -> &Running {
        match self {
            Self::Listener(running) | Self::Cgi(running, _) | Self::WebServer(Served { running, .. }) => {
                running
            }
        }
    }

    fn reply(&self, case: &Case) -> (u16, Map<String, Value>) {
        let request = match self {
            Self::Cgi(running, state) => return run_cgi(running, state, case),
            Self::Listener(running) => running.request(case.method, case.target),
            Self::WebServer(served) => served.request(case.method, case.target),
        };
        let headers = case.headers.iter();
        let request = headers.fold(request, |request, (name, value)| request.header(name, value));
        let reply = request.body(case.body).send();
        (reply.status, reply.json)
    }
}

fn run_cgi(running: &Running, state: &TempDir, case: &Case) -> (u16, Map<String, Value>) {
    let cgi = cgi(running, case.method, case.target).variable("STATE_DIR", state.path());
    let cgi = case.headers.iter().fold(cgi, |cgi, (name, value)| cgi.header(name, value));
    let reply = if case.body.is_empty() { cgi } else { cgi.body(case.body) }.run();
    (reply.status, reply.json)
}

/// Each front end gets its own BMC, since a request changes the state of the BMC.
#[track_caller]
fn assert_like_the_listener(front_end: impl FnOnce(Sidecar) -> FrontEnd) {
    let states = [TempDir::new(), TempDir::new()];
    let [listener, other] = states.each_ref().map(|state| {
        give_to_web_server(state.path());
        let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).env("STATE_DIR", state.path());
        let sidecar = sidecar.server("nas", SimulatedBmc::on());
        sidecar.env("POWER_COOLDOWN", "0") // the table has several restarts in a row
    });
    let (listener, other) = (FrontEnd::Listener(listener.start()), front_end(other));
    for case in table() {
        let Case { method, target, headers, .. } = &case;
        let expected = listener.reply(&case);
        assert_eq!(expected.0, case.status, "{method} {target} {headers:?}: {expected:?}");
        assert_eq!(other.reply(&case), expected, "{method} {target} {headers:?}");
    }
    for front_end in [&listener, &other] {
        assert_eq!(front_end.running().bmc_of("nas").calls(), ["get power", "set shutdown 1"]);
    }
    let calls = || [&listener, &other].map(|front_end| front_end.running().bmc_calls());
    eventually("both power cycles have ended", || {
        calls().iter().all(|calls| calls.last().is_some_and(|call| call == "set power 1"))
    });
    let [expected, actual] = calls();
    assert_eq!(actual, expected);
}

#[test]
fn the_cgi_program_answers_like_the_listener() {
    assert_like_the_listener(|sidecar| FrontEnd::Cgi(sidecar.without("STATE_DIR").start(), TempDir::new()));
}

#[test]
fn lighttpd_answers_like_the_listener() {
    assert_like_the_listener(|sidecar| FrontEnd::WebServer(WebServer::Lighttpd.serve(sidecar)));
}

#[test]
fn apache_answers_like_the_listener() {
    assert_like_the_listener(|sidecar| FrontEnd::WebServer(WebServer::Apache.serve(sidecar)));
}

#[test]
fn nginx_answers_like_the_listener() {
    assert_like_the_listener(|sidecar| FrontEnd::WebServer(WebServer::Nginx.serve(sidecar)));
}
