//! One table of requests through every face: equal status, equal JSON, and the BMC is asked the same.

use serde_json::{Map, Value};

use crate::program::cgi;
use crate::support::{KEY, Running, Sidecar, SimulatedBmc, TempDir, eventually};
use crate::web_server::{Served, WebServer, give_to_web_server};

struct Ask {
    method: &'static str,
    target: &'static str,
    headers: Vec<(&'static str, String)>,
    body: &'static str,
    status: u16,
}

fn ask(status: u16, method: &'static str, target: &'static str) -> Ask {
    Ask { method, target, headers: vec![("X-API-Key", KEY.to_owned())], body: "", status }
}

impl Ask {
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

/// In this order, on a server that is off at first.
fn table() -> Vec<Ask> {
    let bearer = format!("Bearer {KEY}");
    let authorization = |value: &str| ask(200, "GET", "/power/status").with(&[("Authorization", value)]);
    let change = || ask(0, "POST", "/power/on");
    let refused = |status, headers: &[(&'static str, &str)]| Ask { status, ..change().with(headers) };
    vec![
        ask(200, "GET", "/health"),
        ask(200, "GET", "/health").with(&[]),
        ask(200, "GET", "/power/status"),
        ask(200, "POST", "/power/on"),
        ask(200, "GET", "/power/status"),
        ask(200, "POST", "/power/off"),
        ask(200, "POST", "/power/reset"),
        ask(200, "POST", "/power/force-off"),
        ask(200, "GET", "/power/status"),
        ask(200, "POST", "/power/on").body("{\"entity\": \"switch\"}"),
        ask(200, "POST", "/power/on?force=1&x=%41"),
        authorization(&bearer),
        authorization(&bearer.to_uppercase().replace(&KEY.to_uppercase(), KEY)),
        refused(401, &[]),
        refused(401, &[("X-API-Key", "wr0ng-key-5f2c81d07ae4")]),
        refused(401, &[("X-API-Key", "")]),
        refused(401, &[("Authorization", "Bearer wr0ng-key-5f2c81d07ae4")]),
        refused(401, &[("Authorization", "Basic !!!")]),
        refused(401, &[("X-API-Key", KEY), ("Authorization", &bearer)]),
        refused(403, &[("X-API-Key", KEY), ("Sec-Fetch-Site", "cross-site")]),
        refused(200, &[("X-API-Key", KEY), ("Sec-Fetch-Site", "none")]),
        ask(405, "GET", "/power/on"),
        ask(405, "POST", "/power/status"),
        ask(405, "DELETE", "/power/on"),
        ask(405, "PUT", "/health"),
        ask(404, "POST", "/power/explode"),
        ask(404, "GET", "/power/status/"),
        ask(404, "GET", "/power"),
        ask(404, "GET", "/power/STATUS"),
        ask(200, "HEAD", "/health"),
        ask(200, "HEAD", "/power/status"),
        ask(405, "HEAD", "/power/on"),
        ask(401, "HEAD", "/power/status").with(&[]),
        ask(200, "POST", "/power/on").body("{\"alerts\": []}"),
        ask(200, "POST", "/power/on").body(RESOLVED),
        refused(400, &[("X-API-Key", KEY), ("Idempotency-Key", "a b")]),
        refused(200, &[("X-API-Key", KEY), ("Idempotency-Key", "a-b")]),
        refused(200, &[("X-API-Key", KEY), ("Idempotency-Key", "a-b")]),
        ask(422, "POST", "/power/off").with(&[("X-API-Key", KEY), ("Idempotency-Key", "a-b")]),
        ask(200, "POST", "/power/reset").body(FIRING),
        ask(200, "POST", "/power/reset").body(FIRING),
        // The last, since it goes on in the simulator for about 3 s.
        ask(200, "POST", "/power/cycle"),
    ]
}

enum FrontEnd {
    Resident(Running),
    /// Called with variables, beside a resident one that is not asked.
    Program(Running),
    Through(Served),
}

impl FrontEnd {
    const fn running(&self) -> &Running {
        match self {
            Self::Resident(running) | Self::Program(running) | Self::Through(Served { running, .. }) => {
                running
            }
        }
    }

    fn reply(&self, ask: &Ask) -> (u16, Map<String, Value>) {
        let request = match self {
            Self::Program(running) => return by_variables(running, ask),
            Self::Resident(running) => running.request(ask.method, ask.target),
            Self::Through(served) => served.request(ask.method, ask.target),
        };
        let headers = ask.headers.iter();
        let request = headers.fold(request, |request, (name, value)| request.header(name, value));
        let reply = request.body(ask.body).send();
        (reply.status, reply.json)
    }
}

fn by_variables(running: &Running, ask: &Ask) -> (u16, Map<String, Value>) {
    let cgi = cgi(running, ask.method, ask.target);
    let cgi = ask.headers.iter().fold(cgi, |cgi, (name, value)| cgi.header(name, value));
    let reply = if ask.body.is_empty() { cgi } else { cgi.body(ask.body) }.run();
    (reply.status, reply.json)
}

/// A table of its own for each, since the BMC remembers.
#[track_caller]
fn answers_as_the_resident_one(face: impl FnOnce(Sidecar) -> FrontEnd) {
    let states = [TempDir::new(), TempDir::new()];
    let [resident, other] = states.each_ref().map(|state| {
        give_to_web_server(state.path());
        let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).env("STATE_DIR", state.path());
        sidecar.env("POWER_COOLDOWN", "0") // the table restarts the server as it likes
    });
    let (resident, other) = (FrontEnd::Resident(resident.start()), face(other));
    for ask in table() {
        let Ask { method, target, headers, .. } = &ask;
        let expected = resident.reply(&ask);
        assert_eq!(expected.0, ask.status, "{method} {target} {headers:?}: {expected:?}");
        assert_eq!(other.reply(&ask), expected, "{method} {target} {headers:?}");
    }
    let calls = || [&resident, &other].map(|face| face.running().bmc_calls());
    eventually("both cycles are through", || {
        calls().iter().all(|calls| calls.last().is_some_and(|call| call == "set power 1"))
    });
    let [expected, asked] = calls();
    assert_eq!(asked, expected);
}

#[test]
fn the_program_called_with_variables_answers_as_the_resident_one() {
    answers_as_the_resident_one(|sidecar| FrontEnd::Program(sidecar.start()));
}

#[test]
fn through_lighttpd_it_answers_as_the_resident_one() {
    answers_as_the_resident_one(|sidecar| FrontEnd::Through(WebServer::Lighttpd.serve(sidecar)));
}

#[test]
fn through_apache_it_answers_as_the_resident_one() {
    answers_as_the_resident_one(|sidecar| FrontEnd::Through(WebServer::Apache.serve(sidecar)));
}

#[test]
fn through_nginx_it_answers_as_the_resident_one() {
    answers_as_the_resident_one(|sidecar| FrontEnd::Through(WebServer::Nginx.serve(sidecar)));
}
