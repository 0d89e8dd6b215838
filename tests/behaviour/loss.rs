//! A line that loses datagrams: no change is made twice, and what is told is true.

use std::thread;
use std::time::Duration;

use crate::support::{KEY, Line, Loss, Running, Sidecar, SimulatedBmc};

/// `REQUEST_TIMEOUT` and the grace that a crowded machine needs.
const IN_TIME: Duration = Duration::from_millis(9_500);

/// Each beside what it makes the BMC do, no two alike one after the other: a change that is made late or twice shows.
const CHANGES: [(&str, &str); 4] = [
    ("/power/on", "set power 1"),
    ("/power/reset", "set reset 1"),
    ("/power/force-off", "set power 0"),
    ("/power/off", "set shutdown 1"),
];

/// Behind each change.
const STATUSES: usize = 2;

#[test]
fn a_line_that_loses_1_percent_is_told_the_truth() {
    let lossy = Tally::over(1, 10, 10);
    assert!(lossy.failed_statuses <= 10 && lossy.failed_changes <= 25, "{lossy:?}");
}

#[test]
fn a_line_that_loses_5_percent_is_told_the_truth() {
    let lossy = Tally::over(5, 25, 4);
    assert!(lossy.failed_statuses <= 40 && lossy.failed_changes <= 60, "{lossy:?}");
}

#[derive(Debug, Default)]
struct Tally {
    failed_statuses: usize,
    failed_changes: usize,
    /// Of the failed changes those that may have happened, and those of them that did.
    unknown: usize,
    made: usize,
    status_times: Vec<Duration>,
    change_times: Vec<Duration>,
}

impl Tally {
    /// So many changes over each of so many lines at once, which wait for most of the time.
    fn over(percent: u64, lines: u64, changes: usize) -> Self {
        let mut tally = Tally::default();
        thread::scope(|scope| {
            let lines = (0..lines).map(|seed| {
                scope.spawn(move || {
                    let sidecar = Sidecar::beside(SimulatedBmc::off()).env("POWER_COOLDOWN", "0");
                    let sidecar = sidecar.over_a_line().start();
                    sidecar.line_is(Line::Lossy(Loss::of(percent, seed)));
                    let mut own = Tally::default();
                    for (target, made) in CHANGES.into_iter().cycle().take(changes) {
                        own.change(&sidecar, target, made);
                    }
                    own
                })
            });
            for line in lines.collect::<Vec<_>>() {
                tally.add(line.join().expect("see above"));
            }
        });
        tally.print(percent);
        tally
    }

    fn change(&mut self, sidecar: &Running, target: &str, call: &str) {
        let before = sidecar.bmc_journal();
        let reply = sidecar.post(target).key(KEY).send().within(IN_TIME);
        self.change_times.push(reply.took);
        for _ in 0..STATUSES {
            self.status(sidecar);
        }
        // Only now: what was still on its way has arrived.
        let made = sidecar.bmc_journal().split_off(before.len());
        match (reply.status, reply.code()) {
            (200, _) => assert_eq!(made, [call], "{target} was done"),
            (504, "outcome_unknown") => {
                assert!(made.is_empty() || made == [call], "{target} is unknown: {made:?}");
                self.unknown += 1;
                self.made += made.len();
            }
            (status, code) => assert!(made.is_empty(), "{target} is {status} {code}: {made:?}"),
        }
        self.failed_changes += usize::from(reply.status != 200);
    }

    fn status(&mut self, sidecar: &Running) {
        let reply = sidecar.get("/power/status").key(KEY).send().within(IN_TIME);
        self.status_times.push(reply.took);
        if reply.status == 200 {
            let journal = sidecar.bmc_journal();
            let last = journal.iter().rev().find_map(|call| call.strip_prefix("set power "));
            let power = if last == Some("1") { "on" } else { "off" };
            assert_eq!(reply.json["power_state"], power, "{journal:?}");
        } else {
            self.failed_statuses += 1;
        }
    }

    fn add(&mut self, other: Self) {
        self.failed_statuses += other.failed_statuses;
        self.failed_changes += other.failed_changes;
        self.unknown += other.unknown;
        self.made += other.made;
        self.status_times.extend(other.status_times);
        self.change_times.extend(other.change_times);
    }

    fn print(&mut self, percent: u64) {
        let Self { failed_statuses, failed_changes, unknown, made, status_times, change_times } = self;
        println!(
            "{percent} % lost: {failed_statuses} of {} statuses failed ({}), {failed_changes} of {} changes failed \
             ({}), {unknown} of them unknown, of which {made} happened",
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
