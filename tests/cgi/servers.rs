//! Each web server with its configuration from `deploy/cgi`: all routes, all ways to send a key, all kinds of
//! failures.

use serde_json::{Value, json};

use crate::cgi::web_server::{WebServer, give_to_web_server};
use crate::support::{KEY, Sidecar, SimulatedBmc, TempDir, eventually};

/// A route, its command, the output of `ipmitool` and the calls of the BMC.
type Change = (&'static str, &'static str, &'static str, &'static [&'static str]);

const CHANGES: [Change; 5] = [
    ("/power/on", "power on", "Up/On", &["set power 1"]),
    ("/power/off", "power soft", "Soft", &["set shutdown 1"]),
    ("/power/force-off", "power off", "Down/Off", &["set power 0"]),
    ("/power/cycle", "power cycle", "Cycle", &["set power 0", "set power 1"]),
    ("/power/reset", "power reset", "Reset", &["set reset 1"]),
];

fn healthy() -> Value {
    json!({"status": "healthy", "service": "ipmi-sidecar"})
}

fn state(state: &str) -> Value {
    json!({"success": true, "power_state": state, "raw_output": format!("Chassis Power is {state}")})
}

#[track_caller]
fn every_route(web_server: WebServer, power: &str, bmc: fn() -> SimulatedBmc) {
    let served = web_server.serve(Sidecar::with_bmc(bmc()));
    served.get("/health").expect(200, healthy());
    served.get("/power/status").key(KEY).expect(200, state(power)).bmc_was_asked([]);
    drop(served);
    for (path, command, output, calls) in CHANGES {
        let served = web_server.serve(Sidecar::with_bmc(bmc()));
        let output = format!("Chassis Power Control: {output}");
        let done = json!({"success": true, "output": output, "command": command});
        let reply = served.post(path).key(KEY).expect(200, done);
        match *calls {
            [only] => drop(reply.bmc_was_asked([only])),
            [first, second] => drop(reply.bmc_was_asked([first, second])),
            _ => unreachable!("{calls:?}"),
        }
    }
}

#[track_caller]
fn keys(web_server: WebServer) {
    let served = web_server.serve(Sidecar::with_bmc(SimulatedBmc::on()));
    let request = || served.get("/power/status");
    for request in [request().key(KEY), request().bearer(KEY), request().basic("x", KEY)] {
        request.expect(200, state("on"));
    }
    let calls_before = served.running.bmc_calls().len();
    let wrong = "wr0ng-key-5f2c81d07ae4";
    for request in [
        request(),
        request().key(wrong),
        request().bearer(wrong),
        request().basic("x", wrong),
        request().key(wrong).bearer(KEY),
        request().key(KEY).key(KEY),
        served.post("/power/on"),
        served.post("/power/on").key(wrong),
    ] {
        let reply = request.expect_failure(401, "unauthorized");
        assert!(reply.header("www-authenticate").starts_with("Bearer"));
    }
    assert_eq!(served.running.bmc_calls().len(), calls_before);
    // The access log has paths and no key.
    eventually("the access log has its lines", || served.access_log().contains("POST /power/on"));
    served.running.assert_no_secret_in("the access log", &served.access_log());
}

#[track_caller]
fn failures(web_server: WebServer) {
    let served = web_server.serve(Sidecar::with_bmc(SimulatedBmc::off()).login("admin", "wr0ng-passw0rd"));
    served
        .get("/power/on")
        .key(KEY)
        .expect_failure(405, "method_not_allowed")
        .header_contains("allow", "POST");
    let reply = served.post("/power/status").key(KEY).expect_failure(405, "method_not_allowed");
    reply.header_contains("allow", "GET");
    served.post("/power/explode").key(KEY).expect_failure(404, "not_found");
    served.get("/power").key(KEY).expect_failure(404, "not_found");
    for (path, status) in [("/health", 200), ("/power/on", 405), ("/power/status", 401), ("/power/x", 404)] {
        assert_eq!(served.request("HEAD", path).send().status, status, "{path}");
    }
    let foreign = served.post("/power/on").key(KEY).header("Sec-Fetch-Site", "cross-site");
    foreign.expect_failure(403, "forbidden");
    served.post("/power/on").key(KEY).expect_failure(502, "bmc_bad_password").error_contains("BMC_PASSWORD");
    served.get("/power/status").key(KEY).expect_failure(502, "bmc_bad_password").bmc_was_never_asked();
    served.running.logs("bmc_bad_password");
}

/// Apache and fcgiwrap drop the reply when the program does not read the body.
#[track_caller]
fn bodies(web_server: WebServer) {
    let served = web_server.serve(Sidecar::with_bmc(SimulatedBmc::off()));
    let done = json!({"success": true, "output": "Chassis Power Control: Up/On", "command": "power on"});
    served.post("/power/on").key(KEY).body(r#"{"command": "off"}"#).expect(200, done.clone());
    let large = "x".repeat(60_000);
    served.post("/power/on").key(KEY).body(&large).expect(200, done.clone());
    for _ in 0..5 {
        let refused = served.post("/power/on").key("wr0ng-key-5f2c81d07ae4").body(&large);
        refused.expect_failure(401, "unauthorized");
        served.running.raw(&chunked(&large)).expect(200, done.clone());
    }
    for _ in 0..5 {
        let too_large = served.post("/power/on").key(KEY).body(large.repeat(2));
        too_large.expect_failure(413, "body_too_large");
    }
    let calls = served.running.bmc_calls();
    assert_eq!(calls.iter().filter(|call| *call == "set power 1").count(), 7, "{calls:?}");
}

/// A request whose body is one chunk. Its head has no length.
fn chunked(body: &str) -> Vec<u8> {
    let head =
        "POST /power/on HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked";
    format!("{head}\r\nX-API-Key: {KEY}\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).into_bytes()
}

/// The reply has only the code. The web server's log has the details.
#[track_caller]
fn misconfiguration(web_server: WebServer) {
    let served = web_server.serve(Sidecar::with_bmc(SimulatedBmc::off()).env("BMC_PORT", "abc"));
    let body = served.get("/health").send();
    assert_eq!((body.status, &body.json["code"]), (500, &"misconfigured".into()));
    served.running.logs("ipmi-sidecar: BMC_PORT is \"abc\"");
}

/// `STATE_DIR` as in the guide: a folder that the web server's user may write to.
#[track_caller]
fn order(web_server: WebServer) {
    let state = TempDir::new();
    give_to_web_server(state.path());
    let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).env("STATE_DIR", state.path());
    let served = web_server.serve(sidecar);
    let running: Vec<_> = (0..6)
        .map(|number| match number % 3 {
            0 => served.post("/power/on").key(KEY).begin(),
            _ => served.get("/power/status").key(KEY).begin(),
        })
        .collect();
    for running in running {
        assert_eq!(running.reply().status, 200);
    }
    for name in ["changes.lock", "reads.lock"] {
        assert!(state.path().join(name).is_file(), "{name}");
    }
    served.running.bmc_was_asked(["set power 1", "set power 1"]);
}

macro_rules! web_servers {
    ($($name:ident: $server:expr),+) => {$(
        mod $name {
            use super::WebServer;
            use crate::support::SimulatedBmc;

            #[test]
            fn serves_every_route_of_a_server_that_is_on() {
                super::every_route($server, "on", SimulatedBmc::on);
            }

            #[test]
            fn serves_every_route_of_a_server_that_is_off() {
                super::every_route($server, "off", SimulatedBmc::off);
            }

            #[test]
            fn passes_keys_on_and_does_not_log_them() {
                super::keys($server);
            }

            #[test]
            fn passes_failures_on_unchanged() {
                super::failures($server);
            }

            #[test]
            fn accepts_bodies_of_any_size() {
                super::bodies($server);
            }

            #[test]
            fn logs_configuration_errors() {
                super::misconfiguration($server);
            }

            #[test]
            fn uses_the_queues_in_state_dir() {
                super::order($server);
            }
        }
    )+};
}

web_servers!(lighttpd: WebServer::Lighttpd, apache: WebServer::Apache, nginx: WebServer::Nginx);
