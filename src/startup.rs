//! What happens before the first request: the configuration, the log, the history. And why the program ends.

use std::env;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use log::warn;

use crate::bmc::Bmc;
use crate::bmc::arguments::Target;
use crate::config::{Config, StartupError};
use crate::front_end::signals::Signals;
use crate::handler::Handler;
use crate::history::file::HistoryFile;
use crate::process::{self, Interrupt};
use crate::timing::SUCCESSION_POLL;

// Exit codes of sysexits.h, so that a service manager can tell them apart.
pub const EX_USAGE: u8 = 64;
pub const EX_OSERR: u8 = 71;
const EX_CONFIG: u8 = 78;

/// Reads the configuration and opens the log, for which it has warnings.
///
/// # Errors
/// All that is wrong with the configuration.
pub fn configure() -> Result<Config, Exit> {
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let config = Config::read(&environment, names)?;
    crate::log::start(config.log_level);
    config.warnings.iter().for_each(|warning| warn!("{warning}"));
    Ok(config)
}

/// The environment, as the configuration looks it up.
pub fn environment(name: &str) -> Option<OsString> {
    env::var_os(name)
}

/// Makes the handler of a server, with its BMCs.
///
/// # Errors
/// What the system lacks, and an `ipmitool` that cannot be trusted.
pub fn prepare(config: Config) -> Result<Handler, Exit> {
    ask_version(prepare_with(config, |bmc| bmc)?)
}

/// The same for the operator at the command line. What runs ends with Ctrl-C, and a server may use its folder meanwhile.
///
/// # Errors
/// The same.
pub fn prepare_check(config: Config) -> Result<Handler, Exit> {
    ask_version(prepare_with(Config { state_dir: None, ..config }, Bmc::for_one_request)?)
}

fn ask_version(handler: Handler) -> Result<Handler, Exit> {
    if let Some(warning) = handler.ask_version().map_err(|why| Exit::because(EX_CONFIG, why))? {
        warn!("{warning}");
    }
    Ok(handler)
}

/// Makes the handler of a CGI program. It runs nothing before it knows that a key is valid.
///
/// # Errors
/// What the system lacks.
pub fn prepare_cgi(config: Config) -> Result<Handler, Exit> {
    prepare_with(config, Bmc::for_one_request)
}

fn prepare_with(config: Config, finish: fn(Bmc) -> Bmc) -> Result<Handler, Exit> {
    process::handle_sigchld().map_err(system("handling SIGCHLD"))?;
    process::protect().map_err(system("keeping secrets out of a core"))?;
    process::check_system().map_err(|why| Exit::because(EX_OSERR, why))?;
    let Config { keys, targets, request_timeout, cooldown, state_dir, .. } = config;
    let bmc = |target: Target| {
        let name = target.server.name().unwrap_or_default();
        let folder = state_dir.as_ref().map(|state| state.join(name));
        let history = HistoryFile::new(folder.as_deref(), cooldown);
        Ok(finish(Bmc::new(target, history, Interrupt::new()?)))
    };
    let bmcs: io::Result<_> = targets.into_iter().map(bmc).collect();
    Ok(Handler::new(keys, bmcs.map_err(system("making an eventfd"))?, request_timeout))
}

/// Waits for the sidecar that ran before: it has closed its listener and may still answer. False if a signal came
/// meanwhile.
///
/// # Errors
/// Why `STATE_DIR` does not serve.
pub fn open_history(handler: &Handler, signals: &Signals, until: Instant) -> io::Result<bool> {
    loop {
        match handler.open_history(until) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done.map(|()| true),
        }
        if signals.have_come() {
            return Ok(false);
        }
        if Instant::now() >= until {
            return Err(io::Error::other("another ipmi-sidecar uses it: expected a folder of its own"));
        }
        thread::sleep(SUCCESSION_POLL);
    }
}

/// Asks every BMC, or that of this name, all at the same time: what each said, in the order of `SERVERS`.
///
/// # Errors
/// That there is no such server.
pub fn check(handler: &Handler, name: Option<&str>) -> Result<Vec<Result<String, String>>, Exit> {
    let bmcs = handler.bmcs(name).map_err(|why| Exit::because(EX_USAGE, why))?;
    Ok(thread::scope(|scope| {
        let asked: Vec<_> = bmcs.into_iter().map(|bmc| scope.spawn(|| handler.check(bmc))).collect();
        let panicked = |_| Err("the check of a server panicked".to_owned());
        asked.into_iter().map(|asked| asked.join().unwrap_or_else(panicked)).collect()
    }))
}

/// Why the program ends, and its exit code.
pub struct Exit {
    code: u8,
    lines: Vec<String>,
}

impl Exit {
    pub fn because(code: u8, line: impl Display) -> Self {
        Self { code, lines: vec![line.to_string()] }
    }

    pub fn report(self) -> ExitCode {
        for line in self.lines {
            let _ = writeln!(io::stderr(), "ipmi-sidecar: {line}"); // there is no other place to say it
        }
        self.code.into()
    }
}

impl From<Vec<StartupError>> for Exit {
    fn from(errors: Vec<StartupError>) -> Self {
        Self { code: EX_CONFIG, lines: errors.iter().map(ToString::to_string).collect() }
    }
}

pub fn system(what: &str) -> impl FnOnce(io::Error) -> Exit + '_ {
    move |error| Exit::because(EX_OSERR, format!("{what}: {error}"))
}
