//! Credentials that change while the program runs, and those that the BMC rejects.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::support::{KEY, Sidecar, SimulatedBmc, eventually};

/// A file is read again once a second.
const REREAD: Duration = Duration::from_secs(1);

/// Between two requests of one client: often enough for a load, seldom enough for two cores.
const PAUSE: Duration = Duration::from_millis(15);

const ANSWERING: &str = "echo 'Chassis Power is on'";

/// One request of many.
struct Shot {
    key: usize,
    begun: Instant,
    ended: Instant,
    status: u16,
}

/// Whoever holds the key of the moment is let in, and nobody else, but for the second in which the file is not read.
#[test]
fn a_swapped_key_counts_within_a_second_under_load_without_one_wrong_answer() {
    let keys: Vec<_> = (0..4).map(|index| format!("k3y-{index}-7c1d0e9f2b3a48569d0c")).collect();
    let sidecar = Sidecar::with_fake_ipmitool(ANSWERING).mount("API_KEY", &keys[0]).start();
    let started = Instant::now();
    let end = started + Duration::from_millis(1500) * u32::try_from(keys.len()).unwrap();
    let mut swaps = vec![(started, started)];

    let shots: Vec<_> = thread::scope(|scope| {
        let hammer = |first: usize| {
            let (sidecar, keys) = (&sidecar, &keys);
            move || {
                let mut shots = Vec::new();
                for key in (0..keys.len()).cycle().skip(first) {
                    let begun = Instant::now();
                    if begun >= end {
                        return shots;
                    }
                    let status = sidecar.get("/power/status").key(&keys[key]).send().status;
                    shots.push(Shot { key, begun, ended: Instant::now(), status });
                    sleep(PAUSE);
                }
                unreachable!("the keys go round and round")
            }
        };
        let clients: Vec<_> = (0..4).map(|first| scope.spawn(hammer(first))).collect();
        for key in &keys[1..] {
            sleep(Duration::from_millis(1500));
            let before = Instant::now();
            sidecar.remount("API_KEY", key);
            swaps.push((before, Instant::now()));
        }
        clients.into_iter().flat_map(|client| client.join().expect("its shots")).collect()
    });

    let mut settled = [0, 0];
    for Shot { key, begun, ended, status } in shots {
        assert!([200, 401].contains(&status), "{status}");
        // The swap that it came behind, and whether it is far enough from that and the next one to be certain.
        let last = swaps.iter().rposition(|(_, after)| *after <= begun).unwrap_or(0);
        let is_settled = last == 0 || swaps[last].1 + REREAD <= begun;
        if is_settled && swaps.get(last + 1).is_none_or(|(before, _)| ended <= *before) {
            assert_eq!(status == 200, key == last, "key {key} while key {last} was in the file: {status}");
            settled[usize::from(key == last)] += 1;
        } else {
            assert!(status == 401 || key.abs_diff(last) <= 1, "key {key} near the swap to key {last}");
        }
    }
    assert!(settled.iter().all(|count| *count > 20), "too few to tell: {settled:?}");
    assert!(!sidecar.log().contains("WARN API_KEY"), "{}", sidecar.log());
}

type Spoil = fn(&Path);

const SPOILT: &[(&str, Spoil)] = &[
    ("missing", |path| fs::remove_file(path).unwrap()),
    ("empty", |path| fs::write(path, "").unwrap()),
    ("a line without text", |path| fs::write(path, "\n").unwrap()),
    ("too large", |path| fs::write(path, "x".repeat(5000)).unwrap()),
    ("no text", |path| fs::write(path, b"k3y-\xff\xfe-0123456789").unwrap()),
    ("a placeholder", |path| fs::write(path, "REPLACE_WITH_YOUR_KEY").unwrap()),
    ("a folder", |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }),
    // To open one would wait for its writer.
    ("a FIFO", |path| {
        fs::remove_file(path).unwrap();
        assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo, of coreutils").success());
    }),
];

#[test]
fn a_file_that_goes_bad_keeps_its_last_good_value_and_is_told_of_once() {
    let sidecars: Vec<_> = SPOILT
        .iter()
        .map(|(how, spoil)| {
            let sidecar = Sidecar::with_fake_ipmitool(ANSWERING).file("API_KEY", KEY).start();
            spoil(&sidecar.path_of("API_KEY"));
            (how, sidecar)
        })
        .collect();
    let complaints = |log: &str| log.lines().filter(|line| line.starts_with("WARN API_KEY: ")).count();
    // Long enough for each to be read three times.
    let until = Instant::now() + REREAD * 3 + REREAD / 2;
    while Instant::now() < until {
        for (how, sidecar) in &sidecars {
            let status = sidecar.get("/power/status").key(KEY).send().status;
            assert_eq!(status, 200, "{how}");
        }
        sleep(REREAD / 4);
    }
    for (how, sidecar) in &sidecars {
        assert_eq!(complaints(&sidecar.log()), 1, "{how}: {}", sidecar.log());
    }
    // What has been mended counts again, and its next fault is news.
    let (_, sidecar) = &sidecars[0];
    let new = "k3y-51c9e5aa8f2b1f0a77c9d84e55a1d2e0";
    sidecar.file("API_KEY", new);
    eventually("the new key counts", || sidecar.get("/power/status").key(new).send().status == 200);
    SPOILT[0].1(&sidecar.path_of("API_KEY"));
    eventually("the next fault is told", || {
        assert_eq!(sidecar.get("/power/status").key(new).send().status, 200);
        complaints(&sidecar.log()) == 2
    });
}

/// Many BMCs lock an account after a few wrong passwords, and a poller never stops.
#[test]
fn fifty_polls_with_a_wrong_password_reach_the_bmc_once() {
    let sidecar = Sidecar::beside(SimulatedBmc::on())
        .file("BMC_PASSWORD", "wr0ng-passw0rd")
        .env("RUST_LOG", "debug")
        .start();
    let runs = || sidecar.log().matches("running env").count();
    let poll = || sidecar.get("/power/status").key(KEY);
    // Some at once, as several dashboards do, and the rest one by one.
    let at_once: Vec<_> = (0..10).map(|_| poll().begin()).collect();
    for connection in at_once {
        connection.reply().expect_failure(502, "bmc_bad_password");
    }
    for _ in 0..40 {
        poll().expect_failure(502, "bmc_bad_password");
    }
    assert_eq!(runs(), 1);

    sidecar.file("BMC_PASSWORD", "s3cret");
    sleep(REREAD);
    assert_eq!(poll().send().status, 200);
    assert_eq!(runs(), 2);

    // And back: what was rejected then is not what was rejected last, so it may be tried.
    sidecar.file("BMC_PASSWORD", "an0ther-wr0ng");
    sleep(REREAD);
    for _ in 0..5 {
        poll().expect_failure(502, "bmc_bad_password");
    }
    assert_eq!(runs(), 3);
}
