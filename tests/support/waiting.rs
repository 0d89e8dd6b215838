//! Waits for a condition. No helper here waits for a fixed time.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a test waits for a condition before it fails. A busy machine needs seconds.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// The time between two checks. It adds little delay and little load on two cores.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Calls `check` until it returns a value. Returns `None` when it returns none within `limit`.
pub fn wait_for<T>(limit: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = check() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        sleep(POLL_INTERVAL);
    }
}

/// Waits until `condition` is true. Fails with the sentence `what` after [`TIMEOUT`].
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let is_true = wait_for(TIMEOUT, || condition().then_some(())).is_some();
    assert!(is_true, "not within {TIMEOUT:?}: {what}");
}
