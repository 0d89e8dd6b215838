//! The environment as a `Config`, or every `StartupError` at once, each naming the variable and the remedy.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;

use crate::auth::{Key, Keys};
use crate::exec::find_program;
use crate::ipmi::{Command, Read};
use crate::ipmitool::{Bmc, CipherSuite, ExtraArguments, Privilege};
use crate::ledger::check_folder;
use crate::route;
use crate::secret::{Check, Credential, read_private};

/// A row of the table that `--help` and the README show.
pub struct Variable {
    pub name: &'static str,
    pub default: &'static str,
    pub meaning: &'static str,
    /// `NAME_FILE` may name a file that holds the value.
    pub from_file: bool,
}

const fn variable(name: &'static str, default: &'static str, meaning: &'static str) -> Variable {
    Variable { name, default, meaning, from_file: false }
}

const fn or_file(name: &'static str, default: &'static str, meaning: &'static str) -> Variable {
    Variable { name, default, meaning, from_file: true }
}

/// Every variable that is read; an empty one counts as unset.
pub const VARIABLES: &[Variable] = &[
    or_file("API_KEY", "required", "the key that requests must bring; `openssl rand -hex 32` makes one"),
    or_file("API_KEY_STATUS", "–", "another key, which only reads the status"),
    or_file("ACCESS_<NAME>_KEY", "–", "another key, for what its list allows; any number of them"),
    variable(
        "ACCESS_<NAME>_ALLOW",
        "–",
        "that list, such as status,on: of status, on, off, force-off, cycle, reset",
    ),
    variable("BMC_HOST", "required", "name or address of the BMC, IPv6 too"),
    or_file("BMC_USER", "required", "user on the BMC, at most 16 bytes"),
    or_file("BMC_PASSWORD", "required", "that user's password, at most 20 bytes"),
    variable("BMC_PORT", "623", "UDP port of the BMC"),
    variable("BMC_CIPHER_SUITE", "3", "3, 17 for newer BMCs, or auto (can cost 10 s a run)"),
    variable(
        "BMC_PRIVILEGE",
        "ADMINISTRATOR",
        "session privilege: `USER` reads the status, `OPERATOR` also switches",
    ),
    variable("IPMITOOL", "ipmitool", "the program: a path, or a name on PATH"),
    variable("IPMITOOL_ARGS", "–", "more arguments for it: -o -A -l -t -b -T -B, each with its value"),
    variable("LISTEN_ADDR", "127.0.0.1:8080", "address and port to listen on"),
    variable("REQUEST_TIMEOUT", "9", "seconds from a request to its reply, 7 to 120"),
    variable(
        "POWER_COOLDOWN",
        "120",
        "seconds after a cycle or reset in which there is no other, 0 to 3600; 0 turns it off",
    ),
    variable("RUST_LOG", "info", "off, error, warn, info, debug or trace"),
    variable("STATE_DIR", "–", "folder for what must outlive a restart, and for the locks of CGI processes"),
    variable(
        "IPMI_SIDECAR_ENV",
        "–",
        "file with more of these variables, as lines NAME=value in a shell's quoting",
    ),
];

/// Home Assistant hangs up after 10 s; a reply it never sees is no reply.
const REQUEST_TIMEOUT: &str = "9";

/// A change needs 5 s of them to start; after two minutes every known client and proxy has hung up.
const REQUEST_TIMEOUTS: RangeInclusive<u64> = 7..=120;

/// A server takes a minute or two to start: to reset it meanwhile is never what somebody wants.
const POWER_COOLDOWN: &str = "120";

/// Longer, and somebody mistook the unit.
const POWER_COOLDOWNS: RangeInclusive<u64> = 0..=3600;

/// A key shorter than this can be guessed, given time.
const SHORT_KEY: usize = 16;

const NEW_KEY: &str = "make one with: openssl rand -hex 32";

/// How the guides of this and of other programs write "put your own here", in any case.
const PLACEHOLDERS: [&str; 7] =
    ["replace_with", "replace-with", "your-", "your_", "change-me", "change_me", "changeme"];

/// How our own guides write it for user and password, in small letters. Of the others some are a maker's real default.
const GUIDES: &str = "replace_with";

/// IPMI 2.0, 22.28; `ipmitool` exits beyond it.
const MAX_USER: usize = 16;

/// IPMI 2.0, 22.30; `ipmitool` exits beyond it.
const MAX_PASSWORD: usize = 20;

/// Everything the program needs to know before it starts.
#[derive(Debug)]
pub struct Config {
    pub keys: Keys,
    pub bmc: Bmc,
    pub listen: SocketAddr,
    pub request_timeout: Duration,
    /// In seconds.
    pub cooldown: u64,
    pub log_level: LevelFilter,
    pub state_dir: Option<PathBuf>,
    /// What is not wrong, but worth saying once the log is open.
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
    /// # Errors
    /// All that is wrong, in the order of `VARIABLES`.
    pub fn read(lookup: Lookup, names: impl Iterator<Item = String>) -> Result<Self, Vec<StartupError>> {
        let mut reader = Reader::new(lookup)?;
        // All are read before one is missed.
        let keys = reader.keys(names);
        let host = reader.required("BMC_HOST").and_then(|text| reader.parse("BMC_HOST", &text, host));
        let user = reader.credential("BMC_USER", check_user);
        let password = reader.credential("BMC_PASSWORD", check_password);
        let port = reader.port();
        let cipher_suite = reader.or_default("BMC_CIPHER_SUITE", "3", CipherSuite::parse);
        let privilege = reader.or_default("BMC_PRIVILEGE", "", Privilege::parse);
        let program = reader.program();
        let extra = reader.extra();
        let listen = reader.listen();
        let request_timeout = reader.or_default("REQUEST_TIMEOUT", REQUEST_TIMEOUT, request_timeout);
        let cooldown = reader.or_default("POWER_COOLDOWN", POWER_COOLDOWN, cooldown);
        let log_level = reader.or_default("RUST_LOG", "info", log_level);
        let state_dir = reader.or_default("STATE_DIR", "", state_dir);

        if cipher_suite == Some(CipherSuite::NONE) {
            reader.warn("BMC_CIPHER_SUITE is 0: the BMC then takes any password; use 3 or 17".to_owned());
        }
        let Reader { errors, warnings, .. } = reader;
        let config = || {
            let bmc = Bmc {
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
                bmc,
                listen: listen?,
                request_timeout: request_timeout?,
                cooldown: cooldown?,
                log_level: log_level?,
                state_dir: state_dir?,
                warnings,
            })
        };
        // A wrong key among others leaves its error behind, and nothing missing.
        config().filter(|_| errors.is_empty()).ok_or(errors)
    }

    /// `LISTEN_ADDR` alone: a health check needs nothing else.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read_listen(lookup: Lookup) -> Result<SocketAddr, Vec<StartupError>> {
        let mut reader = Reader::new(lookup)?;
        reader.listen().ok_or(reader.errors)
    }
}

/// Reads variables and collects what is wrong with them: a getter's `None` has left its error behind.
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
        let path = reader.text("IPMI_SIDECAR_ENV").unwrap_or_default();
        if !path.is_empty() {
            let read = read_private(Path::new(&path)).and_then(|text| variables(&text));
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

    /// The variable's text, or the empty string where it is unset. The environment goes before the file.
    fn text(&mut self, name: &str) -> Option<String> {
        let value = (self.lookup)(name).filter(|value| !value.is_empty());
        let value = value.unwrap_or_else(|| self.file.get(name).map(OsString::from).unwrap_or_default());
        value.into_string().or_else(|_| self.wrong(format!("{name}: expected text in UTF-8")).ok_or(())).ok()
    }

    fn required(&mut self, name: &str) -> Option<String> {
        let text = self.text(name)?;
        if text.is_empty() { self.wrong(format!("{name} is not set: it is required")) } else { Some(text) }
    }

    fn parse<T>(&mut self, name: &str, text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let wrong = |cause| {
            // Not quoted where it may hold a login: of a URL, or of a command line.
            let may_tell = text.contains('@') || text.contains(char::is_whitespace);
            let named = if may_tell { name.to_owned() } else { format!("{name} is {text:?}") };
            self.wrong(format!("{named}: {cause}"))
        };
        parse(text).map_or_else(wrong, Some)
    }

    fn or_default<T>(
        &mut self,
        name: &str,
        default: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(name)?;
        self.parse(name, if text.is_empty() { default } else { &text }, parse)
    }

    /// A value that may come from a file, and that no message repeats.
    fn credential(&mut self, name: &str, check: Check) -> Option<Credential> {
        self.given(name, check)?
            .or_else(|| self.wrong(format!("{name} is not set: it is required, as {name} or {name}_FILE")))
    }

    /// The same, where it may be missing.
    #[allow(clippy::option_option)] // unset is no error here
    fn given(&mut self, name: &str, check: Check) -> Option<Option<Credential>> {
        let file_name = format!("{name}_FILE");
        let (value, file) = (self.text(name)?, self.text(&file_name)?);
        let credential = match (&value[..], &file[..]) {
            ("", "") => return Some(None),
            (_, "") => Credential::fixed(name, &value, check).map_err(|cause| format!("{name}: {cause}")),
            ("", _) => Credential::file(name, Path::new(&file), check).map_err(|cause| {
                // Quoted only as what can be no secret: somebody may have put that here.
                if file.starts_with('/') {
                    format!("{file_name} is {file:?}: {cause}")
                } else {
                    format!("{file_name}, which must be the path of a file: {cause}")
                }
            }),
            _ => Err(format!("{name} and {file_name} are both set: expected one of them")),
        };
        credential.map(Some).or_else(|error| self.wrong(error).ok_or(())).ok()
    }

    /// Every key, with what it allows.
    fn keys(&mut self, names: impl Iterator<Item = String>) -> Keys {
        let names: BTreeSet<_> = names.chain(self.file.keys().cloned()).collect();
        let mut keys = Vec::new();
        let mut add = |name: &str, credential, allows: &[Command]| {
            keys.push(Key { name: name.into(), credential, allows: allows.to_vec() });
        };
        if let Some(credential) = self.credential("API_KEY", check_key) {
            add("API_KEY", credential, &Command::ALL);
        }
        if let Some(Some(credential)) = self.given("API_KEY_STATUS", check_key) {
            add("API_KEY_STATUS", credential, &[Command::Read(Read::PowerStatus)]);
        }
        for name in names.iter().filter_map(|name| access_name(name)).collect::<BTreeSet<_>>() {
            let (key, list) = (format!("ACCESS_{name}_KEY"), format!("ACCESS_{name}_ALLOW"));
            let (credential, words) = (self.given(&key, check_key), self.text(&list));
            let error = match (credential, words.as_deref()) {
                (Some(Some(_)), Some("")) => {
                    format!("{list} is not set: it must say what {key} allows, such as status,on")
                }
                (Some(None), Some(words)) if !words.is_empty() => {
                    format!("{key} is not set: {list} says what it would allow")
                }
                (credential, Some(words)) if !words.is_empty() => match (commands(words), credential) {
                    (Ok(allows), Some(Some(credential))) => {
                        add(&key, credential, &allows);
                        continue;
                    }
                    // Not quoted: somebody may have put the key there.
                    (Err(cause), _) => format!("{list}: {cause}"),
                    (Ok(_), _) => continue,
                },
                _ => continue,
            };
            self.wrong::<()>(error);
        }
        self.judge(&keys);
        Keys(keys)
    }

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
        let text = self.text("BMC_PORT")?;
        // Kubernetes sets such a variable in every pod beside a Service that is named `bmc`.
        if text.starts_with("tcp://") {
            self.warn(format!(
                "BMC_PORT is {text:?}, which Kubernetes made for a Service named bmc: ignored, 623 is used; \
                 enableServiceLinks: false in the pod avoids it"
            ));
            return Some(623);
        }
        self.or_default("BMC_PORT", "623", |text| {
            text.parse()
                .ok()
                .filter(|&port| port != 0)
                .ok_or("expected a UDP port from 1 to 65535".to_owned())
        })
    }

    fn program(&mut self) -> Option<PathBuf> {
        let path = self.text("PATH")?;
        self.or_default("IPMITOOL", "ipmitool", |name| {
            find_program(name, &path).map_err(|error| {
                format!(
                    "{error}: install ipmitool (Debian: apt-get install ipmitool) or set IPMITOOL to its path"
                )
            })
        })
    }

    /// Not quoted: somebody may have put a password there.
    fn extra(&mut self) -> Option<ExtraArguments> {
        let text = self.text("IPMITOOL_ARGS")?;
        ExtraArguments::parse(&text)
            .or_else(|cause| self.wrong(format!("IPMITOOL_ARGS: {cause}")).ok_or(()))
            .ok()
    }

    fn listen(&mut self) -> Option<SocketAddr> {
        self.or_default("LISTEN_ADDR", "127.0.0.1:8080", |text| {
            text.parse()
                .map_err(|_| "expected an address and a port such as 127.0.0.1:8080 or [::]:8080".to_owned())
        })
    }
}

/// Lines of `NAME=value`, the value quoted as in a shell; empty lines and comments are skipped.
fn variables(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        // Of the line itself nothing is repeated: it may be a password's.
        let words = shell_words::split(line)
            .map_err(|_| format!("line {number}: expected every quote to be closed"))?;
        let [word] = &words[..] else {
            if words.is_empty() {
                continue;
            }
            return Err(format!(
                "line {number}: expected one NAME=value, with quotes around a value with spaces"
            ));
        };
        let (name, value) = word
            .split_once('=')
            .ok_or_else(|| format!("line {number}: expected NAME=value, without spaces"))?;
        all.insert(name.to_owned(), value.to_owned());
    }
    Ok(all)
}

/// The NAME of `ACCESS_<NAME>_KEY`, `ACCESS_<NAME>_KEY_FILE` and `ACCESS_<NAME>_ALLOW`.
fn access_name(variable: &str) -> Option<&str> {
    let rest = variable.strip_prefix("ACCESS_")?;
    let name = ["_KEY", "_KEY_FILE", "_ALLOW"].into_iter().find_map(|end| rest.strip_suffix(end))?;
    Some(name).filter(|name| !name.is_empty())
}

/// Commands by the last words of their paths.
fn commands(list: &str) -> Result<Vec<Command>, String> {
    let by_word = |word: &str| Command::ALL.into_iter().find(|command| route::word(*command) == word);
    list.split(',').map(|word| by_word(word.trim())).collect::<Option<_>>().ok_or_else(|| {
        let words = Command::ALL.map(route::word).join(", ");
        format!("expected some of {words}, with commas between them")
    })
}

fn check_key(key: &str) -> Result<(), String> {
    let lower = key.to_ascii_lowercase();
    if PLACEHOLDERS.iter().any(|placeholder| lower.starts_with(placeholder)) {
        return Err(format!("it is a guide's placeholder: {NEW_KEY}"));
    }
    // RFC 9110, 5.5: what a field value can carry from one end to the other.
    let carried = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    if key.trim() != key || !key.as_bytes().iter().all(carried) {
        return Err(format!("expected ASCII without control characters or spaces around it: {NEW_KEY}"));
    }
    Ok(())
}

fn check_user(user: &str) -> Result<(), String> {
    check_login(user, MAX_USER)
}

fn check_password(password: &str) -> Result<(), String> {
    check_login(password, MAX_PASSWORD)
}

fn check_login(value: &str, most: usize) -> Result<(), String> {
    if value.to_ascii_lowercase().starts_with(GUIDES) {
        return Err("it is the guide's placeholder: put what the BMC knows there".to_owned());
    }
    if value.is_empty() || value.len() > most || value.chars().any(char::is_control) {
        let length = value.len();
        return Err(format!(
            "expected 1 to {most} bytes without control characters, as IPMI allows; it has {length}"
        ));
    }
    Ok(())
}

fn host(text: &str) -> Result<String, String> {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_name = |text: &str| !text.starts_with('-') && text.bytes().all(is_of_name);
    let is_address = match text.split_once('%') {
        None => text.parse::<IpAddr>().is_ok(),
        // fe80::1%eth0
        Some((address, interface)) => {
            address.parse::<Ipv6Addr>().is_ok() && !interface.is_empty() && is_name(interface)
        }
    };
    if is_name(text) || is_address {
        return Ok(text.to_owned());
    }
    Err("expected a host name or an address, without a scheme, brackets or a port (the port goes into BMC_PORT)"
        .to_owned())
}

fn request_timeout(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| REQUEST_TIMEOUTS.contains(seconds));
    let (least, most) = (REQUEST_TIMEOUTS.start(), REQUEST_TIMEOUTS.end());
    seconds.map(Duration::from_secs).ok_or_else(|| format!("expected whole seconds from {least} to {most}"))
}

fn cooldown(text: &str) -> Result<u64, String> {
    let (least, most) = (POWER_COOLDOWNS.start(), POWER_COOLDOWNS.end());
    let seconds = text.parse().ok().filter(|seconds| POWER_COOLDOWNS.contains(seconds));
    seconds.ok_or_else(|| format!("expected whole seconds from {least} to {most}"))
}

fn state_dir(text: &str) -> Result<Option<PathBuf>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let folder = PathBuf::from(text);
    if !folder.is_absolute() {
        return Err("expected the absolute path of a folder that this program may write to".to_owned());
    }
    match check_folder(&folder) {
        Ok(()) => Ok(Some(folder)),
        Err(error) => Err(format!("{error}: expected a folder that this program may write to")),
    }
}

fn log_level(text: &str) -> Result<LevelFilter, String> {
    text.parse().map_err(|_| "expected off, error, warn, info, debug or trace".to_owned())
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
    fn defaults_are_those_of_the_table() {
        let config = read(&[]).unwrap();
        let of = |name: &str| VARIABLES.iter().find(|variable| variable.name == name).unwrap().default;
        assert_eq!(config.bmc.port.to_string(), of("BMC_PORT"));
        assert_eq!(config.bmc.cipher_suite, CipherSuite::parse(of("BMC_CIPHER_SUITE")).unwrap());
        assert_eq!(config.listen.to_string(), of("LISTEN_ADDR"));
        assert_eq!(config.request_timeout.as_secs().to_string(), of("REQUEST_TIMEOUT"));
        assert_eq!(config.cooldown.to_string(), of("POWER_COOLDOWN"));
        assert_eq!(config.log_level.as_str().to_lowercase(), of("RUST_LOG"));
        assert_eq!(config.warnings, [""; 0]);
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
        assert_eq!(config.bmc.port, 623);
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
        ] {
            assert_eq!(read(&[(name, value)]).unwrap_err(), [expected]);
        }
    }

    #[test]
    fn hosts_are_names_and_addresses() {
        for valid in ["bmc", "bmc.lan", "192.0.2.1", "2001:db8::1", "fe80::1%eth0", "my_bmc-1.example.org"] {
            assert!(host(valid).is_ok(), "{valid}");
        }
        for invalid in [
            "http://bmc",
            "bmc:623",
            "[::1]",
            "-H",
            "a b",
            "bmc/",
            "b\u{e9}",
            "a\nb",
            "bmc%eth0",
            "-v%",
            "%",
            "::1%",
        ] {
            assert!(host(invalid).is_err(), "{invalid}");
        }
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
        let keys = config.keys.0.iter();
        let listed: Vec<_> = keys
            .map(|key| {
                (&*key.name, key.allows.iter().map(|command| command.name()).collect::<Vec<_>>().join(", "))
            })
            .collect();
        assert_eq!(
            listed,
            [
                ("API_KEY", Command::ALL.map(Command::name).join(", ")),
                ("API_KEY_STATUS", "power status".to_owned()),
                ("ACCESS_ALERTS_KEY", "power status, power cycle".to_owned()),
            ]
        );
    }

    #[test]
    fn keys_that_say_too_little_or_the_same_stop_the_start() {
        let (name, key) = ("ACCESS_X_KEY", "0123456789abcdefg");
        let words = "status, on, off, force-off, cycle, reset";
        for (variables, expected) in [
            (
                &[(name, key)][..],
                "ACCESS_X_ALLOW is not set: it must say what ACCESS_X_KEY allows, such as status,on"
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
        let all = variables(text).unwrap();
        let expected = [("API_KEY", "q\"x"), ("BMC_HOST", "192.0.2.1"), ("BMC_PASSWORD", "a b#c")];
        assert!(all.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(expected), "{all:?}");
        for (text, cause) in [
            ("\nBMC_HOST = a", "line 2: expected one NAME=value"),
            ("BMC_PASSWORD=hunter 2", "line 1: expected one NAME=value"),
            ("hunter2", "line 1: expected NAME=value"),
            ("A='hunter2", "line 1: expected every quote"),
        ] {
            let error = variables(text).unwrap_err();
            assert!(error.starts_with(cause) && !error.contains("hunter"), "{error}");
        }
    }

    #[test]
    fn the_readme_shows_the_same_variables() {
        let documented: Vec<_> = include_str!("../README.md")
            .lines()
            .skip_while(|line| *line != "## Configuration")
            .filter(|line| line.starts_with("| `"))
            .take(VARIABLES.len())
            .collect();
        for (line, variable) in documented.iter().zip(VARIABLES) {
            let Variable { name, default, meaning, from_file } = variable;
            let file = if *from_file { format!(", `{name}_FILE`") } else { String::new() };
            assert_eq!(*line, format!("| `{name}`{file} | {default} | {meaning} |"));
        }
        assert_eq!(documented.len(), VARIABLES.len());
    }
}
