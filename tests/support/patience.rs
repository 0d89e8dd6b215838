//! Waiting for a condition, never for a length of time.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Long enough for a crowded machine, short enough for a person.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Often enough that nobody waits for it, seldom enough that two cores do not notice.
const PAUSE: Duration = Duration::from_millis(5);

/// What `look` finds, or `None` when it has found nothing for `limit`.
pub fn until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        sleep(PAUSE);
    }
}

/// Waits until `holds` does; `what` is the sentence that failed otherwise.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    assert!(until(PATIENCE, || holds().then_some(())).is_some(), "not within {PATIENCE:?}: {what}");
}
