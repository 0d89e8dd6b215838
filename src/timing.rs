//! Every duration, with its reason. The assertions at the end say what must fit into what.

use std::ops::RangeInclusive;
use std::time::Duration;

// The request.

/// A client sends its whole request within this time. Any honest one sends it in one go; this allows for a lost packet
/// or two.
pub const RECEIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// `REQUEST_TIMEOUT` in seconds: from a complete head to the reply. Below, a change would have no time to wait for
/// another. Above, every known client and proxy has hung up.
pub const REQUEST_TIMEOUTS: RangeInclusive<u64> = 7..=120;

/// Most replies have 1 KiB and fit into an empty socket buffer. A list of 180 sensors has 25 KB. Only a client that reads
/// nothing needs longer.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// Closing a socket with unread bytes resets the connection, and the reset can overtake the reply (RFC 9112, 9.6). The
/// server reads what still comes for this long.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Apache's `mod_cgid` and fcgiwrap lose the reply of a program that ends with its standard input unread. The program
/// reads the rest of the body for this long.
pub const CGI_DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// After a failed accept, until descriptors may be free again: the listener would be reported as ready at once.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepting can fail for hours, 20 times a second.
pub const ACCEPT_WARNING: Duration = Duration::from_secs(60);

/// `Retry-After` of a 503 `busy`: the queue has moved on by then, mostly.
pub const BUSY_RETRY: Duration = Duration::from_secs(5);

// The queue.

/// A change starts only while this much of its time is left. Most BMCs acknowledge a change within 3 s, and a change
/// that is killed half-way has an unknown outcome.
pub const CHANGE_NEEDS: Duration = Duration::from_secs(5);

/// A read that is cut short does no harm, but it needs time for an answer. A quick BMC takes 0.1 s.
pub const READ_NEEDS: Duration = Duration::from_secs(1);

/// A slow BMC takes 3 s for a read. A caller with less time left does not share a run: the run would end with its time,
/// and fail for all.
pub const SHARED_READ_NEEDS: Duration = Duration::from_millis(3_500);

/// A read joins a running one that began at most this long ago. No status is older than its question by more.
pub const JOIN_RUNNING_READ: Duration = Duration::from_secs(1);

// One run of ipmitool.

/// Seconds that `ipmitool` waits for a reply to a change, and its tries. A slow BMC takes 3 s for a command. On a second
/// try, a change that was not acknowledged would be sent again.
pub const CHANGE_PATIENCE: [&str; 4] = ["-N", "4", "-R", "1"];

/// The same for a read, which may be sent again: one lost datagram does not fail it. The second wait is a second longer
/// and long enough for that slow BMC.
pub const READ_PATIENCE: [&str; 4] = ["-N", "2", "-R", "2"];

/// The shortest first wait of both. An answer that comes sooner is no answer to a repeated question.
pub const FIRST_WAIT: Duration = Duration::from_secs(2);

/// `ipmitool -V` takes 10 ms. A program that hangs instead must not hold up the start.
pub const VERSION_TIMEOUT: Duration = Duration::from_secs(2);

/// Between SIGINT and SIGKILL. `ipmitool` closes its session on SIGINT, mostly within 10 ms; a BMC has only about four
/// sessions to lose.
pub const INTERRUPT_GRACE: Duration = Duration::from_millis(300);

/// A killed process is gone at once, unless the kernel itself is stuck. Then it is left to the kernel.
pub const REAP_TIMEOUT: Duration = Duration::from_millis(100);

// Sensors.

/// To read all sensors, whoever waits. Some BMCs need 30 s, and a list that is not whole is read once more.
pub const READING_SENSORS: Duration = Duration::from_secs(60);

/// A list that is younger is given again without a run: one dashboard asks several times for its tiles.
pub const SENSORS_AGAIN: Duration = Duration::from_secs(5);

/// A caller that cannot wait for a reading gets the last list, unless that is older. Temperatures move within minutes.
pub const SENSORS_LAST: Duration = Duration::from_secs(300);

/// The BMC is asked so often whether it is still the one whose definitions are kept. A BMC that gets another firmware is
/// silent for longer.
pub const DEFINITIONS_CHECKED: Duration = Duration::from_secs(60);

/// Definitions are read anew this often: not every BMC says when they change.
pub const DEFINITIONS_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Definitions that could not be had whole are not tried again sooner: they take longer than a list.
pub const DEFINITIONS_AGAIN: Duration = Duration::from_secs(600);

// What is remembered.

/// A disk that has noted nothing in this time hangs. In less time, the machine may just be busy.
pub const DISK_HANGS: Duration = Duration::from_secs(1);

/// Many BMCs lock an account after a few wrong passwords, and a poller never stops.
pub const REJECTED_LOGIN: Duration = Duration::from_secs(60);

/// A BMC lacks a command until somebody updates it, and a poller never stops.
pub const LACKED_AGAIN: Duration = Duration::from_secs(600);

/// A failure that goes on is worth a warning in the log this often.
pub const LOG_REMINDER: Duration = Duration::from_secs(3600);

/// A delivery with an id is remembered for so long. Retries end sooner, and an id may come again some day.
pub const DELIVERY_REMEMBERED: Duration = Duration::from_secs(600);

/// `POWER_COOLDOWN` in seconds. Above, somebody mistook the unit.
pub const POWER_COOLDOWNS: RangeInclusive<u64> = 0..=3600;

/// A restart is remembered for as long as a cooldown may last.
pub const RESTART_REMEMBERED: Duration = Duration::from_secs(*POWER_COOLDOWNS.end());

/// Two Prometheus may begin to see one alert so far apart. Without a bound, an alert that came under a clock far ahead
/// would hide all later ones.
pub const ALERT_START_MOVES: Duration = Duration::from_secs(7 * 24 * 3600);

/// A rotated file counts within this time. No request waits for the disk.
pub const REREAD_CREDENTIAL: Duration = Duration::from_secs(1);

/// A key whose file is gone for so long is revoked. A file that is being replaced is gone for a moment.
pub const MISSING_KEY: Duration = Duration::from_secs(60);

/// After `REJECTIONS` rejected logins in a row: some BMCs lock an account by a count without a window.
pub const REJECTED_AGAIN: Duration = Duration::from_secs(3600);
pub const REJECTIONS: u32 = 5;

/// Requests without a valid key are counted in the log this often.
pub const GUESSES: Duration = Duration::from_secs(60);

// Start and end.

/// Between two looks whether the sidecar that ran before is done.
pub const SUCCESSION_POLL: Duration = Duration::from_millis(50);

/// For a reading of sensors that is ended with the program. Its disk may hang.
pub const LAST_SENSORS: Duration = Duration::from_secs(1);

/// For the last lines of a log that a file takes.
pub const LAST_LINES: Duration = Duration::from_millis(200);

/// For the last replies, once the commands are done.
pub const LAST_REPLIES: Duration = REPLY_TIMEOUT.saturating_add(DRAIN_TIMEOUT);

/// The kubelet gives an exec probe 1 s by default.
pub const HEALTHCHECK_TIMEOUT: Duration = Duration::from_millis(900);

const MIN_REQUEST_TIMEOUT: u128 = *REQUEST_TIMEOUTS.start() as u128 * 1000;

// A change that waits for no other has time to start, and time for the body of a slow client.
const _: () = assert!(CHANGE_NEEDS.as_millis() < MIN_REQUEST_TIMEOUT);
const _: () = assert!(RECEIVE_TIMEOUT.as_millis() + READ_NEEDS.as_millis() < MIN_REQUEST_TIMEOUT);
// Callers that wait for a slow run have enough time left for a shared one behind it.
const _: () = assert!(SHARED_READ_NEEDS.as_millis() * 2 <= MIN_REQUEST_TIMEOUT);
const _: () = assert!(READ_NEEDS.as_millis() < SHARED_READ_NEEDS.as_millis());
// A run that is stopped is answered by its deadline.
const _: () = assert!(INTERRUPT_GRACE.as_millis() + REAP_TIMEOUT.as_millis() < READ_NEEDS.as_millis());
const _: () = assert!(INTERRUPT_GRACE.as_millis() + 2 * REAP_TIMEOUT.as_millis() < LAST_SENSORS.as_millis());
// A list that is given again is not too old to be the last one.
const _: () = assert!(SENSORS_AGAIN.as_millis() < SENSORS_LAST.as_millis());
// `ipmitool` itself gives up a change before it is killed: 4 s and one try.
const _: () = assert!(4_000 + INTERRUPT_GRACE.as_millis() < CHANGE_NEEDS.as_millis());
const _: () = assert!(HEALTHCHECK_TIMEOUT.as_millis() < 1_000);
