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
    /// The version that the fake tells.
    const VERSION: &str = "1.8.19";

    /// `body` is shell code. `$*` has the arguments of `ipmitool`. A long command should be started with
    /// `exec`: a child process would keep the pipes open after the script is killed.
    pub fn new(body: &str) -> Self {
        let dir = TempDir::new();
        let runs = dir.path().join("runs");
        // The question for its version at the start is no run.
        let version = format!("[ \"$*\" = -V ] && echo 'ipmitool version {}' && exit", Self::VERSION);
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
