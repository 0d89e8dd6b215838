//! A fake `ipmitool`, for results that a test cannot get from the real one. Also finds installed programs.

use std::env;
use std::path::PathBuf;

use super::temp_dir::TempDir;

/// A shell script that replaces `ipmitool`. It writes a line to a file for each run.
pub struct FakeIpmitool {
    dir: TempDir,
    pub path: PathBuf,
}

/// One run of the fake `ipmitool`.
#[derive(Debug)]
pub struct Run {
    pub pid: i32,
    pub arguments: String,
}

impl FakeIpmitool {
    /// `body` is shell code. `$*` has the arguments of `ipmitool`. A long command should be started with
    /// `exec`: a child process would keep the pipes open after the script is killed.
    pub fn new(body: &str) -> Self {
        Self::of_version("echo ipmitool version 1.8.19", body)
    }

    /// `version` is shell code that answers `-V`, which is asked at the start and is no run.
    pub fn of_version(version: &str, body: &str) -> Self {
        let dir = TempDir::new();
        let runs = dir.path().join("runs");
        let version = format!("if [ \"$*\" = -V ]; then {version}; exit; fi");
        let text = format!("#!/bin/sh\n{version}\necho \"$$ $*\" >>'{}'\n{body}\n", runs.display());
        let path = dir.script("ipmitool", &text);
        FakeIpmitool { dir, path }
    }

    pub fn runs(&self) -> Vec<Run> {
        let lines = self.dir.lines("runs");
        let run = |line: &String| {
            let (pid, arguments) = line.split_once(' ').expect("a pid and arguments");
            Run { pid: pid.parse().expect("a pid"), arguments: arguments.to_owned() }
        };
        lines.iter().map(run).collect()
    }

    pub fn notes(&self) -> Vec<String> {
        self.dir.lines("ipmitool.notes")
    }

    pub fn environment(&self) -> Vec<String> {
        let mut lines = self.dir.lines("ipmitool.env");
        lines.retain(|line| !["PWD=", "OLDPWD=", "_=", "SHLVL="].iter().any(|own| line.starts_with(own)));
        lines.sort();
        lines
    }
}

/// Finds a program. If it is missing, the test fails; no test is skipped.
#[track_caller]
pub fn require(program: &str) -> PathBuf {
    // scripts/test-old-ipmitool runs the tests with another one.
    if let Some(other) = env::var_os("IPMITOOL_UNDER_TEST").filter(|_| program == "ipmitool") {
        return PathBuf::from(other);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    // Servers are in /usr/sbin, which is only in the PATH of root.
    env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
        .unwrap_or_else(|| {
            panic!("{program} is missing: scripts/test installs it and does not start its service")
        })
}
