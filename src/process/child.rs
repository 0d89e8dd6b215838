//! A run that ends with this process, whatever ends it.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

use super::Invocation;

/// The argument by which this program starts `ipmitool` in its own place.
const BECOME: &str = "--become-child-of";

impl Invocation {
    /// The same run. The kernel kills it when this process ends: when a CGI program is killed, nothing else would keep
    /// the deadline. Only a child can ask for this (prctl(2), `PR_SET_PDEATHSIG`). So this program is started first, asks
    /// for it, and then becomes the other one.
    ///
    /// # Errors
    /// When the system does not tell where this program is.
    pub fn ends_with_us(self) -> io::Result<Self> {
        let program = self.program.to_string_lossy().into_owned();
        let first = [BECOME.to_owned(), getpid().as_raw_pid().to_string(), program];
        let arguments = first.into_iter().chain(self.arguments).collect();
        Ok(Self { program: std::env::current_exe()?, arguments, ..self })
    }
}

/// Becomes `ipmitool`, if the arguments say so. Comes back only with an error.
pub fn become_child(mut arguments: impl Iterator<Item = OsString>) -> Option<io::Error> {
    if arguments.nth(1)? != BECOME {
        return None;
    }
    let (parent, program) = (arguments.next()?, arguments.next()?);
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return Some(error.into());
    }
    // It may have ended before that.
    let own = getppid().map(|parent| parent.as_raw_pid().to_string());
    if own.is_none_or(|own| *own != *parent) {
        return Some(io::Error::other("the program that asked for it has ended"));
    }
    Some(Command::new(program).args(arguments).exec())
}
