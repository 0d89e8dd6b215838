//! Credentials that change while the program runs, and logins that the BMC rejects.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{KEY, Running, Sidecar, SimulatedBmc, eventually};

/// The program reads each file again once a second.
const REREAD: Duration = Duration::from_secs(1);

/// A busy machine may read a file this much later.
const MARGIN: Duration = Duration::from_millis(500);

/// The time between two changes of the key.
const KEY_LIFETIME: Duration = Duration::from_secs(2);

/// The time between two requests of one client. It makes a load that two cores can carry.
const PAUSE: Duration = Duration::from_millis(15);

const ANSWERING: &str = "echo 'Chassis Power is on'";

/// One request of the load, with its key and its status.
struct Sent {
    key: usize,
    begun: Instant,
    ended: Instant,
    status: u16,
}

/// Only the present key is accepted. During the second before the file is read again, the old key may still
/// be.
#[test]
fn a_replaced_key_is_accepted_within_a_second_under_load_without_a_wrong_reply() {
    let keys: Vec<_> = (0..4).map(|index| format!("k3y-{index}-7c1d0e9f2b3a48569d0c")).collect();
    let sidecar = Sidecar::with_fake_ipmitool(ANSWERING).mount("API_KEY", &keys[0]).start();
    let started = Instant::now();
    let end = started + KEY_LIFETIME * u32::try_from(keys.len()).unwrap();
    let mut changes = vec![(started, started)];

    let requests: Vec<_> = thread::scope(|scope| {
        let send_requests = |first: usize| {
            let (sidecar, keys) = (&sidecar, &keys);
            move || {
                let mut requests = Vec::new();
                for key in (0..keys.len()).cycle().skip(first) {
                    let begun = Instant::now();
                    if begun >= end {
                        return requests;
                    }
                    let status = sidecar.get("/power/status").key(&keys[key]).send().status;
                    requests.push(Sent { key, begun, ended: Instant::now(), status });
                    sleep(PAUSE);
                }
                unreachable!("the iterator over the keys has no end")
            }
        };
        let clients: Vec<_> = (0..4).map(|first| scope.spawn(send_requests(first))).collect();
        for key in &keys[1..] {
            sleep(KEY_LIFETIME);
            let before = Instant::now();
            sidecar.remount("API_KEY", key);
            changes.push((before, Instant::now()));
        }
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    });

    let mut settled = [0, 0];
    for Sent { key, begun, ended, status } in requests {
        assert!([200, 401].contains(&status), "{status}");
        // The last change before this request. The expected status is certain only if the file has been read
        // since then and the request ended before the next change.
        let last = changes.iter().rposition(|(_, after)| *after <= begun).unwrap_or(0);
        let is_settled = last == 0 || changes[last].1 + REREAD + MARGIN <= begun;
        if is_settled && changes.get(last + 1).is_none_or(|(before, _)| ended <= *before) {
            assert_eq!(status == 200, key == last, "key {key} while key {last} was in the file: {status}");
            settled[usize::from(key == last)] += 1;
        } else {
            assert!(status == 401 || key.abs_diff(last) <= 1, "key {key} around the change to key {last}");
        }
    }
    assert!(settled.iter().all(|count| *count > 20), "too few requests with a certain status: {settled:?}");
    assert!(!sidecar.log().contains("WARN API_KEY"), "{}", sidecar.log());
}

type Break = fn(&Path);

/// Ways in which a file of a secret can become unusable.
const BROKEN: &[(&str, Break)] = &[
    ("missing", |path| fs::remove_file(path).unwrap()),
    ("too large", |path| fs::write(path, "x".repeat(5000)).unwrap()),
    ("no text", |path| fs::write(path, b"k3y-\xff\xfe-0123456789").unwrap()),
    ("a placeholder", |path| fs::write(path, "REPLACE_WITH_YOUR_KEY").unwrap()),
    ("a folder", |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }),
    // Opening a FIFO would wait for its writer.
    ("a FIFO", |path| {
        fs::remove_file(path).unwrap();
        assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo, of coreutils").success());
    }),
];

#[test]
fn a_file_that_becomes_unusable_keeps_its_last_value_and_is_logged_once() {
    let sidecars: Vec<_> = BROKEN
        .iter()
        .map(|(how, make_unusable)| {
            let sidecar = Sidecar::with_fake_ipmitool(ANSWERING).file("API_KEY", KEY).start();
            make_unusable(&sidecar.path_of("API_KEY"));
            (how, sidecar)
        })
        .collect();
    let warnings = |log: &str| log.lines().filter(|line| line.starts_with("WARN API_KEY: ")).count();
    // Each file is read three times in this time.
    let until = Instant::now() + REREAD * 3 + REREAD / 2;
    while Instant::now() < until {
        for (how, sidecar) in &sidecars {
            let status = sidecar.get("/power/status").key(KEY).send().status;
            assert_eq!(status, 200, "{how}");
        }
        sleep(REREAD / 4);
    }
    for (how, sidecar) in &sidecars {
        assert_eq!(warnings(&sidecar.log()), 1, "{how}: {}", sidecar.log());
    }
    // A repaired file is used again, and its next fault is logged again.
    let (_, sidecar) = &sidecars[0];
    let new = "k3y-51c9e5aa8f2b1f0a77c9d84e55a1d2e0";
    sidecar.file("API_KEY", new);
    eventually("the new key is accepted", || sidecar.get("/power/status").key(new).send().status == 200);
    BROKEN[0].1(&sidecar.path_of("API_KEY"));
    eventually("the next fault is logged", || {
        assert_eq!(sidecar.get("/power/status").key(new).send().status, 200);
        warnings(&sidecar.log()) == 2
    });
}

/// Many BMCs lock an account after a few wrong passwords, and a poller repeats its request without end.
#[test]
fn fifty_polls_with_a_wrong_password_reach_the_bmc_once() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on())
        .file("BMC_PASSWORD", "wr0ng-passw0rd")
        .env("RUST_LOG", "debug")
        .start();
    let runs = || sidecar.log().matches("running env").count();
    let poll = || sidecar.get("/power/status").key(KEY);
    // Ten polls at once, as from several dashboards. Then forty polls, one after the other.
    let at_once: Vec<_> = (0..10).map(|_| poll().begin()).collect();
    for connection in at_once {
        connection.reply().expect_failure(502, "bmc_bad_password");
    }
    for _ in 0..40 {
        poll().expect_failure(502, "bmc_bad_password");
    }
    assert_eq!(runs(), 1);

    sidecar.file("BMC_PASSWORD", "s3cret");
    sleep(REREAD + MARGIN);
    assert_eq!(poll().send().status, 200);
    assert_eq!(runs(), 2);

    // Another wrong password is a new login, so it is tried once.
    sidecar.file("BMC_PASSWORD", "an0ther-wr0ng");
    sleep(REREAD + MARGIN);
    for _ in 0..5 {
        poll().expect_failure(502, "bmc_bad_password");
    }
    assert_eq!(runs(), 3);
}

#[test]
fn a_new_kg_key_in_its_file_is_used_without_a_restart() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on().kg_key("\"sesame-kg-key\""))
        .file("BMC_KG_KEY", "an0ther-kg-key\n")
        .env("RUST_LOG", "debug")
        .start();
    for _ in 0..3 {
        sidecar.get("/power/status").key(KEY).expect_failure(502, "bmc_bad_kg_key");
    }
    assert_eq!(sidecar.log().matches("running env").count(), 1);
    sidecar.file("BMC_KG_KEY", "sesame-kg-key\n");
    eventually("the new key is used", || sidecar.get("/power/status").key(KEY).send().status == 200);
    sidecar.logs("INFO BMC_KG_KEY: its file has a new value");
}

/// Emptying the file is the way to revoke a key at once.
#[test]
fn an_emptied_file_revokes_its_key_and_a_login_keeps_its_last_value() {
    for nothing in ["", "\n"] {
        let sidecar = Sidecar::with_fake_ipmitool(ANSWERING)
            .file("API_KEY", KEY)
            .file("BMC_PASSWORD", "fake-bmc-pw")
            .start();
        sidecar.file("BMC_PASSWORD", nothing);
        assert_eq!(sidecar.get("/power/status").key(KEY).send().status, 200);
        sidecar.file("API_KEY", nothing);
        eventually("the key is revoked", || sidecar.get("/power/status").key(KEY).send().status == 401);
        sidecar.logs("WARN API_KEY: ").logs("is empty: a key is valid no more");
        sidecar.file("API_KEY", KEY);
        eventually("the key is valid again", || sidecar.get("/power/status").key(KEY).send().status == 200);
    }
}

/// For longer than the server takes to read its files again.
#[track_caller]
fn answers_at_once_for_a_while(sidecar: &Running) {
    for _ in 0..8 {
        sidecar.get("/health").send().within(Duration::from_secs(1));
        let wrong = sidecar.get("/power/status").key("wrong").expect_failure(401, "unauthorized");
        wrong.within(Duration::from_secs(1));
        assert_eq!(sidecar.get("/power/status").key(KEY).send().status, 200);
        sleep(REREAD / 2);
    }
}

/// What reads the file does not hang on the one that was there before.
#[track_caller]
fn a_new_file_counts(sidecar: &Running) {
    const NEW: &str = "k3y-6b1f0c9d8e7a45362718";
    fs::remove_file(sidecar.path_of("API_KEY")).unwrap();
    sidecar.file("API_KEY", NEW);
    eventually("the new key is valid", || sidecar.get("/power/status").key(NEW).send().status == 200);
}

/// Opening such a file waits for the holder of the lease, up to 45 s (fcntl(2), `F_SETLEASE`), and a FIFO for its writer.
#[test]
fn a_file_that_hangs_holds_up_no_request() {
    let sidecar = Sidecar::with_fake_ipmitool(ANSWERING).file("API_KEY", KEY).start();
    let path = sidecar.path_of("API_KEY");
    fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo, of coreutils").success());
    answers_at_once_for_a_while(&sidecar);
    a_new_file_counts(&sidecar);
    sidecar.signal(Signal::TERM).exits(0, Duration::from_secs(3));
}

/// Another program may hold a lease on the file, as a file server does.
#[test]
fn a_leased_file_holds_up_no_request() {
    let hold = "import fcntl, signal, sys, time\n\
        file = open(sys.argv[1], 'r+')\n\
        signal.signal(signal.SIGIO, signal.SIG_IGN)\n\
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
        print('held', flush=True); time.sleep(60)";
    let sidecar = Sidecar::with_fake_ipmitool(ANSWERING).file("API_KEY", KEY).start();
    let path = sidecar.path_of("API_KEY");
    let mut holder = Command::new("python3")
        .args(["-c", hold])
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3: apt-get install python3");
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    answers_at_once_for_a_while(&sidecar);
    a_new_file_counts(&sidecar);
    holder.kill().unwrap();
    holder.wait().unwrap();
}
