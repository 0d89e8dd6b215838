//! Common HTTP clients, on every route. Some are refused while they still send their body.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::front_door::monitor::sidecar;
use crate::front_door::packages::python_clients;
use crate::support::{KEY, Running, require};

/// A request of a client, and the expected reply.
struct Row {
    method: &'static str,
    path: &'static str,
    key: &'static str,
    /// The length of its body.
    bytes: usize,
    /// `expect` when the client should send `Expect: 100-continue`. Not all clients can.
    flags: &'static str,
    status: u16,
    body: Value,
}

const fn row(
    method: &'static str,
    path: &'static str,
    key: &'static str,
    bytes: usize,
    flags: &'static str,
    status: u16,
    body: Value,
) -> Row {
    Row { method, path, key, bytes, flags, status, body }
}

fn rows() -> Vec<Row> {
    let changes = [
        ("/power/on", "power on", "Up/On"),
        ("/power/off", "power soft", "Soft"),
        ("/power/force-off", "power off", "Down/Off"),
        ("/power/cycle", "power cycle", "Cycle"),
        ("/power/reset", "power reset", "Reset"),
    ];
    let done = |command: &str, word: &str| json!({"success": true, "output": format!("Chassis Power Control: {word}"), "command": command});
    let failed = |code: &str| json!({"code": code});
    let is_on = json!({"success": true, "power_state": "on", "raw_output": "Chassis Power is on"});
    let mut rows = vec![
        row("GET", "/health", "none", 0, "-", 200, json!({"status": "healthy", "service": "ipmi-sidecar"})),
        row("GET", "/power/status?x=1", KEY, 0, "-", 200, is_on),
        row("GET", "/power/status", "wrong", 0, "-", 401, failed("unauthorized")),
        row("GET", "/power/on", KEY, 0, "-", 405, failed("method_not_allowed")),
        row("GET", "/nowhere", KEY, 0, "-", 404, failed("not_found")),
    ];
    for (path, command, word) in changes {
        for (bytes, flags) in [(0, "-"), (2_000, "-"), (2_000, "expect")] {
            rows.push(row("POST", path, KEY, bytes, flags, 200, done(command, word)));
        }
    }
    for flags in ["-", "expect"] {
        rows.push(row("POST", "/power/on", KEY, 64 * 1024, flags, 200, done("power on", "Up/On")));
        for bytes in [60 * 1024, 1_000_000, 10_000_000] {
            rows.push(row("POST", "/power/on", "wrong", bytes, flags, 401, failed("unauthorized")));
            rows.push(row("POST", "/nowhere", KEY, bytes, flags, 404, failed("not_found")));
        }
        rows.push(row("POST", "/power/on", KEY, 10_000_000, flags, 413, failed("body_too_large")));
    }
    rows
}

/// Lets a client send all rows and compares the replies. Repeats them, since some errors occur only now and
/// then. `has_error_bodies`: the client shows the body of an error.
#[track_caller]
fn test_client(client: &mut Command, has_error_bodies: bool) {
    const TIMES: usize = 3;
    let sidecar = sidecar().env("POWER_COOLDOWN", "0").start();
    let rows = rows();
    let lines = rows.iter().map(|Row { method, path, key, bytes, flags, .. }| {
        format!("{method} {path} {key} {bytes} {flags}\n")
    });
    let lines = lines.collect::<String>().repeat(TIMES);
    let replies = run_client(client, &sidecar, &lines);
    let wrong: Vec<_> = lines
        .lines()
        .zip(replies.lines().chain(std::iter::repeat("nothing")))
        .zip(rows.iter().cycle())
        .filter(|((_, reply), row)| !is_expected(row, reply, has_error_bodies))
        .map(|(pair, _)| pair)
        .collect();
    assert!(wrong.is_empty(), "requests and wrong replies: {wrong:#?}");
    let runs = rows.iter().filter(|row| row.status == 200 && row.path != "/health").count();
    assert_eq!(sidecar.ipmitool_runs().len(), TIMES * runs);
}

fn is_expected(row: &Row, reply: &str, has_error_bodies: bool) -> bool {
    let (status, body) = reply.split_once(' ').unwrap_or((reply, ""));
    if status != row.status.to_string() {
        return false;
    }
    if row.status != 200 && !has_error_bodies {
        return true;
    }
    match serde_json::from_str::<Value>(body) {
        Ok(body) if row.status == 200 => body == row.body,
        Ok(body) => body["code"] == row.body["code"],
        Err(_) => false,
    }
}

#[track_caller]
fn run_client(client: &mut Command, sidecar: &Running, lines: &str) -> String {
    let client = client.env("BASE", format!("http://{}", sidecar.address)).env("NO_PROXY", "*");
    let mut child = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a client");
    child.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("a client that reads");
    let output = child.wait_with_output().expect("a client that ends");
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).expect("text")
}

/// A command that runs a script of `clients` with this program.
#[track_caller]
fn script(program: &str, name: &str) -> Command {
    let mut command = Command::new(require(program));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/front_door/clients").join(name));
    command
}

#[test]
fn curl() {
    require("curl");
    test_client(&mut script("sh", "curl.sh"), true);
}

#[test]
fn wget_of_busybox() {
    require("busybox");
    test_client(&mut script("sh", "wget.sh"), false);
}

#[test]
fn http_client_of_python() {
    test_client(&mut script("python3", "http_client.py"), true);
}

#[test]
fn aiohttp() {
    test_client(script("python3", "aiohttp_client.py").env("PYTHONPATH", python_clients()), true);
}

#[test]
fn httpx() {
    test_client(script("python3", "httpx_client.py").env("PYTHONPATH", python_clients()), true);
}

#[test]
fn fetch_of_node() {
    test_client(&mut script("node", "fetch.mjs"), true);
}
