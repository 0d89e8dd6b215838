//! What the kernel may refuse. strace makes it do so.

use std::process::Command;

use crate::support::{
    KEY, Process, Running, Sidecar, TIMEOUT, TempDir, eventually, has_ended, require, wait_for,
};

/// From now on, system calls of the sidecar fail, as long as the returned process lives.
#[track_caller]
fn inject(sidecar: &Running, fault: &str) -> Process {
    let mut strace = Command::new(require("strace"));
    strace.args(["-f", "-o", "/dev/null", "-e", &format!("inject={fault}")]);
    let strace = Process::spawn(strace.args(["-p", &sidecar.pid().as_raw_nonzero().to_string()]));
    let attached = wait_for(TIMEOUT, || strace.stderr.text().contains("attached").then_some(()));
    assert!(attached.is_some(), "strace: {}", strace.stderr.text());
    strace
}

#[test]
fn a_passing_lack_of_memory_does_not_end_the_program() {
    let sidecar = Sidecar::with_fake_ipmitool("echo 'Chassis Power is on'").start();
    let _every_second_wait_fails =
        inject(&sidecar, "?epoll_wait,?epoll_pwait,?epoll_pwait2,?poll,?ppoll:error=ENOMEM:when=1+2");
    for _ in 0..5 {
        assert_eq!(sidecar.get("/health").send().status, 200);
        assert_eq!(sidecar.get("/power/status").key(KEY).send().status, 200);
    }
}

/// It may have sent its command before it was killed.
#[test]
fn a_change_that_cannot_be_watched_is_killed_and_has_an_unknown_outcome() {
    let sidecar = Sidecar::with_fake_ipmitool("exec sleep 30").start();
    let _no_pidfd = inject(&sidecar, "pidfd_open:error=EMFILE");
    sidecar.post("/power/cycle").key(KEY).expect_failure(504, "outcome_unknown");
    sidecar.logs("it was killed");
    let runs = sidecar.ipmitool_runs();
    eventually("ipmitool ends", || runs.iter().all(|run| has_ended(run.pid)));
}

/// A sidecar whose system calls fail from its start.
fn faulty(arguments: &[&str], state: &TempDir) -> Sidecar {
    let strace = require("strace");
    let strace = [strace.to_str().expect("a path"), "-f", "-o", "/dev/null"];
    Sidecar::with_fake_ipmitool("echo 'Chassis Power is on'")
        .env("STATE_DIR", state.path())
        .started_by(&[&strace, arguments].concat())
}

#[test]
fn a_folder_without_locks_is_warned_of() {
    let state = TempDir::new();
    let sidecar = faulty(&["-e", "inject=flock:error=ENOLCK"], &state).start();
    sidecar.logs("this file system has no locks");
    assert_eq!(sidecar.get("/power/status").key(KEY).send().status, 200);
}

#[test]
fn a_lock_of_another_user_is_an_error_that_names_the_file() {
    let state = TempDir::new();
    let lock = state.file("sidecar.lock", "");
    let lock = lock.to_str().expect("a path");
    let faulty = faulty(&["-P", lock, "-e", "inject=?open,openat:error=EACCES"], &state);
    faulty.run(&[]).exits(71).prints_error(lock).prints_error("another user made it");
}
