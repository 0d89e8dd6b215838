//! Reaps what runs leave behind.

use std::fs;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, getpid, waitpgid, waitpid};

use crate::timing::REAP_TIMEOUT;

/// What is to be reaped, and what is not ours to reap.
#[derive(Default)]
struct Reaping {
    /// Each is waited for by its own run.
    running: Vec<Pid>,
    /// Process groups that were killed and not yet gone at the end of their run, as on a busy machine. Later runs reap
    /// them.
    killed: Vec<Pid>,
}

fn reaping() -> MutexGuard<'static, Reaping> {
    static REAPING: LazyLock<Mutex<Reaping>> = LazyLock::new(Mutex::default);
    REAPING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reaps what this run leaves behind, and what earlier ones left. As PID 1 of a container this program inherits all of
/// it.
pub(super) fn reap(group: Pid) {
    let until = Instant::now() + REAP_TIMEOUT;
    let mut is_gone = is_reaped(group);
    while !is_gone && Instant::now() < until {
        thread::sleep(Duration::from_millis(1)); // it has been killed, and is about to end
        is_gone = is_reaped(group);
    }
    let mut reaping = reaping();
    reaping.running.retain(|running| *running != group);
    reaping.killed.retain(|killed| !is_reaped(*killed));
    if !is_gone {
        reaping.killed.push(group);
    }
    if getpid() == Pid::INIT {
        // A child of ipmitool may have left its group, and have ended by now (proc(5)).
        let children = fs::read_to_string("/proc/1/task/1/children").unwrap_or_default();
        let pids = children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        for orphan in pids.filter(|pid| !reaping.running.contains(pid)) {
            let _ = waitpid(Some(orphan), WaitOptions::NOHANG); // it runs on, or it is reaped
        }
    }
}

/// True when every process of the group is reaped.
fn is_reaped(group: Pid) -> bool {
    loop {
        match waitpgid(group, WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

/// This process is waited for by its own run.
pub(super) fn running(pid: Pid) {
    reaping().running.push(pid);
}
