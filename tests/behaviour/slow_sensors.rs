//! A BMC that is slow with its sensors, loses some of them, or gets another firmware: with a fake `ipmitool`.

use std::fs;
use std::sync::Mutex;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{KEY, Reply, Running, Sidecar, TempDir, eventually, has_ended, unique_address};

/// For a reply that waits for nothing, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Two full records and one of another type, as `sdr dump` writes them.
const DUMP: &str = r"\001\000\121\001\001a\002\000\121\001\001b\003\000\121\002\001c";

/// A BMC with three definitions, of which two are rows. The file `firmware` beside the script
/// has the version, and the file `records` another number of definitions.
fn fake(list: &str) -> Sidecar {
    Sidecar::with_fake_ipmitool(&format!(
        r#"row() {{ echo "Fan $1,900,RPM,ok,29.1,Fan Device,Fan,,,,,,,,,,0.000,255.000"; }}
echo 'Loading IANA PEN Registry...' >&2
case "$*" in
*"sdr info") echo "Record Count                        : $(cat "$0.records" 2>/dev/null || echo 3)" ;;
*"mc info") echo "Firmware Revision         : $(cat "$0.firmware" 2>/dev/null)" ;;
*"sdr dump "*) for file; do :; done; printf '{DUMP}' >"$file" ;;
*"elist full") {list} ;;
*"power status") echo 'Chassis Power is on' ;;
*) echo 'Chassis Power Control: Up/On'; echo 'Chassis Power Control: Down/Off' ;;
esac"#
    ))
}

const TWO: &str = "row 1; row 2";

#[track_caller]
fn read(sidecar: &Running) -> Reply<'_> {
    sidecar.get("/sensors").key(KEY).send()
}

/// How often the script ran with these words.
fn runs(sidecar: &Running, words: &str) -> usize {
    sidecar.ipmitool_runs().iter().filter(|run| run.arguments.contains(words)).count()
}

fn count(reply: &Reply) -> usize {
    reply.json.get("sensors").and_then(Value::as_array).map_or(0, Vec::len)
}

/// Twenty seconds a list. Three dashboards ask every five, and power is switched all the while.
#[test]
fn a_bmc_that_takes_twenty_seconds_for_its_sensors_delays_nothing() {
    /// The second reading begins 25 s after the start.
    const LASTS: Duration = Duration::from_secs(26);
    let list = r#"echo starts >>"$0.notes"; sleep 20; echo ends >>"$0.notes"; row 1; row 2"#;
    let sidecar = fake(list).env("REQUEST_TIMEOUT", "7").start();
    let start = Instant::now();
    let (replies, power) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while start.elapsed() < LASTS {
                    let reply = read(&sidecar).within(Duration::from_secs(7) + AT_ONCE);
                    let age = reply.json.get("age").and_then(Value::as_u64);
                    match reply.status {
                        503 => assert!(reply.header("retry-after").parse::<u64>().is_ok()),
                        status => assert_eq!((status, count(&reply)), (200, 2), "{:?}", reply.json),
                    }
                    replies.lock().unwrap().push((start.elapsed().as_secs(), reply.status, age));
                    sleep(Duration::from_secs(5).saturating_sub(reply.took));
                }
            });
        }
        scope.spawn(|| {
            for path in ["/power/on", "/power/force-off"].into_iter().cycle() {
                if start.elapsed() >= LASTS {
                    break;
                }
                let change = sidecar.post(path).key(KEY).send();
                let status = sidecar.get("/power/status").key(KEY).send();
                assert_eq!((change.status, status.status), (200, 200));
                power.lock().unwrap().extend([change.took, status.took]);
                sleep(Duration::from_millis(300));
            }
        });
    });
    let replies = replies.into_inner().unwrap();
    let mut power = power.into_inner().unwrap();
    power.sort_unstable();
    println!(
        "seconds, status, age: {replies:?}; {} changes and statuses, the slowest {:?}",
        power.len(),
        power.last()
    );
    // A reply that waited for the sensors would take 20 s. A busy machine makes a few of them slow.
    assert!(
        power[power.len() * 9 / 10] < Duration::from_secs(1) && power[power.len() - 1] < AT_ONCE,
        "{power:?}"
    );
    let ages: Vec<_> = replies.iter().filter_map(|(_, _, age)| *age).collect();
    assert!(ages.iter().all(|age| *age <= 60), "{replies:?}");
    assert!(ages.iter().any(|age| *age >= 10), "a later one got the last list: {replies:?}");
    assert!(replies.iter().any(|(_, status, _)| *status == 503), "the first could not wait");
    let notes = sidecar.ipmitool_notes();
    assert!(notes.len() >= 3, "{notes:?}");
    assert!(
        notes.chunks(2).all(|pair| pair[0] == "starts" && pair[1..].iter().all(|end| end == "ends")),
        "{notes:?}"
    );
}

#[test]
fn callers_share_a_run_and_the_next_get_the_same_list() {
    let sidecar = fake("sleep 0.5; row 1; row 2").start();
    let all: Vec<_> = (0..32).map(|_| sidecar.get("/sensors").key(KEY).begin()).collect();
    for connection in all {
        let reply = connection.reply();
        assert_eq!((reply.status, count(&reply), &reply.json["age"]), (200, 2, &json!(0)));
    }
    for _ in 0..5 {
        assert_eq!(count(&read(&sidecar)), 2);
    }
    assert_eq!((runs(&sidecar, "elist"), runs(&sidecar, "sdr info"), runs(&sidecar, "mc info")), (1, 1, 0));
}

#[test]
fn a_reading_goes_on_when_its_callers_have_left() {
    let sidecar = fake("echo starts >>\"$0.notes\"; sleep 1; row 1; row 2").start();
    let caller = sidecar.get("/sensors").key(KEY).begin();
    eventually("the list is read", || sidecar.ipmitool_notes().len() == 1);
    caller.reset();
    assert_eq!(count(&read(&sidecar)), 2);
    assert_eq!(runs(&sidecar, "elist"), 1);
}

#[test]
fn a_stop_ends_a_reading_at_once_and_its_caller_is_answered() {
    let sidecar = fake("trap '' INT; exec sleep 600").start();
    let caller = sidecar.get("/sensors").key(KEY).begin();
    eventually("the list is read", || runs(&sidecar, "elist") == 1);
    sidecar.signal(Signal::TERM);
    caller.reply().expect_failure(503, "busy").error_contains("stopping");
    sidecar.exits(0, AT_ONCE);
    let run = sidecar.ipmitool_runs().pop().expect("a run");
    eventually("ipmitool has ended", || has_ended(run.pid));
}

#[test]
fn a_list_that_is_not_whole_is_read_once_more() {
    let state = TempDir::new();
    // The definitions say two rows.
    let list = r#"if mkdir "$0.lost" 2>/dev/null; then row 1; else row 1; row 2; fi"#;
    let sidecar = fake(list).env("STATE_DIR", state.path()).start();
    assert_eq!(count(&read(&sidecar)), 2);
    assert_eq!(runs(&sidecar, "elist"), 2);
}

#[test]
fn a_list_that_is_short_twice_is_a_time_out_and_the_definitions_are_read_anew() {
    let state = TempDir::new();
    let sidecar = fake("row 1").env("STATE_DIR", state.path()).start();
    for times in 1..=2 {
        read(&sidecar).expect_failure(504, "bmc_timeout").error_contains("1 of 2 sensors");
        assert_eq!((runs(&sidecar, "elist"), runs(&sidecar, "sdr dump")), (2 * times, times));
    }
}

/// Without definitions, the last whole list says how many there are. A sensor may be gone for good.
#[test]
fn a_shorter_list_than_the_last_one_is_an_error_once() {
    let sidecar = fake(r#"row 1; [ -e "$0.gone" ] || row 2"#).start();
    assert_eq!(count(&read(&sidecar)), 2);
    fs::write(sidecar.ipmitool_path().with_extension("gone"), "").unwrap();
    let mut failures = 0;
    eventually("the shorter list counts", || {
        let reply = read(&sidecar);
        failures += usize::from(reply.status == 504);
        count(&reply) == 1
    });
    assert_eq!((failures, runs(&sidecar, "elist")), (1, 4));
}

/// A BMC is down while it gets another firmware. The number of its sensors before proves nothing after that.
#[test]
fn a_loss_after_a_new_firmware_makes_a_list_short() {
    let list = r#"[ -e "$0.down" ] && exit 1; [ -e "$0.records" ] && echo 'Get SDR 0003 command failed' >&2; row 1; row 2"#;
    let sidecar = fake(list).start();
    assert_eq!(count(&read(&sidecar)), 2);
    let file = |extension: &str| sidecar.ipmitool_path().with_extension(extension);
    fs::write(file("down"), "").unwrap();
    eventually("it is down", || read(&sidecar).status == 502);
    fs::write(file("records"), "4").unwrap();
    fs::remove_file(file("down")).unwrap();
    read(&sidecar).expect_failure(504, "bmc_timeout").error_contains("2 sensors, twice");
}

#[test]
fn words_of_a_loss_make_a_list_short() {
    for words in ["Unable to renew SDR reservation", "Get SDR 0003 command failed"] {
        let sidecar = fake(&format!("row 1; echo '{words}' >&2")).start();
        read(&sidecar).expect_failure(504, "bmc_timeout");
        assert_eq!(runs(&sidecar, "elist"), 2);
    }
}

#[test]
fn definitions_of_another_firmware_are_not_used() {
    let state = TempDir::new();
    let start = |firmware: &str| {
        let sidecar = fake(TWO).env("STATE_DIR", state.path()).start();
        fs::write(sidecar.ipmitool_path().with_extension("firmware"), firmware).unwrap();
        assert_eq!(count(&read(&sidecar)), 2);
        let dumps = runs(&sidecar, "sdr dump");
        assert_eq!(runs(&sidecar, "-S "), 1, "the list is read by the definitions");
        sidecar.signal(Signal::TERM).exits(0, AT_ONCE);
        dumps
    };
    assert_eq!(["1.23", "1.23", "1.24", "1.24"].map(start), [1, 0, 1, 0]);
}

#[test]
fn a_folder_that_takes_no_definitions_costs_no_list() {
    let state = TempDir::new();
    let folder = state.path().join("nas");
    fs::create_dir_all(folder.join("sensors.new")).unwrap();
    let sidecar = fake(TWO).env("STATE_DIR", state.path()).server_at("nas", unique_address(623)).start();
    assert_eq!(count(&sidecar.get("/servers/nas/sensors").key(KEY).send()), 2);
    assert_eq!((runs(&sidecar, "sdr dump"), runs(&sidecar, "-S ")), (0, 0));
    sidecar
        .logs("WARN nas: ")
        .logs(&format!("keeping definitions of sensors in STATE_DIR, {}: ", folder.display()));
}

#[test]
fn a_list_that_is_too_long_is_an_error_and_never_half_a_list() {
    let sidecar = fake("yes \"$(row 1)\" | head -c 600000").start();
    read(&sidecar).expect_failure(502, "bmc_error").error_contains("512 KiB");
    let sidecar = fake("yes \"$(row 1)\" | head -n 1001").start();
    read(&sidecar).expect_failure(502, "bmc_error").error_contains("more than 1000 sensors");
    let sidecar = fake("yes \"$(row 1)\" | head -n 1000").start();
    assert_eq!(count(&read(&sidecar)), 1_000);
}

/// Or a BMC that locks accounts gets one wrong password more with each reading.
#[test]
fn a_reading_with_the_old_password_does_not_vouch_for_the_new_one() {
    let body = r#"case "$*" in
*"sdr info") echo 'Record Count : 1' ;;
*"elist full") while [ ! -e "$0.go" ]; do sleep 0.05; done; echo 'Fan,900,RPM,ok,29.1,Fan,Fan,,,,,,,,,,0.000,255.000' ;;
*"power status") echo 'Loading IANA PEN Registry...
> RAKP 2 HMAC is invalid' >&2; exit 1 ;;
esac"#;
    let sidecar = Sidecar::with_fake_ipmitool(body).mount("BMC_PASSWORD", "right").start();
    let caller = sidecar.get("/sensors").key(KEY).begin();
    eventually("the list is read", || runs(&sidecar, "elist") == 1);
    sidecar.remount("BMC_PASSWORD", "wrong");
    sidecar.logs("its file has a new value");
    sidecar.get("/power/status").key(KEY).expect_failure(502, "bmc_bad_password");
    fs::write(sidecar.ipmitool_path().with_extension("go"), "").unwrap();
    assert_eq!(count(&caller.reply()), 1);
    sidecar.get("/power/status").key(KEY).expect_failure(502, "bmc_bad_password");
    assert_eq!(runs(&sidecar, "power status"), 1);
}

#[test]
fn what_is_no_list_is_an_error() {
    let sidecar = fake("row 1; printf 'Fan 2,900,RP'").start();
    read(&sidecar).expect_failure(502, "bmc_error").error_contains("cannot be read");
}

#[test]
fn a_bmc_that_lacks_sensors_is_asked_once_in_ten_minutes() {
    for said in ["Error obtaining SDR info: Invalid command", "Error obtaining SDR info"] {
        let body = format!(
            "echo 'Loading IANA PEN Registry...' >&2; echo 'Discovered IPMB address 0x0' >&2
             case \"$*\" in
             *\"sdr info\") echo 'Get SDR Repository Info command failed: Invalid command' >&2; exit 1 ;;
             *full) echo '{said}' >&2; echo 'Unable to open SDR for reading' >&2; exit 1 ;;
             *status) echo 'Chassis Power is on' ;;
             esac"
        );
        let sidecar = Sidecar::with_fake_ipmitool(&body).start();
        for _ in 0..3 {
            sidecar.get("/sensors").key(KEY).expect_failure(501, "bmc_unsupported").within(AT_ONCE);
        }
        assert_eq!(sidecar.ipmitool_runs().len(), 2, "{said}");
        assert_eq!(sidecar.get("/power/status").key(KEY).send().status, 200);
    }
}
