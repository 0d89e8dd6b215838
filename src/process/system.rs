//! What the system has and lacks: programs, signals, cores.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Access, access};
use rustix::process::{
    DumpableBehavior, PidfdFlags, Resource, Rlimit, getpid, pidfd_open, set_dumpable_behavior, setrlimit,
};
use signal_hook::consts::{SIGCHLD, SIGXFSZ};

/// Where a shell looks if there is no `PATH`, as in some web servers' CGI programs.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The absolute path of a program, by the rules of a shell: as it stands when it names a folder, on `path`
/// otherwise.
///
/// # Errors
/// Why there is no such program to run.
pub fn find_program(name: &str, path: &str) -> io::Result<PathBuf> {
    let runnable = |candidate: &Path| -> io::Result<PathBuf> {
        let absolute = std::path::absolute(candidate)?;
        if !absolute.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        access(&absolute, Access::EXEC_OK)?;
        Ok(absolute)
    };
    if name.contains('/') {
        return runnable(Path::new(name));
    }
    let folders = if path.is_empty() { DEFAULT_PATH } else { path };
    let mut found = std::env::split_paths(folders).filter_map(|folder| runnable(&folder.join(name)).ok());
    found.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "not found on PATH"))
}

/// A parent may have set SIGCHLD to be ignored. Then the system reaps our children and does not tell how they ended
/// (wait(2)). A handler of any kind changes that.
///
/// # Errors
/// When no handler can be set.
pub fn handle_sigchld() -> io::Result<()> {
    signal_hook::flag::register(SIGCHLD, Arc::default()).map(drop)
}

/// A core would hold key and password, and another process of this user could read them. A log that has grown to its
/// limit is no reason to end in the middle of a change.
///
/// # Errors
/// When the system does not allow it.
pub fn protect() -> io::Result<()> {
    signal_hook::flag::register(SIGXFSZ, Arc::default())?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Whether this system tells when a child ends.
///
/// # Errors
/// That it does not, and what would.
pub fn check_system() -> io::Result<()> {
    let opened = pidfd_open(getpid(), PidfdFlags::empty());
    opened.map(drop).map_err(|error| {
        io::Error::other(format!(
            "pidfd_open: {error}: expected Linux 5.3 or newer, and a container engine that is no older"
        ))
    })
}
