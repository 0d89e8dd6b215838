//! A link that loses datagrams: no change is made twice, and every reply is true.

use std::thread;
use std::time::Duration;

use crate::support::{KEY, Link, Loss, Running, Sidecar, SimulatedBmc};

/// Home Assistant hangs up after 10 s. The sidecar replies within 9 s, and a busy machine needs a margin.
const IN_TIME: Duration = Duration::from_secs(10);

/// Each route and its call of the BMC. No two neighbours are equal, so the calls show a change that is late
/// or doubled.
const CHANGES: [(&str, &str); 4] = [
    ("/power/on", "set power 1"),
    ("/power/reset", "set reset 1"),
    ("/power/force-off", "set power 0"),
    ("/power/off", "set shutdown 1"),
];

/// The number of statuses after each change.
const STATUSES: usize = 2;

#[test]
fn replies_are_true_when_1_percent_of_the_datagrams_is_lost() {
    let counts = Counts::over(1, 10, 10);
    assert!(counts.failed_statuses <= 10 && counts.failed_changes <= 25, "{counts:?}");
}

#[test]
fn replies_are_true_when_5_percent_of_the_datagrams_is_lost() {
    let counts = Counts::over(5, 25, 4);
    assert!(counts.failed_statuses <= 40 && counts.failed_changes <= 60, "{counts:?}");
}

#[derive(Debug, Default)]
struct Counts {
    failed_statuses: usize,
    failed_changes: usize,
    /// Failed changes with an unknown outcome.
    unknown: usize,
    /// Changes with an unknown outcome that were made.
    unknown_but_made: usize,
    status_times: Vec<Duration>,
    change_times: Vec<Duration>,
}

impl Counts {
    /// Sends `changes` changes over each of `links` links. The links run in parallel, since they mostly wait.
    fn over(percent: u64, links: u64, changes: usize) -> Self {
        let mut total = Counts::default();
        thread::scope(|scope| {
            let links = (0..links).map(|seed| {
                scope.spawn(move || {
                    let sidecar = Sidecar::with_bmc(SimulatedBmc::off()).env("POWER_COOLDOWN", "0");
                    let sidecar = sidecar.over_relay().start();
                    sidecar.set_link(Link::Lossy(Loss::of(percent, seed)));
                    let mut own = Counts::default();
                    for (target, made) in CHANGES.into_iter().cycle().take(changes) {
                        own.change(&sidecar, target, made);
                    }
                    own
                })
            });
            for link in links.collect::<Vec<_>>() {
                total.add(link.join().expect("its test passes"));
            }
        });
        total.print(percent);
        total
    }

    fn change(&mut self, sidecar: &Running, target: &str, call: &str) {
        let before = sidecar.bmc_changes();
        let reply = sidecar.post(target).key(KEY).send().within(IN_TIME);
        self.change_times.push(reply.took);
        for _ in 0..STATUSES {
            self.status(sidecar);
        }
        // The statuses above give datagrams that were still on their way time to arrive.
        let made = sidecar.bmc_changes().split_off(before.len());
        match (reply.status, reply.code()) {
            (200, _) => assert_eq!(made, [call], "{target} succeeded"),
            (504, "outcome_unknown") => {
                assert!(made.is_empty() || made == [call], "{target} has an unknown outcome: {made:?}");
                self.unknown += 1;
                self.unknown_but_made += made.len();
            }
            (status, code) => assert!(made.is_empty(), "{target} is {status} {code}: {made:?}"),
        }
        self.failed_changes += usize::from(reply.status != 200);
    }

    fn status(&mut self, sidecar: &Running) {
        let reply = sidecar.get("/power/status").key(KEY).send().within(IN_TIME);
        self.status_times.push(reply.took);
        if reply.status == 200 {
            let changes = sidecar.bmc_changes();
            let last = changes.iter().rev().find_map(|call| call.strip_prefix("set power "));
            let power = if last == Some("1") { "on" } else { "off" };
            assert_eq!(reply.json["power_state"], power, "{changes:?}");
        } else {
            self.failed_statuses += 1;
        }
    }

    fn add(&mut self, other: Self) {
        self.failed_statuses += other.failed_statuses;
        self.failed_changes += other.failed_changes;
        self.unknown += other.unknown;
        self.unknown_but_made += other.unknown_but_made;
        self.status_times.extend(other.status_times);
        self.change_times.extend(other.change_times);
    }

    fn print(&mut self, percent: u64) {
        let Self { failed_statuses, failed_changes, unknown, unknown_but_made, status_times, change_times } =
            self;
        println!(
            "{percent} % lost: {failed_statuses} of {} statuses failed ({}), {failed_changes} of {} changes failed \
             ({}), {unknown} of them unknown, of which {unknown_but_made} were made",
            status_times.len(),
            times(status_times),
            change_times.len(),
            times(change_times),
        );
    }
}

fn times(times: &mut [Duration]) -> String {
    times.sort();
    let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
    format!("median {:.1} s, at most {:.1} s", median.as_secs_f64(), most.as_secs_f64())
}
