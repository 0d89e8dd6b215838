//! The environment as a `Config`, or every `StartupError` at once, each naming the variable and the remedy.

mod checks;
mod help;
mod keys;
mod reader;
mod servers;
pub mod variables;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

pub use self::help::help;
use self::reader::Reader;
use self::variables::{
    Fallback, IPMITOOL, LISTEN_ADDR, POWER_COOLDOWN, REQUEST_TIMEOUT, RUST_LOG, STATE_DIR,
};
use crate::auth::Keys;
use crate::bmc::arguments::Target;
use crate::process::find_program;

/// Everything that the program must know before it starts.
#[derive(Debug)]
pub struct Config {
    pub keys: Keys,
    /// How to reach each BMC, of which there is at least one: first that without a name, then in the order of `SERVERS`.
    pub targets: Vec<Target>,
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
    /// All that is wrong.
    pub fn read(lookup: Lookup, names: impl Iterator<Item = String>) -> Result<Self, Vec<StartupError>> {
        let mut reader = Reader::new(lookup)?;
        let names: BTreeSet<_> = names.chain(reader.file.keys().cloned()).collect();
        // Every variable is read before the first `?`, so that every error is reported.
        let servers = reader.servers();
        let keys = reader.keys(&names, servers.as_deref());
        let program = reader.program();
        let targets = reader.targets(servers.as_deref(), program.as_ref());
        let listen = reader.value(&LISTEN_ADDR);
        let request_timeout = reader.value(&REQUEST_TIMEOUT);
        let cooldown = reader.value(&POWER_COOLDOWN);
        let log_level = reader.log_level();
        let state_dir = reader.value(&STATE_DIR);
        reader.warn_of_unlisted(&names, servers.as_deref().unwrap_or_default());
        let Reader { errors, warnings, .. } = reader;
        let config = || {
            Some(Self {
                keys,
                targets,
                listen: listen?,
                request_timeout: request_timeout?,
                cooldown: cooldown?,
                log_level: log_level?,
                state_dir: state_dir?,
                warnings,
            })
        };
        // A wrong key or server adds an error but leaves no field unset, so the errors are checked as well.
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

impl Reader<'_> {
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

#[cfg(test)]
mod tests {
    use super::checks::NEW_KEY;
    use super::reader::lines;
    use super::*;
    use crate::bmc::arguments::CipherSuite;
    use crate::command::Command;
    use crate::server::listed;
    use std::path::Path;

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
        assert_eq!(named, ["API_KEY", "IPMITOOL", "BMC_HOST", "BMC_USER", "BMC_PASSWORD"]);
    }

    #[test]
    fn an_empty_variable_is_unset() {
        let config = read(&[("BMC_PORT", ""), ("LISTEN_ADDR", ""), ("API_KEY_FILE", "")]).unwrap();
        assert_eq!(config.targets[0].port, 623);
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
            assert_eq!((&config.targets[0].host[..], config.targets[0].port), ("192.0.2.9", 624));
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
    fn a_kg_key_that_ipmitool_cannot_take_is_refused_and_never_repeated() {
        let spelt = "expected 0x and pairs of hexadecimal digits, at most 20 of them";
        let zero = "its first byte is 00, which stands for no KG key: leave it unset if the BMC has none";
        for (key, cause) in [
            ("0x414", spelt),
            ("0x", spelt),
            ("0x4g", spelt),
            (&format!("0x{}", "41".repeat(21)), spelt),
            (&"z".repeat(40), spelt),
            (&"0".repeat(40), zero),
            ("0x0041", zero),
            ("0x410042", "it has a byte 00 before others, which no environment variable can hold"),
            (&"k".repeat(21), "expected 1 to 20 bytes without control characters, as IPMI allows; it has 21"),
        ] {
            assert_eq!(read(&[("BMC_KG_KEY", key)]).unwrap_err(), [format!("BMC_KG_KEY: {cause}")]);
        }
        for key in ["sesame", "0x41", "0x4100", &format!("0x{}", "41".repeat(20)), &"4f".repeat(20)] {
            assert!(read(&[("BMC_KG_KEY", key)]).unwrap().targets[0].kg_key.is_some(), "{key}");
        }
        assert!(read(&[]).unwrap().targets[0].kg_key.is_none());
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

    /// Two servers, with a login for both.
    fn two(changes: &[(&'static str, &'static str)]) -> Result<Config, Vec<String>> {
        let base = [
            ("BMC_HOST", ""),
            ("SERVERS", "nas, lab-2"),
            ("BMC_NAS_HOST", "192.0.2.10"),
            ("BMC_LAB_2_HOST", "192.0.2.11"),
        ];
        read(&changes.iter().copied().chain(base).collect::<Vec<_>>())
    }

    #[test]
    fn each_server_has_its_own_variables_and_falls_back_on_the_plain_ones() {
        let config = two(&[
            ("BMC_LAB_2_PORT", "624"),
            ("BMC_LAB_2_USER", "lab"),
            ("BMC_LAB_2_PASSWORD", "other"),
            ("BMC_CIPHER_SUITE", "17"),
            ("BMC_NAS_CIPHER_SUITE", "3"),
            ("BMC_LAB_2_IPMITOOL_ARGS", "-o supermicro"),
            ("BMC_PRIVILEGE", "OPERATOR"),
        ]);
        let config = config.unwrap();
        let shown: Vec<_> = config.targets.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["nas: 192.0.2.10:623 as admin", "lab-2: 192.0.2.11:624 as lab"]);
        let [nas, lab] = &config.targets[..] else { panic!("two targets") };
        assert_eq!((nas.cipher_suite, lab.cipher_suite), (CipherSuite::Number(3), CipherSuite::Number(17)));
        assert_eq!(
            (nas.password.current().expose(), lab.password.current().expose()),
            (&b"s3cret"[..], &b"other"[..])
        );
        assert!(nas.extra != lab.extra && nas.privilege == lab.privilege);
        assert_eq!(config.warnings, <[String; 0]>::default());
    }

    #[test]
    fn the_server_without_a_name_stands_first() {
        let config = two(&[("BMC_HOST", "192.0.2.9")]).unwrap();
        let names: Vec<_> = config.targets.iter().map(|target| target.server.name()).collect();
        assert_eq!(names, [None, Some("nas"), Some("lab-2")]);
    }

    #[test]
    fn a_mistake_in_a_server_is_told_by_the_variable_that_has_it() {
        let many = (0..17).map(|number| format!("s{number}")).collect::<Vec<_>>().join(",");
        let many: &'static str = many.leak();
        let names =
            "expected names of 1 to 32 small letters, digits and - with commas between them, such as nas,lab";
        let list = |value: &str, cause: &str| format!("SERVERS is {value:?}: {cause}");
        for (name, value, expected) in [
            ("SERVERS", "NAS", list("NAS", names)),
            ("SERVERS", "nas,", list("nas,", names)),
            ("SERVERS", "nas;lab", list("nas;lab", names)),
            ("SERVERS", "nas lab", format!("SERVERS: {names}")),
            ("SERVERS", "lab_2", list("lab_2", names)),
            ("SERVERS", "192.0.2.1", list("192.0.2.1", names)),
            ("SERVERS", "nas,nas", list("nas,nas", "nas stands there twice: expected each name once")),
            ("SERVERS", many, list(many, "expected at most 16 names; it has 17")),
            (
                "SERVERS",
                "nas,lab-2,new",
                "BMC_NEW_HOST is not set: it is required, since SERVERS names new".to_owned(),
            ),
            ("SERVERS", "", "BMC_HOST is not set: it is required, unless SERVERS names servers".to_owned()),
            (
                "BMC_LAB_2_HOST",
                "http://lab",
                "BMC_LAB_2_HOST is \"http://lab\": expected a host name or an address, without a scheme, brackets or a \
                 port (the port goes into BMC_PORT)"
                    .to_owned(),
            ),
            (
                "BMC_LAB_2_PORT",
                "0",
                "BMC_LAB_2_PORT is \"0\": expected a UDP port from 1 to 65535".to_owned(),
            ),
            ("BMC_PORT", "0", "BMC_PORT is \"0\": expected a UDP port from 1 to 65535".to_owned()),
            (
                "BMC_NAS_PASSWORD",
                "a-password-of-22-bytes",
                "BMC_NAS_PASSWORD: expected 1 to 20 bytes without control characters, as IPMI allows; it has 22"
                    .to_owned(),
            ),
        ] {
            assert_eq!(two(&[(name, value)]).unwrap_err(), [expected], "{name}={value}");
        }
    }

    #[test]
    fn a_login_that_is_missing_is_told_for_each_server_that_lacks_it() {
        let errors = two(&[("BMC_USER", ""), ("BMC_NAS_USER", "admin")]).unwrap_err();
        assert_eq!(
            errors,
            [
                "BMC_USER is not set: it is required, as BMC_USER or BMC_USER_FILE, or for lab-2 alone as BMC_LAB_2_USER"
            ]
        );
    }

    #[test]
    fn a_key_is_for_servers_that_are_there() {
        const KEY: (&str, &str) = ("ACCESS_X_KEY", "0123456789abcdefg");
        const ALLOW: (&str, &str) = ("ACCESS_X_ALLOW", "on");
        let config = two(&[KEY, ALLOW, ("ACCESS_X_SERVERS", "lab-2, nas")]).unwrap();
        let servers = config.keys.0[1].servers.as_deref().map(listed);
        assert_eq!(servers.as_deref(), Some("lab-2, nas"));
        assert!(two(&[KEY, ALLOW]).unwrap().keys.0[1].servers.is_none());
        let wrong = |changes| two(changes).unwrap_err().join("; ");
        assert_eq!(
            wrong(&[KEY, ALLOW, ("ACCESS_X_SERVERS", "lab")]),
            "ACCESS_X_SERVERS: expected some of nas, lab-2, which SERVERS names"
        );
        assert_eq!(
            wrong(&[("ACCESS_X_SERVERS", "nas")]),
            "ACCESS_X_KEY is not set: ACCESS_X_SERVERS says where it would allow it"
        );
        let one = read(&[KEY, ALLOW, ("ACCESS_X_SERVERS", "nas")]).unwrap_err();
        assert_eq!(one, ["ACCESS_X_SERVERS: SERVERS is not set, so there is no server to name"]);
    }

    #[test]
    fn what_is_risky_in_a_list_of_servers_is_warned_of() {
        for (changes, expected) in [
            (
                &[("BMC_NEW_HOST", "192.0.2.12")][..],
                "BMC_NEW_HOST is set, and ignored: SERVERS does not name new",
            ),
            (
                &[("BMC_LAB_2_HOST", "192.0.2.10")],
                "BMC_LAB_2_HOST is the same BMC as BMC_NAS_HOST: expected each BMC once",
            ),
            (
                &[("BMC_NAS_CIPHER_SUITE", "0")],
                "BMC_NAS_CIPHER_SUITE is 0: the BMC then takes any password; use 3 or 17",
            ),
            (
                &[("BMC_CIPHER_SUITE", "0")],
                "BMC_CIPHER_SUITE is 0: the BMC then takes any password; use 3 or 17",
            ),
            (
                &[
                    ("BMC_NAS_PORT", "tcp://10.0.0.1:80"),
                    ("BMC_PORT", "624"),
                    ("BMC_NAS_SERVICE_HOST", "10.0.0.1"),
                ],
                "BMC_NAS_PORT is \"tcp://10.0.0.1:80\", which Kubernetes made for a Service named bmc-nas: it is ignored; \
                 enableServiceLinks: false in the pod avoids it",
            ),
        ] {
            let config = two(changes).unwrap();
            assert_eq!(config.warnings, [expected], "{changes:?}");
            assert!(changes.len() == 1 || config.targets[0].port == 624);
        }
    }

    #[test]
    fn a_limit_of_a_key_that_is_misspelled_is_warned_of() {
        let key = [("ACCESS_X_KEY", "0123456789abcdefg"), ("ACCESS_X_ALLOW", "on")];
        let warnings = |name| two(&[key[0], key[1], (name, "nas")]).unwrap().warnings;
        let expected = "ACCESS_X_SERVER is set, and ignored: expected ACCESS_X_ALLOW or ACCESS_X_SERVERS";
        assert_eq!(warnings("ACCESS_X_SERVER"), [expected]);
        assert_eq!(warnings("ACCESS_X_SERVERS"), [""; 0]);
    }

    /// The nodes of a chassis can share one address.
    #[test]
    fn controllers_behind_one_address_are_different_bmcs() {
        let behind = [("BMC_LAB_2_HOST", "192.0.2.10"), ("BMC_LAB_2_IPMITOOL_ARGS", "-t 0x24")];
        assert_eq!(two(&behind).unwrap().warnings, [""; 0]);
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
