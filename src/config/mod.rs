//! The environment as a `Config`, or every `StartupError` at once, each naming the variable and the remedy.

mod checks;
mod help;
pub mod variables;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;

use self::checks::NEW_KEY;
pub use self::help::help;
use self::variables::{
    ACCESS_ALLOW, ACCESS_KEY, API_KEY, API_KEY_STATUS, BMC_CIPHER_SUITE, BMC_HOST, BMC_PASSWORD, BMC_PORT,
    BMC_PRIVILEGE, BMC_USER, Fallback, Given, IPMI_SIDECAR_ENV, IPMITOOL, IPMITOOL_ARGS, LISTEN_ADDR,
    POWER_COOLDOWN, REQUEST_TIMEOUT, RUST_LOG, STATE_DIR, Variable,
};
use crate::auth::{Key, Keys};
use crate::bmc::arguments::{CipherSuite, Target};
use crate::command::Command;
use crate::process::find_program;
use crate::secret::{Credential, read_private, without_newline};

/// A shorter key can be guessed, given time.
const SHORT_KEY: usize = 16;

/// Everything that the program must know before it starts.
#[derive(Debug)]
pub struct Config {
    pub keys: Keys,
    pub target: Target,
    pub listen: SocketAddr,
    pub request_timeout: Duration,
    pub cooldown: Duration,
    pub log_level: LevelFilter,
    pub state_dir: Option<PathBuf>,
    /// What is not wrong, but worth a line once the log is open.
    pub warnings: Vec<String>,
}

/// One thing that is wrong, in one line: the variable, the cause, the remedy.
#[derive(Debug, PartialEq, Eq)]
pub struct StartupError(String);

impl fmt::Display for StartupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where variables come from: the environment, or a test's table.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

impl Config {
    /// `names` are those of all variables.
    ///
    /// # Errors
    /// All that is wrong, in the order of the table.
    pub fn read(lookup: Lookup, names: impl Iterator<Item = String>) -> Result<Self, Vec<StartupError>> {
        let mut reader = Reader::new(lookup)?;
        // Every variable is read before the first `?`, so that every error is reported.
        let keys = reader.keys(names);
        let host = reader.value(&BMC_HOST);
        let user = reader.required_credential(&BMC_USER);
        let password = reader.required_credential(&BMC_PASSWORD);
        let port = reader.port();
        let cipher_suite = reader.value(&BMC_CIPHER_SUITE);
        let privilege = reader.value(&BMC_PRIVILEGE);
        let program = reader.program();
        let extra = reader.value(&IPMITOOL_ARGS);
        let listen = reader.value(&LISTEN_ADDR);
        let request_timeout = reader.value(&REQUEST_TIMEOUT);
        let cooldown = reader.value(&POWER_COOLDOWN);
        let log_level = reader.log_level();
        let state_dir = reader.value(&STATE_DIR);

        if cipher_suite == Some(CipherSuite::NONE) {
            reader.warn("BMC_CIPHER_SUITE is 0: the BMC then takes any password; use 3 or 17".to_owned());
        }
        let Reader { errors, warnings, .. } = reader;
        let config = || {
            let target = Target {
                program: program?,
                host: host?,
                port: port?,
                user: user?,
                password: password?,
                cipher_suite: cipher_suite?,
                privilege: privilege?,
                extra: extra?,
            };
            Some(Self {
                keys,
                target,
                listen: listen?,
                request_timeout: request_timeout?,
                cooldown: cooldown?,
                log_level: log_level?,
                state_dir: state_dir?,
                warnings,
            })
        };
        // A wrong extra key adds an error but leaves no field unset, so the errors are checked as well.
        config().filter(|_| errors.is_empty()).ok_or(errors)
    }

    /// `LISTEN_ADDR` alone: a health check needs nothing else.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read_listen(lookup: Lookup) -> Result<SocketAddr, Vec<StartupError>> {
        let mut reader = Reader::new(lookup)?;
        reader.value(&LISTEN_ADDR).ok_or(reader.errors)
    }
}

/// Reads variables and collects what is wrong with them. When a method gives `None`, its error is among them.
struct Reader<'a> {
    lookup: Lookup<'a>,
    /// What `IPMI_SIDECAR_ENV` adds to it.
    file: BTreeMap<String, String>,
    errors: Vec<StartupError>,
    warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    fn new(lookup: Lookup<'a>) -> Result<Self, Vec<StartupError>> {
        let mut reader = Self { lookup, file: BTreeMap::new(), errors: Vec::new(), warnings: Vec::new() };
        let path = reader.value(&IPMI_SIDECAR_ENV).unwrap_or_default();
        if !path.is_empty() {
            let read = read_private(Path::new(&path)).and_then(|text| lines(&text));
            reader.file =
                read.map_err(|cause| vec![StartupError(format!("IPMI_SIDECAR_ENV is {path:?}: {cause}"))])?;
        }
        Ok(reader)
    }

    fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    fn wrong<T>(&mut self, error: String) -> Option<T> {
        self.errors.push(StartupError(error));
        None
    }

    /// The variable's text without one trailing newline, or the empty string where it is unset. The environment goes
    /// before the file.
    fn text(&mut self, name: &str) -> Option<String> {
        Some(without_newline(&self.whole_text(name)?).to_owned())
    }

    fn whole_text(&mut self, name: &str) -> Option<String> {
        let value = (self.lookup)(name).filter(|value| !value.is_empty());
        let value = value.unwrap_or_else(|| self.file.get(name).map(OsString::from).unwrap_or_default());
        match value.into_string() {
            Ok(text) => Some(text),
            Err(_) => self.wrong(format!("{name}: expected text in UTF-8")),
        }
    }

    fn value<T>(&mut self, variable: &Variable<T>) -> Option<T> {
        self.value_by(variable, variable.name, variable.parse)
    }

    /// The same, by another name or parser.
    fn value_by<T, U>(
        &mut self,
        variable: &Variable<T>,
        name: &str,
        parse: impl Fn(&str) -> Result<U, String>,
    ) -> Option<U> {
        let text = self.text(name)?;
        let text = match variable.default {
            Fallback::Required if text.is_empty() => {
                return self.wrong(format!("{name} is not set: it is required"));
            }
            Fallback::Value(default) if text.is_empty() => default,
            Fallback::Required | Fallback::Unset | Fallback::Value(_) => &text,
        };
        let cause_or_value = if text.trim() == text {
            parse(text)
        } else {
            Err("expected no white space around the value".to_owned())
        };
        cause_or_value.map_or_else(
            |cause| {
                // Not quoted where it may hold a login: of a URL, or of a command line.
                let may_tell = text.contains('@') || text.contains(char::is_whitespace);
                let is_quoted = variable.given == Given::Plain && !may_tell;
                self.wrong(if is_quoted {
                    format!("{name} is {text:?}: {cause}")
                } else {
                    format!("{name}: {cause}")
                })
            },
            Some,
        )
    }

    /// A value that may come from a file, and that no message repeats. `Some(None)` where it is not set.
    #[allow(clippy::option_option)] // not set is no error here
    fn credential(&mut self, variable: &Variable<()>, name: &str) -> Option<Option<Credential>> {
        let check = variable.parse;
        let file_name = format!("{name}_FILE");
        // A secret that is nothing but a newline is a mistake, and not the same as none.
        let (value, file) = (self.whole_text(name)?, self.text(&file_name)?);
        let credential = match (&value[..], &file[..]) {
            ("", "") => return Some(None),
            (_, "") => {
                Credential::fixed(without_newline(&value), check).map_err(|cause| format!("{name}: {cause}"))
            }
            ("", _) => Credential::file(name, Path::new(&file), check).map_err(|cause| {
                // Quoted only if it can be no secret: a user may put the secret itself there.
                if file.starts_with('/') && !is_like_base64(&file) {
                    format!("{file_name} is {file:?}: {cause}")
                } else {
                    format!("{file_name}, which must be the path of a file: {cause}")
                }
            }),
            _ => Err(format!("{name} and {file_name} are both set: expected one of them")),
        };
        credential.map(Some).or_else(|error| self.wrong(error).ok_or(())).ok()
    }

    fn required_credential(&mut self, variable: &Variable<()>) -> Option<Credential> {
        let name = variable.name;
        self.credential(variable, name)?
            .or_else(|| self.wrong(format!("{name} is not set: it is required, as {name} or {name}_FILE")))
    }

    /// Every key, with what it allows.
    fn keys(&mut self, names: impl Iterator<Item = String>) -> Keys {
        let names: BTreeSet<_> = names.chain(self.file.keys().cloned()).collect();
        let mut keys = Vec::new();
        let mut add = |name: &str, credential, allows| {
            keys.push(Key { name: name.into(), credential, allows });
        };
        if let Some(credential) = self.required_credential(&API_KEY) {
            add(API_KEY.name, credential, Command::words());
        }
        if let Some(Some(credential)) = self.credential(&API_KEY_STATUS, API_KEY_STATUS.name) {
            add(API_KEY_STATUS.name, credential, vec![Command::POWER_STATUS.word()]);
        }
        for name in names.iter().filter_map(|name| access_name(name)).collect::<BTreeSet<_>>() {
            let (key, list) = (ACCESS_KEY.named(name), ACCESS_ALLOW.named(name));
            let (credential, words) =
                (self.credential(&ACCESS_KEY, &key), self.text(&list).unwrap_or_default());
            match credential {
                Some(Some(_)) if words.is_empty() => {
                    self.wrong::<()>(format!(
                        "{list} is not set: it must say what {key} allows, such as status,on (if {key} belongs to \
                         another program, keep it from this one)"
                    ));
                }
                Some(None) if !words.is_empty() => {
                    self.wrong::<()>(format!("{key} is not set: {list} says what it would allow"));
                }
                Some(Some(credential)) => {
                    if let Some(allows) = self.value_by(&ACCESS_ALLOW, &list, ACCESS_ALLOW.parse) {
                        add(&key, credential, allows);
                    }
                }
                Some(None) | None => {}
            }
        }
        self.judge(&keys);
        Keys(keys)
    }

    /// Warns of keys that can be guessed, and refuses equal ones.
    fn judge(&mut self, keys: &[Key]) {
        for (index, key) in keys.iter().enumerate() {
            let (name, value) = (&key.name, key.credential.current());
            if value.expose().len() < SHORT_KEY {
                self.warn(format!(
                    "{name} has fewer than {SHORT_KEY} characters and can be guessed: {NEW_KEY}"
                ));
            }
            let is_equal = |other: &&Key| other.credential.current().matches(value.expose().as_bytes());
            if let Some(Key { name: other, .. }) = keys[..index].iter().find(is_equal) {
                self.wrong::<()>(format!("{name} is the same key as {other}: {NEW_KEY}"));
            }
        }
    }

    fn port(&mut self) -> Option<u16> {
        let text = self.text(BMC_PORT.name)?;
        // Kubernetes sets such a variable in every pod beside a Service that is named `bmc`.
        if text.starts_with("tcp://")
            && let Fallback::Value(default) = BMC_PORT.default
        {
            self.warn(format!(
                "BMC_PORT is {text:?}, which Kubernetes made for a Service named bmc: ignored, {default} is used; \
                 enableServiceLinks: false in the pod avoids it"
            ));
            return (BMC_PORT.parse)(default).ok();
        }
        self.value(&BMC_PORT)
    }

    /// Other programs take a filter there, such as `info,hyper=warn`. Its plain level counts.
    fn log_level(&mut self) -> Option<LevelFilter> {
        let text = self.text(RUST_LOG.name)?;
        if !text.contains('=') {
            return self.value(&RUST_LOG);
        }
        let Fallback::Value(default) = RUST_LOG.default else { return None };
        let plain = text.split(',').map(str::trim).find(|part| !part.contains('=')).unwrap_or(default);
        self.warn(format!(
            "RUST_LOG is {text:?}, a filter for several programs: its plain level counts, {plain}"
        ));
        self.value_by(&RUST_LOG, RUST_LOG.name, |_| (RUST_LOG.parse)(plain))
    }

    fn program(&mut self) -> Option<PathBuf> {
        let path = self.text("PATH")?;
        self.value_by(&IPMITOOL, IPMITOOL.name, |name| {
            find_program(name, &path).map_err(|error| {
                format!(
                    "{error}: install ipmitool (Debian: apt-get install ipmitool) or set IPMITOOL to its path"
                )
            })
        })
    }
}

/// Lines of `NAME=value`, the value quoted as in a shell. Empty lines and comments are skipped.
fn lines(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        // No error repeats the line: it may hold a password.
        let words = shell_words::split(line)
            .map_err(|_| format!("line {number}: expected every quote to be closed"))?;
        let expected = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [] => continue,
            ["export", ..] => "expected NAME=value without export: this file is read, and no shell runs it",
            [_, "=", ..] => "expected NAME=value without spaces around the =",
            [_, second, ..] if second.starts_with('=') => "expected NAME=value without spaces around the =",
            [name, ..] if name.ends_with('=') && words.len() > 1 => {
                "expected NAME=value without spaces around the ="
            }
            [_] => "expected NAME=value, without spaces",
            _ => "expected one NAME=value, with quotes around a value with spaces",
        };
        let (1, Some((name, value))) = (words.len(), words[0].split_once('=')) else {
            return Err(format!("line {number}: {expected}"));
        };
        all.insert(name.to_owned(), value.to_owned());
    }
    Ok(all)
}

/// A base64 key may begin with a slash.
fn is_like_base64(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    let has = |kind: fn(&u8) -> bool| text.as_bytes().iter().any(kind);
    text.bytes().all(is_digit)
        && has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_lowercase)
        && text.len() >= SHORT_KEY
}

/// The NAME of `ACCESS_<NAME>_KEY`, `ACCESS_<NAME>_KEY_FILE` and `ACCESS_<NAME>_ALLOW`.
fn access_name(variable: &str) -> Option<&str> {
    let rest = variable.strip_prefix("ACCESS_")?;
    let name = ["_KEY", "_KEY_FILE", "_ALLOW"].into_iter().find_map(|end| rest.strip_suffix(end))?;
    Some(name).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[(&str, &str)] = &[
        ("API_KEY", "0123456789abcdef"),
        ("BMC_HOST", "192.0.2.1"),
        ("BMC_USER", "admin"),
        ("BMC_PASSWORD", "s3cret"),
        ("IPMITOOL", "/bin/sh"),
    ];

    fn read(changes: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let lookup = |name: &str| {
            let all = changes.iter().chain(GOOD);
            all.into_iter().find(|(own, _)| *own == name).map(|(_, value)| OsString::from(value))
        };
        let names = changes.iter().chain(GOOD).map(|(name, _)| (*name).to_owned());
        Config::read(&lookup, names).map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn everything_that_is_wrong_is_named_at_once() {
        let lookup = |name: &str| (name == "IPMITOOL").then(|| OsString::from("/no/such"));
        let errors = Config::read(&lookup, std::iter::empty()).unwrap_err();
        let named: Vec<_> = errors.iter().map(|error| error.0.split(' ').next().unwrap()).collect();
        assert_eq!(named, ["API_KEY", "BMC_HOST", "BMC_USER", "BMC_PASSWORD", "IPMITOOL"]);
    }

    #[test]
    fn an_empty_variable_is_unset() {
        let config = read(&[("BMC_PORT", ""), ("LISTEN_ADDR", ""), ("API_KEY_FILE", "")]).unwrap();
        assert_eq!(config.target.port, 623);
    }

    #[test]
    fn wrong_values_are_quoted_with_their_remedy() {
        for (name, value, expected) in [
            (
                "BMC_CIPHER_SUITE",
                "three",
                "BMC_CIPHER_SUITE is \"three\": expected a number such as 3 or 17, or auto",
            ),
            ("BMC_PORT", "0", "BMC_PORT is \"0\": expected a UDP port from 1 to 65535"),
            ("POWER_COOLDOWN", "2m", "POWER_COOLDOWN is \"2m\": expected whole seconds from 0 to 3600"),
            ("REQUEST_TIMEOUT", "6", "REQUEST_TIMEOUT is \"6\": expected whole seconds from 7 to 120"),
            ("RUST_LOG", "loud", "RUST_LOG is \"loud\": expected off, error, warn, info, debug or trace"),
            (
                "BMC_HOST",
                "127.0.0115.1",
                "BMC_HOST is \"127.0.0115.1\": expected four plain numbers from 0 to 255 in an IPv4 address",
            ),
            ("BMC_PORT", " 623", "BMC_PORT: expected no white space around the value"),
            ("BMC_HOST", "192.0.2.1\n\n", "BMC_HOST: expected no white space around the value"),
        ] {
            assert_eq!(read(&[(name, value)]).unwrap_err(), [expected]);
        }
    }

    /// As `echo value | base64` leaves it in a Secret.
    #[test]
    fn one_newline_at_the_end_of_any_variable_is_dropped() {
        for newline in ["\n", "\r\n"] {
            let value = |value: &str| format!("{value}{newline}");
            let config = read(&[
                ("BMC_HOST", &value("192.0.2.9")),
                ("BMC_PORT", &value("624")),
                ("BMC_USER", &value("admin")),
                ("API_KEY", &value("0123456789abcdef")),
                ("LISTEN_ADDR", &value("127.0.0.1:9")),
                ("RUST_LOG", &value("debug")),
                ("IPMITOOL", &value("/bin/sh")),
                ("IPMITOOL_ARGS", &value("-o supermicro")),
                ("STATE_DIR", &value("/tmp")),
                ("REQUEST_TIMEOUT", newline),
            ]);
            let config = config.unwrap();
            assert_eq!((&config.target.host[..], config.target.port), ("192.0.2.9", 624));
            assert_eq!(config.state_dir.as_deref(), Some(Path::new("/tmp")));
        }
    }

    #[test]
    fn a_filter_of_the_log_counts_by_its_plain_level() {
        for (filter, level) in [
            ("niri=warn", LevelFilter::Info),
            ("debug,hyper=off", LevelFilter::Debug),
            ("a=trace, warn", LevelFilter::Warn),
        ] {
            let config = read(&[("RUST_LOG", filter)]).unwrap();
            assert_eq!((config.log_level, config.warnings.len()), (level, 1), "{filter}");
        }
        assert!(read(&[("RUST_LOG", "a=b,c=d,loud")]).is_err());
    }

    #[test]
    fn keys_that_cannot_be_meant_are_refused_and_never_repeated() {
        for key in [
            "REPLACE_WITH_KEY",
            "your-api-key",
            "YOUR_KEY",
            "change-me-now",
            "changeme",
            "ChangeMe123",
            " key",
            "key ",
            "k\u{e9}y",
            "k\ty",
        ] {
            let errors = read(&[("API_KEY", key)]).unwrap_err();
            assert!(errors[0].starts_with("API_KEY: ") && errors[0].ends_with(NEW_KEY), "{errors:?}");
            assert!(!errors[0].contains(key), "{errors:?}");
        }
    }

    #[test]
    fn a_key_in_place_of_its_file_is_not_repeated() {
        for key in [
            "/aGVsbG8gd29ybGQgaGVsbG8gd29ybGQ=",
            "aGVsbG8gd29ybGQgaGVsbG8gd29ybGQ=",
            "/9j/4AAQSkZJRgABAQAAAQAB",
        ] {
            let errors = read(&[("API_KEY", ""), ("API_KEY_FILE", key)]).unwrap_err();
            assert!(errors[0].starts_with("API_KEY_FILE, which must be the path of a file: "), "{errors:?}");
            assert!(!errors[0].contains(&key[1..]), "{errors:?}");
        }
        let errors = read(&[("API_KEY", ""), ("API_KEY_FILE", "/no/such/file")]).unwrap_err();
        assert!(errors[0].starts_with("API_KEY_FILE is \"/no/such/file\": "), "{errors:?}");
    }

    #[test]
    fn a_guides_placeholder_is_no_login_and_a_makers_default_is() {
        for name in ["BMC_USER", "BMC_PASSWORD"] {
            let errors = read(&[(name, "REPLACE_WITH_IT")]).unwrap_err();
            assert_eq!(
                errors,
                [format!("{name}: it is the guide's placeholder: put what the BMC knows there")]
            );
            assert!(read(&[(name, "changeme")]).is_ok());
        }
    }

    #[test]
    fn each_key_allows_what_its_list_says() {
        let config = read(&[
            ("API_KEY_STATUS", "status-key-0123456789"),
            ("ACCESS_ALERTS_KEY", "alerts-key-0123456789"),
            ("ACCESS_ALERTS_ALLOW", "status, cycle"),
            ("ACCESS_NONE_KEY", ""),
            ("ACCESS_NONE_ALLOW", ""),
            ("ACCESS_KEY", "not one of ours"),
        ])
        .unwrap();
        let keys = config.keys.0.iter().map(|key| (&*key.name, key.allows.join(", ")));
        assert_eq!(
            keys.collect::<Vec<_>>(),
            [
                ("API_KEY", Command::words().join(", ")),
                ("API_KEY_STATUS", "status".to_owned()),
                ("ACCESS_ALERTS_KEY", "status, cycle".to_owned()),
            ]
        );
    }

    #[test]
    fn keys_that_say_too_little_or_the_same_stop_the_start() {
        let (name, key) = ("ACCESS_X_KEY", "0123456789abcdefg");
        let words = Command::words().join(", ");
        for (variables, expected) in [
            (
                &[(name, key)][..],
                "ACCESS_X_ALLOW is not set: it must say what ACCESS_X_KEY allows, such as status,on (if \
                 ACCESS_X_KEY belongs to another program, keep it from this one)"
                    .to_owned(),
            ),
            (
                &[("ACCESS_X_ALLOW", "on")],
                "ACCESS_X_KEY is not set: ACCESS_X_ALLOW says what it would allow".to_owned(),
            ),
            (
                &[(name, key), ("ACCESS_X_ALLOW", "on,soft")],
                format!("ACCESS_X_ALLOW: expected some of {words}, with commas between them"),
            ),
            (
                &[("API_KEY_STATUS", GOOD[0].1)],
                format!("API_KEY_STATUS is the same key as API_KEY: {NEW_KEY}"),
            ),
            (
                &[("API_KEY_STATUS", key), (name, key), ("ACCESS_X_ALLOW", "on")],
                format!("ACCESS_X_KEY is the same key as API_KEY_STATUS: {NEW_KEY}"),
            ),
        ] {
            assert_eq!(read(variables).unwrap_err(), [expected]);
        }
    }

    #[test]
    fn what_is_risky_is_warned_of() {
        for (name, value, word) in [
            ("API_KEY", "short", "guessed"),
            ("API_KEY_STATUS", "brief", "guessed"),
            ("BMC_CIPHER_SUITE", "0", "any password"),
            ("BMC_PORT", "tcp://10.0.0.1:80", "enableServiceLinks"),
        ] {
            let warnings = read(&[(name, value)]).unwrap().warnings;
            assert!(warnings.len() == 1 && warnings[0].contains(word), "{warnings:?}");
        }
    }

    #[test]
    fn a_file_of_variables_is_read_in_a_shell_s_quoting() {
        let text =
            "# the server in the cellar\n\nBMC_HOST=192.0.2.1\nBMC_PASSWORD='a b#c'\nAPI_KEY=\"q\\\"x\"\n";
        let all = lines(text).unwrap();
        let expected = [("API_KEY", "q\"x"), ("BMC_HOST", "192.0.2.1"), ("BMC_PASSWORD", "a b#c")];
        assert!(all.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(expected), "{all:?}");
        for (text, cause) in [
            ("\nBMC_HOST = a", "line 2: expected NAME=value without spaces around the ="),
            ("BMC_HOST =a", "line 1: expected NAME=value without spaces around the ="),
            ("BMC_PASSWORD= hunter2", "line 1: expected NAME=value without spaces around the ="),
            ("export BMC_PASSWORD=hunter2", "line 1: expected NAME=value without export"),
            ("BMC_PASSWORD=hunter 2", "line 1: expected one NAME=value"),
            ("hunter2", "line 1: expected NAME=value"),
            ("A='hunter2", "line 1: expected every quote"),
        ] {
            let error = lines(text).unwrap_err();
            assert!(error.starts_with(cause) && !error.contains("hunter"), "{error}");
        }
    }
}
