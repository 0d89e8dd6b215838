//! An `ipmitool` for what the real one cannot be made to do, and where the real ones are.

use std::env;
use std::path::PathBuf;

use super::scratch::Scratch;

/// A shell script that stands in for `ipmitool` and keeps a line for each of its runs.
pub struct FakeIpmitool {
    scratch: Scratch,
    pub path: PathBuf,
}

/// One run of the fake.
#[derive(Debug)]
pub struct Run {
    pub pid: i32,
    pub arguments: String,
}

impl FakeIpmitool {
    /// `body` is shell, with `ipmitool`'s arguments in `$*`. It should `exec` what it waits in: a
    /// child of its own would hold its pipes after it.
    pub fn new(body: &str) -> Self {
        let scratch = Scratch::new();
        let runs = scratch.path().join("runs");
        let text = format!("#!/bin/sh\necho \"$$ $*\" >>'{}'\n{body}\n", runs.display());
        let path = scratch.script("ipmitool", &text);
        FakeIpmitool { scratch, path }
    }

    pub fn runs(&self) -> Vec<Run> {
        let lines = self.scratch.lines("runs");
        let run = |line: &String| {
            let (pid, arguments) = line.split_once(' ').expect("a pid and arguments");
            Run { pid: pid.parse().expect("a pid"), arguments: arguments.to_owned() }
        };
        lines.iter().map(run).collect()
    }

    pub fn notes(&self) -> Vec<String> {
        self.scratch.lines("ipmitool.notes")
    }

    pub fn environment(&self) -> Vec<String> {
        let mut lines = self.scratch.lines("ipmitool.env");
        lines.retain(|line| !["PWD=", "OLDPWD=", "_=", "SHLVL="].iter().any(|own| line.starts_with(own)));
        lines.sort();
        lines
    }
}

/// Where a program is; a test fails, and is never skipped, where it is missing.
#[track_caller]
pub fn require(program: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    // Servers live in /usr/sbin, which is on the PATH of root alone.
    env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{program} is missing: scripts/test installs it, and starts no service"))
}
