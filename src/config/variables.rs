//! THE TABLE of variables: each row has a variable's default, its parser and its meaning. `--help` and
//! deploy/configuration.md show it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use super::checks;
use crate::bmc::arguments::{BootMode, CipherSuite, ExtraArguments, Privilege};
use crate::server::Server;

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Variable<T: 'static> {
    /// May have `<NAME>` in it, which stands for a name that the user chooses.
    pub name: &'static str,
    pub default: Fallback,
    pub given: Given,
    /// The error says what is expected.
    pub parse: fn(&str) -> Result<T, String>,
    pub meaning: &'static str,
}

/// What counts where the variable is not set. An empty variable is not set.
#[derive(Debug, Clone, Copy)]
pub enum Fallback {
    Required,
    /// Its parser gets the empty string.
    Unset,
    Value(&'static str),
}

/// How the value is given, and whether an error may repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    Plain,
    /// No error repeats it: a password may stand there by mistake.
    Unquoted,
    /// No error repeats it, and `NAME_FILE` may name a file that holds it.
    OrFile,
}

/// A row without its parser, as a document shows it.
#[derive(Debug)]
pub struct Shown {
    pub name: &'static str,
    pub default: &'static str,
    pub from_file: bool,
    pub meaning: &'static str,
}

impl<T> Variable<T> {
    const fn shown(&self) -> Shown {
        let default = match self.default {
            Fallback::Required => "required",
            Fallback::Unset => "–",
            Fallback::Value(value) => value,
        };
        let from_file = matches!(self.given, Given::OrFile);
        Shown { name: self.name, default, from_file, meaning: self.meaning }
    }

    /// `ACCESS_<NAME>_KEY` with this name in it.
    pub fn named(&self, name: &str) -> String {
        self.name.replace("<NAME>", name)
    }
}

/// Makes a constant of each row, and the list of all.
macro_rules! variables {
    ($($(#[$comment:meta])* $row:ident($name:literal): $type:ty, $default:expr, $given:ident, $parse:expr, $meaning:literal;)*) => {
        $($(#[$comment])* pub const $row: Variable<$type> = Variable {
            name: $name,
            default: $default,
            given: Given::$given,
            parse: $parse,
            meaning: $meaning,
        };)*

        pub const VARIABLES: &[Shown] = &[$($row.shown()),*];
    };
}

use Fallback::{Required, Unset, Value};

variables! {
    API_KEY("API_KEY"): (), Required, OrFile, checks::key,
        "the key that requests must bring; `openssl rand -hex 32` makes one";
    API_KEY_STATUS("API_KEY_STATUS"): (), Unset, OrFile, checks::key,
        "another key, which allows status alone";
    ACCESS_KEY("ACCESS_<NAME>_KEY"): (), Unset, OrFile, checks::key,
        "another key, for what its list allows; any number of them";
    ACCESS_ALLOW("ACCESS_<NAME>_ALLOW"): Vec<&'static str>, Unset, Unquoted, checks::words,
        "that list: words of the table of routes, such as status,on";
    ACCESS_SERVERS("ACCESS_<NAME>_SERVERS"): Vec<Server>, Unset, Unquoted, checks::servers,
        "the servers that it is for, such as nas,lab; unset for all";
    SERVERS("SERVERS"): Vec<Server>, Unset, Plain, checks::servers,
        "names of servers, such as nas,lab; each has its own variables, see *Several servers*";
    BMC_HOST("BMC_HOST"): String, Required, Plain, checks::host,
        "name or address of the BMC, IPv6 too; not needed where SERVERS names servers";
    BMC_USER("BMC_USER"): (), Required, OrFile, checks::user,
        "user on the BMC, at most 16 bytes";
    BMC_PASSWORD("BMC_PASSWORD"): (), Required, OrFile, checks::password,
        "that user's password, at most 20 bytes";
    BMC_KG_KEY("BMC_KG_KEY"): (), Unset, OrFile, checks::kg_key,
        "the BMC's KG key, if it has one: at most 20 bytes, as text or in hexadecimal with 0x";
    BMC_PORT("BMC_PORT"): u16, Value("623"), Plain, checks::port,
        "UDP port of the BMC";
    BMC_CIPHER_SUITE("BMC_CIPHER_SUITE"): CipherSuite, Value("3"), Plain, CipherSuite::parse,
        "3, 17 for newer BMCs, or auto (can cost 10 s a run)";
    BMC_PRIVILEGE("BMC_PRIVILEGE"): Privilege, Value("ADMINISTRATOR"), Plain, Privilege::parse,
        "session privilege: `USER` reads the status, `OPERATOR` also switches";
    /// Most servers of the last ten years have a firmware of this mode.
    BMC_BOOT("BMC_BOOT"): BootMode, Value("efi"), Plain, BootMode::parse,
        "how the server starts after `/boot/…`: efi or legacy";
    IPMITOOL("IPMITOOL"): String, Value("ipmitool"), Plain, checks::any,
        "the program: a path, or a name on PATH";
    IPMITOOL_ARGS("IPMITOOL_ARGS"): ExtraArguments, Unset, Unquoted, ExtraArguments::parse,
        "more arguments for it: -o -A -l -t -b -T -B, each with its value";
    LISTEN_ADDR("LISTEN_ADDR"): SocketAddr, Value("127.0.0.1:8080"), Plain, checks::listen,
        "address and port to listen on";
    /// Home Assistant hangs up after 10 s. It would never see a later reply.
    REQUEST_TIMEOUT("REQUEST_TIMEOUT"): Duration, Value("9"), Plain, checks::request_timeout,
        "seconds from a request to its reply, 7 to 120";
    /// For retries and double presses. A person may reset a server that hangs after a cycle.
    POWER_COOLDOWN("POWER_COOLDOWN"): Duration, Value("30"), Plain, checks::cooldown,
        "seconds after a cycle or reset in which there is no other, 0 to 3600; 0 turns it off";
    RUST_LOG("RUST_LOG"): LevelFilter, Value("info"), Plain, checks::log_level,
        "off, error, warn, info, debug or trace";
    STATE_DIR("STATE_DIR"): Option<PathBuf>, Unset, Plain, checks::state_dir,
        "folder for what must outlive a restart, and for the locks of CGI processes";
    IPMI_SIDECAR_ENV("IPMI_SIDECAR_ENV"): String, Unset, Plain, checks::any,
        "file with more of these variables, as lines NAME=value in a shell's quoting";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_shows_the_same_variables() {
        let guide = include_str!("../../deploy/configuration.md");
        let documented: Vec<_> = guide.lines().filter(|line| line.starts_with("| `")).collect();
        for (line, Shown { name, default, meaning, from_file }) in documented.iter().zip(VARIABLES) {
            let file = if *from_file { format!(", `{name}_FILE`") } else { String::new() };
            assert_eq!(*line, format!("| `{name}`{file} | {default} | {meaning} |"));
        }
        assert_eq!(documented.len(), VARIABLES.len());
    }
}
