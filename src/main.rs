//! ipmi-sidecar: one HTTP request, one allow-listed `ipmitool` run.
//!
//! Here the face is chosen and the parts are wired. The modules stand lowest floor first, and each imports only from
//! those above it.

mod secret;
mod http;
mod ipmi;
mod exec;
mod delivery;
mod memory;
mod ledger;
mod auth;
mod route;
mod ipmitool;
mod config;
mod reply;
mod sidecar;
mod lanes;
mod server;
mod cgi;
mod logging;

use std::env;
use std::ffi::OsString;
use std::fmt::{Display, Write as _};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::{info, warn};

use crate::config::{Config, StartupError, VARIABLES};
use crate::exec::Interrupt;
use crate::ledger::Ledger;
use crate::reply::Problem;
use crate::server::Signals;
use crate::sidecar::Sidecar;

const VERSION: &str = env!("CARGO_PKG_VERSION");

// Exit codes of sysexits.h, so that a service manager can tell them apart.
const EX_USAGE: u8 = 64;
const EX_OSERR: u8 = 71;
const EX_CONFIG: u8 = 78;

/// Between two looks whether a predecessor is done: nobody notices it, and it costs little.
const SUCCESSION_PAUSE: Duration = Duration::from_millis(50);

/// The kubelet gives an exec probe 1 s by default.
const HEALTHCHECK_TIME: Duration = Duration::from_millis(900);

fn main() -> ExitCode {
    if let Err(error) = exec::mind_children() {
        return system("minding children".to_owned())(error).report();
    }
    // RFC 3875, 4.1.4: a web server sets it. What it gives as arguments may come from the query.
    if env::var_os("GATEWAY_INTERFACE").is_some_and(|interface| !interface.is_empty()) {
        return answer_cgi().unwrap_or_else(Exit::report);
    }
    let words: Vec<_> = env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let result = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => serve(),
        ["check"] => check(),
        ["healthcheck"] => healthcheck(),
        ["--help" | "-h"] => print(&help()),
        ["--version" | "-V"] => print(&format!("ipmi-sidecar {VERSION}\n")),
        _ => Err(Exit::because(EX_USAGE, format!("unknown arguments {words:?}: see ipmi-sidecar --help"))),
    };
    result.unwrap_or_else(Exit::report)
}

/// Why the program ends, and its exit code.
struct Exit {
    code: u8,
    lines: Vec<String>,
}

impl Exit {
    fn because(code: u8, line: impl Display) -> Self {
        Self { code, lines: vec![line.to_string()] }
    }

    fn report(self) -> ExitCode {
        for line in self.lines {
            let _ = writeln!(io::stderr(), "ipmi-sidecar: {line}"); // there is nowhere else to say it
        }
        self.code.into()
    }
}

impl From<Vec<StartupError>> for Exit {
    fn from(errors: Vec<StartupError>) -> Self {
        Self { code: EX_CONFIG, lines: errors.iter().map(ToString::to_string).collect() }
    }
}

/// The environment, as the configuration looks it up.
fn environment(name: &str) -> Option<OsString> {
    env::var_os(name)
}

fn system(what: String) -> impl FnOnce(io::Error) -> Exit {
    move |error| Exit::because(EX_OSERR, format!("{what}: {error}"))
}

fn serve() -> Result<ExitCode, Exit> {
    // Before anything else: from here on a signal ends the program in order.
    let signals = Signals::catch().map_err(system("catching signals".to_owned()))?;
    let config = configure()?;
    let (listen, bmc) = (config.listen, config.bmc.to_string());
    let folder = config.state_dir.clone().unwrap_or_default();
    let until = Instant::now() + config.request_timeout + server::FAREWELL;
    let sidecar = Arc::new(sidecar(config)?);
    // Before anybody can connect: who hangs up meanwhile would be heard all the same.
    let remembers = remember(&sidecar, &signals, until)
        .map_err(system(format!("keeping a memory in STATE_DIR, {}", folder.display())))?;
    if !remembers {
        return Ok(ExitCode::SUCCESS);
    }
    let listener = server::listen(listen).map_err(system(format!(
        "listening on {listen}, as LISTEN_ADDR says (is another program there already?)"
    )))?;
    let address = listener.local_addr().unwrap_or(listen);
    info!("ipmi-sidecar {VERSION} listening on {address}, BMC {bmc}");
    let cut_short = server::serve(listener, &sidecar, &signals).map_err(system("serving".to_owned()))?;
    info!("stopped");
    // As a shell reports a program that a signal ended.
    Ok(cut_short.map_or(ExitCode::SUCCESS, |signal| u8::try_from(128 + signal).unwrap_or(1).into()))
}

/// Waits for one that ran before it to be done: that has closed its listener, but still answers. False where it was
/// told to stop meanwhile.
fn remember(sidecar: &Sidecar, signals: &Signals, until: Instant) -> io::Result<bool> {
    loop {
        match sidecar.remember() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done.map(|()| true),
        }
        if signals.have_come() {
            return Ok(false);
        }
        if Instant::now() >= until {
            return Err(io::Error::other("another ipmi-sidecar uses it: expected a folder of its own"));
        }
        thread::sleep(SUCCESSION_PAUSE);
    }
}

/// Reads the configuration and opens the log, for which it has warnings.
fn configure() -> Result<Config, Exit> {
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let config = Config::read(&environment, names)?;
    logging::start(config.log_level);
    for warning in &config.warnings {
        warn!("{warning}");
    }
    Ok(config)
}

fn sidecar(config: Config) -> Result<Sidecar, Exit> {
    exec::check_system().map_err(|why| Exit::because(EX_OSERR, why))?;
    let interrupt = Interrupt::new().map_err(system("making an eventfd".to_owned()))?;
    let ledger = Ledger::new(config.state_dir.as_deref(), config.cooldown);
    Ok(Sidecar::new(config.keys, config.bmc, config.request_timeout, ledger, interrupt))
}

/// One request, by the variables of a web server.
fn answer_cgi() -> Result<ExitCode, Exit> {
    let prepared = configure().and_then(|config| Ok((config.state_dir.clone(), sidecar(config)?)));
    let head = cgi::head(env::vars_os());
    let answered = match prepared {
        Ok((state, sidecar)) => {
            cgi::answer(&head, |head, body| cgi::respond(head, body, &sidecar, state.as_deref()))
        }
        Err(exit) => {
            exit.report(); // for the operator; the caller learns nothing of the configuration
            cgi::answer(&head, |_, _| Problem::Misconfigured.reply(None))
        }
    };
    answered.map_err(system("answering the web server".to_owned()))?;
    Ok(ExitCode::SUCCESS)
}

/// Troubleshooting step one: is the configuration right, and does the BMC answer?
fn check() -> Result<ExitCode, Exit> {
    let config = configure()?;
    let bmc = config.bmc.to_string();
    let line = sidecar(config)?.check().map_err(|why| Exit::because(1, format!("BMC {bmc}: {why}")))?;
    print(&format!("{line}\n"))
}

/// For container engines and the kubelet: asks the program that runs beside this one.
fn healthcheck() -> Result<ExitCode, Exit> {
    let mut address = Config::read_listen(&environment)?;
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    match health_of(address) {
        Ok(reply) if reply.starts_with(b"HTTP/1.1 200 ") => Ok(ExitCode::SUCCESS),
        Ok(_) => Err(Exit::because(1, format!("{address} did not answer /health with 200"))),
        Err(error) => Err(Exit::because(1, format!("asking {address} for /health: {error}"))),
    }
}

fn health_of(address: SocketAddr) -> io::Result<Vec<u8>> {
    let until = Instant::now() + HEALTHCHECK_TIME;
    // A time-out of zero would be none at all.
    let left = || until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let mut stream = TcpStream::connect_timeout(&address, left())?;
    stream.set_write_timeout(Some(left()))?;
    stream.write_all(format!("GET /health HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())?;
    // The status line is enough, and comes in one piece or not from us.
    let mut start = [0; 64];
    stream.set_read_timeout(Some(left()))?;
    let length = stream.read(&mut start)?;
    Ok(start[..length].to_vec())
}

fn print(text: &str) -> Result<ExitCode, Exit> {
    io::stdout().write_all(text.as_bytes()).map_err(system("writing to standard output".to_owned()))?;
    Ok(ExitCode::SUCCESS)
}

fn help() -> String {
    let mut text = format!(
        "ipmi-sidecar {VERSION}: one POST, one ipmitool run\n\n\
         Usage: ipmi-sidecar              serve HTTP\n       \
                ipmi-sidecar check        read the power status once and print it\n       \
                ipmi-sidecar healthcheck  ask the running server for /health\n       \
                ipmi-sidecar --help | --version\n\n\
         Where GATEWAY_INTERFACE is set it answers one CGI request, whatever its arguments.\n\n\
         Environment, where an empty variable is unset and NAME_FILE, for those marked *, names a file:\n"
    );
    for variable in VARIABLES {
        let mark = if variable.from_file { '*' } else { ' ' };
        let (name, default, meaning) = (variable.name, variable.default, variable.meaning);
        let _ = writeln!(text, "  {name:<19}{mark} {meaning} [{default}]"); // writing to a String cannot fail
    }
    text.push_str(
        "\nExit codes: 0 done, 1 failed, 64 wrong arguments, 71 system error, 78 wrong configuration\n",
    );
    text
}
