//! The key, the password and the KG key must not leak: tested on every route, with many faults, at the log level trace.

use std::collections::BTreeSet;
use std::fs;
use std::thread;

use ipmi_sidecar::command::Command;
use serde_json::Value;

use crate::support::{Connection, Sidecar};

/// Text that occurs nowhere else on this machine.
const KEY: &str = "k3y-qWx7Zp0vB4tLm9Rd2Ys6";
const PASSWORD: &str = "pw-Hj5Ng8Kc1Fv3";
const KG_KEY: &str = "kg-Wd6Rf2Mx9Sk4";
const WRONG: &str = "n0t-Ue2Ia7Xo4Tb9Ql6Dz0";

/// Shell code that replaces `ipmitool`.
const FAULTS: &[&str] = &[
    "case \"$*\" in *status) echo 'Chassis Power is on' ;; *) echo 'Chassis Power Control: Up/On' ;; esac",
    "echo 'Get Auth Capabilities error' >&2; exit 1",
    "echo '> RAKP 2 HMAC is invalid' >&2; exit 1",
    "echo '> RAKP 4 message has invalid integrity check value' >&2; exit 1",
    "echo 'RAKP 2 message indicates an error : unauthorized name' >&2; exit 1",
    "echo 'Error in open session response message : no matching cipher suite' >&2; exit 1",
    "echo 'Error in open session response message : insufficient resources for session' >&2; exit 1",
    "echo 'Set Session Privilege Level to ADMINISTRATOR failed: Unknown (0x81)' >&2; exit 1",
    "echo 'Set Chassis Power Control to Cycle failed: Command not supported in present state' >&2; exit 1",
    "echo 'Discovered IPMB address 0x0' >&2; echo 'Unable to set Chassis Power Control to Up/On' >&2; exit 1",
    "kill -ABRT $$",
    "kill -KILL $$",
    "head -c 10000 /dev/urandom; head -c 10000 /dev/urandom >&2",
    "yes >&2 | head -c 10000000",
    "rm \"$0\"; exit 1",
    "trap '' INT; exec sleep 600",
    "",
];

/// Shell code that records its environment, the command lines of all processes, and the open files of its
/// parent.
const RECORD: &str = r#"
env >>"$0.env"
cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' '\n' >>"$0.notes"
readlink /proc/$PPID/fd/* 2>/dev/null | sed 's/^/open /' >>"$0.notes"
"#;

/// True when `text` contains a part of `secret`, or its bytes as decimal or hexadecimal numbers.
fn contains_secret(text: &str, secret: &str) -> bool {
    let start = &secret.as_bytes()[..8];
    let decimal = start.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    let hexadecimal: Vec<_> = start.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = secret.as_bytes().windows(8);
    parts.filter_map(|part| str::from_utf8(part).ok()).any(|part| text.contains(part))
        || text.contains(&decimal)
        || text.to_lowercase().contains(&hexadecimal.concat())
}

#[track_caller]
fn assert_no_secret_in(place: &str, text: &str) {
    for secret in [KEY, PASSWORD, KG_KEY, WRONG] {
        assert!(!contains_secret(text, secret), "{secret} in {place}: {text}");
    }
}

#[test]
fn no_route_and_no_fault_leaks_a_secret() {
    thread::scope(|scope| {
        for fault in FAULTS {
            scope.spawn(move || send_all_requests_with(fault));
        }
    });
}

fn send_all_requests_with(fault: &str) {
    let sidecar = Sidecar::with_fake_ipmitool(&format!("{RECORD}{fault}"))
        .file("API_KEY", KEY)
        .file("BMC_PASSWORD", PASSWORD)
        .file("BMC_KG_KEY", KG_KEY)
        .env("RUST_LOG", "trace")
        .env("REQUEST_TIMEOUT", "7")
        .start();
    let mut connections: Vec<Connection> = Vec::new();
    for target in Command::all().map(Command::path).chain(["/health", "/nothing"]) {
        for method in ["POST", "GET", "HEAD"] {
            connections.push(sidecar.request(method, target).key(KEY).begin());
        }
        connections.push(sidecar.post(target).key(WRONG).begin());
        connections.push(sidecar.get(target).basic("homeassistant", WRONG).begin());
        connections.push(sidecar.post(target).key(KEY).bearer(KEY).begin());
        connections.push(sidecar.post(target).key(KEY).body(vec![b'x'; 70_000]).begin());
        connections.push(sidecar.get(target).header("X-API-Key", &format!("{KEY}\u{7}")).begin());
        connections.push(sidecar.get(&format!("{target}?key={WRONG}")).begin());
        connections.push(sidecar.get(&format!("http://a:{WRONG}@host{target}")).begin());
    }
    connections.push(sidecar.get("/power/status").bearer(KEY).begin());
    connections.push(sidecar.get("/power/status").basic("homeassistant", KEY).begin());
    for connection in connections {
        assert_no_secret_in("a reply", &Value::Object(connection.reply().json).to_string());
    }

    let runs = sidecar.ipmitool_runs();
    assert!(!runs.is_empty(), "{fault}");
    assert_no_secret_in("the log", &sidecar.log());
    assert_no_secret_in("an argument list", &format!("{runs:?}"));
    let notes = sidecar.ipmitool_notes();
    assert_no_secret_in("a command line or a file's name", &notes.join("\n"));
    assert!(
        notes.iter().any(|line| line.ends_with("ipmi-sidecar")),
        "the list of processes lacks the sidecar itself: {notes:?}"
    );

    let environment: BTreeSet<_> = sidecar.ipmitool_environment().into_iter().collect();
    let expected =
        [format!("IPMITOOL_PASSWORD={PASSWORD}"), format!("IPMI_KGKEY={KG_KEY}"), "LC_ALL=C".to_owned()];
    assert_eq!(environment, expected.into(), "{fault}");

    // The sidecar opens no file. All of its open files are inherited, or they are sockets, pipes and the
    // like.
    let inherited: Vec<_> = fs::read_dir("/proc/self/fd")
        .expect("/proc")
        .filter_map(|entry| Some(format!("open {}", fs::read_link(entry.ok()?.path()).ok()?.display())))
        .collect();
    let mut open = notes.iter().filter(|line| line.starts_with("open /") && *line != "open /dev/null");
    assert!(open.all(|line| inherited.contains(line)), "{notes:?}");
}
