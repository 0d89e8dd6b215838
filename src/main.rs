//! The program: its arguments, its exit codes, and which front end serves.

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use ipmi_sidecar::config::{Config, help};
use ipmi_sidecar::failure::{Code, Failure};
use ipmi_sidecar::front_end::signals::Signals;
use ipmi_sidecar::front_end::{cgi, healthcheck, listener};
use ipmi_sidecar::process;
use ipmi_sidecar::startup::{
    self, EX_OSERR, EX_USAGE, Exit, configure, environment, open_history, prepare, prepare_cgi,
    prepare_check, system,
};
use ipmi_sidecar::timing::LAST_REPLIES;
use log::info;

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn main() -> ExitCode {
    // As a CGI program it starts ipmitool by way of itself.
    if let Some(error) = process::become_child(env::args_os()) {
        return Exit::because(EX_OSERR, error).report();
    }
    let words: Vec<_> = env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    // RFC 3875, 4.1.4: a web server sets it. The arguments that a web server gives may come from the query.
    let is_cgi = env::var_os("GATEWAY_INTERFACE").is_some_and(|interface| !interface.is_empty());
    let result = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        _ if is_cgi => answer_cgi(),
        [] => serve(),
        ["check"] => check(None),
        ["check", name] if !name.starts_with('-') => check(Some(name)),
        ["healthcheck"] => check_health(),
        ["--help" | "-h"] => print(&help(VERSION)),
        ["--version" | "-V"] => print(&format!("ipmi-sidecar {VERSION}\n")),
        _ => Err(Exit::because(EX_USAGE, format!("unknown arguments {words:?}: see ipmi-sidecar --help"))),
    };
    let code = result.unwrap_or_else(Exit::report);
    ipmi_sidecar::log::flush();
    code
}

/// Serves HTTP until a signal comes.
fn serve() -> Result<ExitCode, Exit> {
    // Before anything else: from here on a signal ends the program in order.
    let signals = Signals::catch().map_err(system("catching signals"))?;
    let config = configure()?;
    let (listen, state) = (config.listen, config.state_dir.clone().unwrap_or_default());
    let until = Instant::now() + config.request_timeout + LAST_REPLIES;
    let handler = prepare(config)?;
    // Load the history before listening, or a request that is queued meanwhile would run even if its client has left.
    let what = format!("keeping the history in STATE_DIR, {}", state.display());
    if !open_history(&handler, &signals, until).map_err(system(&what))? {
        return Ok(ExitCode::SUCCESS);
    }
    let what = format!("listening on {listen}, as LISTEN_ADDR says (is another program there already?)");
    let socket = listener::listen(listen).map_err(system(&what))?;
    let address = socket.local_addr().unwrap_or(listen);
    info!("ipmi-sidecar {VERSION} listening on {address}, BMC {handler}");
    let cut_short = listener::serve(socket, &handler, &signals).map_err(system("serving"))?;
    info!("stopped");
    // As a shell reports a program that a signal ended.
    Ok(cut_short.map_or(ExitCode::SUCCESS, |signal| u8::try_from(128 + signal).unwrap_or(1).into()))
}

/// Answers one request, by the variables of a web server.
fn answer_cgi() -> Result<ExitCode, Exit> {
    let signals = Signals::catch().map_err(system("catching signals"))?;
    let prepared = configure().and_then(prepare_cgi);
    let head = cgi::head(env::vars_os());
    let answered = match prepared {
        Ok(handler) => {
            let handler = Arc::new(handler);
            cgi::stop_on(signals, &handler).map_err(system("watching signals"))?;
            cgi::answer(&head, |head, body| cgi::respond(head, body, &handler))
        }
        Err(exit) => {
            exit.report(); // for the operator; the caller learns nothing of the configuration
            cgi::answer(&head, |_, _| Failure::from(Code::Misconfigured).reply(None))
        }
    };
    answered.map_err(system("answering the web server"))?;
    Ok(ExitCode::SUCCESS)
}

/// The first step of troubleshooting: is the configuration right, and does each BMC answer, or this one?
fn check(name: Option<&str>) -> Result<ExitCode, Exit> {
    let mut code = ExitCode::SUCCESS;
    for result in startup::check(&prepare_check(configure()?)?, name)? {
        match result {
            Ok(line) => drop(print(&format!("{line}\n"))?),
            Err(why) => code = Exit::because(1, why).report(),
        }
    }
    Ok(code)
}

fn check_health() -> Result<ExitCode, Exit> {
    healthcheck::ask(Config::read_listen(&environment)?).map_err(|why| Exit::because(1, why))?;
    Ok(ExitCode::SUCCESS)
}

fn print(text: &str) -> Result<ExitCode, Exit> {
    io::stdout().write_all(text.as_bytes()).map_err(system("writing to standard output"))?;
    Ok(ExitCode::SUCCESS)
}
