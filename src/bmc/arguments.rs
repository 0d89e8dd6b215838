//! The one command line for an authorised command: `Authorised` becomes an `Invocation`.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::auth::Authorised;
use crate::process::{Invocation, MAX_OUTPUT};
use crate::secret::{Credential, Secret};
use crate::server::Server;
use crate::timing::{CHANGE_PATIENCE, READ_PATIENCE};

/// How to reach one BMC.
#[derive(Debug)]
pub struct Target {
    pub server: Server,
    pub program: PathBuf,
    pub host: String,
    pub port: u16,
    pub user: Credential,
    pub password: Credential,
    pub kg_key: Option<Credential>,
    pub cipher_suite: CipherSuite,
    pub privilege: Privilege,
    pub extra: ExtraArguments,
    pub boot_mode: BootMode,
}

/// The list of 180 sensors has 21 KB. A server has a few hundred of them, and their names may be of any kind.
const MAX_SENSOR_OUTPUT: usize = 512 * 1024;

/// The runs that read the sensors.
#[derive(Debug, Clone, Copy)]
pub enum SensorPart<'a> {
    /// How many definitions the BMC has, and when they changed (IPMI 2.0, 33.9).
    Repository,
    /// The BMC's model and firmware (IPMI 2.0, 20.1).
    Controller,
    /// Writes the definitions to a file.
    Dump(&'a Path),
    /// Reads every sensor, by the definitions in a file or by those of the BMC.
    List(Option<&'a Path>),
}

/// `nas: 192.0.2.1:623 as admin`: how the log names it.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}:{} as {}", self.server, self.host, self.port, text(&self.user.current()))
    }
}

/// A user is text: its check was made on text.
fn text(user: &Secret) -> Cow<'_, str> {
    String::from_utf8_lossy(user.expose())
}

impl Target {
    /// What decides which controller answers: the address, and the extra arguments, which can name one behind it.
    pub fn address(&self) -> String {
        format!("{}:{} {}", self.host, self.port, self.extra.0.join(" "))
    }
}

/// User, password and KG key as of one moment.
#[derive(Debug, Clone)]
pub struct Login {
    user: Secret,
    password: Secret,
    kg_key: Option<Secret>,
}

impl Login {
    #[cfg(test)]
    pub fn of_test(user: &str, password: &str) -> Self {
        Self { user: Secret::new(user), password: Secret::new(password), kg_key: None }
    }

    #[cfg(test)]
    #[must_use]
    pub fn with_kg_key(self, key: &str) -> Self {
        Self { kg_key: Some(Secret::new(key)), ..self }
    }

    pub fn is(&self, other: &Self) -> bool {
        let same = |own: &Secret, other: &Secret| own.matches(other.expose());
        let same_kg_key = match (&self.kg_key, &other.kg_key) {
            (Some(own), Some(other)) => same(own, other),
            (own, other) => own.is_none() && other.is_none(),
        };
        same(&self.user, &other.user) && same(&self.password, &other.password) && same_kg_key
    }
}

/// Digits of a KG key: it has 20 bytes (IPMI 2.0, 13.31).
const KG_DIGITS: usize = 40;

/// The digits of a KG key in hexadecimal: behind `0x`, or all 40. Text never has so many.
#[must_use]
pub fn kg_digits(key: &[u8]) -> Option<&[u8]> {
    key.strip_prefix(b"0x").or_else(|| (key.len() == KG_DIGITS).then_some(key))
}

/// The bytes that these digits spell, if they are digits and no more than a KG key has.
#[must_use]
pub fn kg_bytes(digits: &[u8]) -> Option<Vec<u8>> {
    if digits.len() > KG_DIGITS || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let byte =
        |pair: &[u8]| (pair.len() == 2).then(|| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok())?;
    digits.chunks(2).map(byte).collect()
}

/// A KG key as `ipmitool` takes it from its environment: the bytes themselves. It fills them up with zeros.
fn kg_for_environment(key: &Secret) -> Secret {
    let Some(mut bytes) = kg_digits(key.expose()).and_then(kg_bytes) else { return key.clone() };
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    Secret::new(bytes)
}

/// The algorithms of a session (IPMI 2.0, 22.15.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CipherSuite {
    Number(u8),
    /// `ipmitool` asks the BMC for its best suite. A BMC that ignores the question costs 10 s.
    Auto,
}

impl CipherSuite {
    /// No authentication at all.
    pub const NONE: Self = Self::Number(0);

    /// The last suite that IPMI 2.0 defines.
    const LAST: u8 = 17;

    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        let number = text.parse().ok().filter(|number| *number <= Self::LAST);
        number.map(Self::Number).ok_or_else(|| "expected a number such as 3 or 17, or auto".to_owned())
    }
}

/// The session's privilege level (IPMI 2.0, 22.18). `ipmitool` asks for ADMINISTRATOR by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Privilege(&'static str);

impl Privilege {
    const ADMINISTRATOR: &str = "ADMINISTRATOR";

    const LEVELS: [&str; 4] = ["CALLBACK", "USER", "OPERATOR", Self::ADMINISTRATOR];

    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let level = Self::LEVELS.into_iter().find(|level| text.eq_ignore_ascii_case(level));
        level.map(Self).ok_or_else(|| format!("expected one of {}", Self::LEVELS.join(", ")))
    }
}

/// How the firmware of the server starts its next boot. A firmware of one mode ignores a wish for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootMode(&'static [&'static str]);

impl BootMode {
    /// The words of `BMC_BOOT`, with what `ipmitool` gets behind the device (IPMI 2.0, 28.13, parameter 5).
    const MODES: [(&str, Self); 2] = [("efi", Self(&["options=efiboot"])), ("legacy", Self(&[]))];

    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mode = Self::MODES.into_iter().find(|(word, _)| text.eq_ignore_ascii_case(word));
        mode.map(|(_, mode)| mode).ok_or_else(|| "expected efi or legacy".to_owned())
    }
}

/// Arguments that the operator adds. None of them can change what a run does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraArguments(Vec<String>);

/// What may stand behind an option.
#[derive(Clone, Copy)]
enum Value {
    OneOf(&'static [&'static str]),
    /// 0 to 255, decimal or as 0x20. `ipmitool` takes a leading zero for octal, and does nothing at 08.
    Byte,
}

impl Value {
    fn fits(self, text: &str) -> bool {
        match (self, text.strip_prefix("0x")) {
            (Self::OneOf(words), _) => words.contains(&text),
            (Self::Byte, Some(digits)) => !digits.starts_with('+') && u8::from_str_radix(digits, 16).is_ok(),
            (Self::Byte, None) => text.parse::<u8>().is_ok_and(|byte| byte.to_string() == text),
        }
    }
}

impl ExtraArguments {
    /// Options for BMCs that need them. Values are narrow: on `-o list` or a bad `-l` `ipmitool` ends with exit code 0 and
    /// does nothing, it takes `-A NONE` as "no password", and with `-o i82571spt` or `-m` it leaves out the lines that
    /// tell whether a change may have been sent.
    const OPTIONS: &[(&str, Value)] = &[
        ("-o", Value::OneOf(&["intelplus", "icts", "supermicro", "intelwv2", "kontron", "quanta"])),
        ("-A", Value::OneOf(&["MD2", "MD5", "PASSWORD", "OEM", "RMCP+"])),
        ("-l", Value::Byte),
        ("-t", Value::Byte),
        ("-b", Value::Byte),
        ("-T", Value::Byte),
        ("-B", Value::Byte),
    ];

    /// The variable that sets an option which does not belong here.
    const INSTEAD: &[(char, &str)] = &[
        ('H', "BMC_HOST"),
        ('p', "BMC_PORT"),
        ('U', "BMC_USER"),
        ('P', "BMC_PASSWORD"),
        ('f', "BMC_PASSWORD_FILE"),
        ('k', "BMC_KG_KEY"),
        ('K', "BMC_KG_KEY"),
        ('y', "BMC_KG_KEY"),
        ('Y', "BMC_KG_KEY"),
        ('C', "BMC_CIPHER_SUITE"),
        ('L', "BMC_PRIVILEGE"),
        ('N', "REQUEST_TIMEOUT"),
        ('v', "RUST_LOG=debug"),
    ];

    /// Splits as a shell does. Any other argument could repeat a change (`-R`), print the password (`-vvv`) or be a command
    /// of its own. Only the options above pass, each with a value that fits.
    ///
    /// # Errors
    /// What is not allowed, and what to use instead. Of the text only an option's letter is repeated: the rest may be a
    /// password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words = shell_words::split(text).map_err(|_| "expected every quote to be closed".to_owned())?;
        for pair in words.chunks(2) {
            let Some((option, value)) = Self::OPTIONS.iter().find(|(option, _)| *option == pair[0]) else {
                return Err(Self::rejection(&pair[0]));
            };
            if !pair.get(1).is_some_and(|text| value.fits(text)) {
                return Err(match value {
                    Value::Byte => format!("{option} needs a number from 0 to 255, such as {option} 0x20"),
                    Value::OneOf(words) => format!("{option} needs one of {}", words.join(", ")),
                });
            }
        }
        let last = |option: &str| words.chunks(2).rev().find(|pair| pair[0] == option).map(|pair| &pair[1]);
        let is_zero = |byte: &String| byte.trim_start_matches("0x").bytes().all(|digit| digit == b'0');
        if last("-T").is_some() && last("-t").is_none_or(is_zero) {
            return Err("-T needs -t as well, and not 0: the controller behind the transit one".to_owned());
        }
        Ok(Self(words))
    }

    fn rejection(word: &str) -> String {
        let options: Vec<_> = Self::OPTIONS.iter().map(|(option, _)| *option).collect();
        let expected = format!("expected {}, each with its value", options.join(" "));
        let Some(letter) = word.strip_prefix('-').and_then(|rest| rest.chars().next()) else {
            return format!("a word without an option is not allowed: {expected}");
        };
        match Self::INSTEAD.iter().find(|(wrong, _)| *wrong == letter) {
            Some((_, variable)) => format!("-{letter} is not for here: use {variable}"),
            None => format!("-{} is not allowed like this: {expected}", letter.escape_debug()),
        }
    }
}

impl Target {
    /// Asks the program for its version.
    pub fn version_question(&self) -> Invocation {
        Invocation {
            program: self.program.clone(),
            arguments: vec!["-V".to_owned()],
            secrets: Vec::new(),
            max_output: MAX_OUTPUT,
        }
    }

    /// Keeps the login as it is now; see [`Credential::watch`].
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn watch(&self) -> io::Result<()> {
        [&self.user, &self.password].into_iter().chain(&self.kg_key).try_for_each(Credential::watch)
    }

    pub fn login(&self) -> Login {
        let kg_key = self.kg_key.as_ref().map(Credential::current);
        Login { user: self.user.current(), password: self.password.current(), kg_key }
    }

    /// Nothing in the command line comes from a request.
    pub fn invocation(&self, authorised: &Authorised, login: &Login) -> Invocation {
        self.with_words(authorised, login, authorised.command().name().split(' '))
    }

    /// A part of reading the sensors. `None` if the command is another one, or the folder's name is no UTF-8.
    pub fn sensor_invocation(
        &self,
        authorised: &Authorised,
        login: &Login,
        part: &SensorPart,
    ) -> Option<Invocation> {
        let command = Some(authorised.command()).filter(|command| command.reads_sensors())?;
        let list = command.name().split(' ');
        Some(match part {
            SensorPart::Repository => self.with_words(authorised, login, ["sdr", "info"].into_iter()),
            SensorPart::Controller => self.with_words(authorised, login, ["mc", "info"].into_iter()),
            SensorPart::Dump(file) => {
                self.with_words(authorised, login, ["sdr", "dump", file.to_str()?].into_iter())
            }
            SensorPart::List(None) => self.with_words(authorised, login, list),
            SensorPart::List(Some(file)) => {
                self.with_words(authorised, login, ["-S", file.to_str()?].into_iter().chain(list))
            }
        })
    }

    fn with_words<'a>(
        &self,
        authorised: &Authorised,
        login: &Login,
        words: impl Iterator<Item = &'a str>,
    ) -> Invocation {
        let command = authorised.command();
        // Without -v a wrong password and a dead host fail with the same words.
        let mut arguments: Vec<String> = ["-I", "lanplus", "-v"].map(str::to_owned).into();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
        add(if command.is_change() { &CHANGE_PATIENCE } else { &READ_PATIENCE });
        add(&["-H", &self.host, "-p", &self.port.to_string()]);
        add(&["-U", &text(&login.user), "-E"]); // the password comes by the environment
        let mut secrets = vec![("IPMITOOL_PASSWORD", login.password.clone())];
        if let Some(key) = &login.kg_key {
            add(&["-K"]); // so does the key
            secrets.push(("IPMI_KGKEY", kg_for_environment(key)));
        }
        if let CipherSuite::Number(number) = self.cipher_suite {
            add(&["-C", &number.to_string()]);
        }
        if self.privilege.0 != Privilege::ADMINISTRATOR {
            add(&["-L", self.privilege.0]);
        }
        arguments.extend(self.extra.0.iter().cloned());
        arguments.extend(words.map(str::to_owned));
        if command.takes_boot_mode() {
            arguments.extend(self.boot_mode.0.iter().map(|word| (*word).to_owned()));
        }
        let max_output = if command.reads_sensors() { MAX_SENSOR_OUTPUT } else { MAX_OUTPUT };
        Invocation { program: self.program.clone(), arguments, secrets, max_output }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Key, Keys};
    use crate::command::Command;
    use crate::http::Head;
    use proptest::prelude::*;
    use proptest::sample::select;

    #[test]
    fn extra_arguments_are_few_and_plain() {
        for good in ["", "-o supermicro", "-t 0x20 -b 6", "-l '0'", "-t 0x72 -T 0x82 -B 0", "-A RMCP+"] {
            assert!(ExtraArguments::parse(good).is_ok(), "{good}");
        }
        for (bad, word) in [
            ("-R 4", "-R is not allowed"),
            ("-vvv", "use RUST_LOG=debug"),
            ("-P secret", "use BMC_PASSWORD"),
            ("-Psecret", "use BMC_PASSWORD"),
            ("-k secret", "use BMC_KG_KEY"),
            ("-ysecret", "use BMC_KG_KEY"),
            ("-N 1", "use REQUEST_TIMEOUT"),
            ("-L USER", "use BMC_PRIVILEGE"),
            ("power off", "a word without an option"),
            ("-t 0x20 power off", "a word without an option"),
            ("-t", "-t needs a number"),
            ("-t ''", "-t needs a number"),
            ("-t 256", "-t needs a number"),
            ("-t +1", "-t needs a number"),
            ("-o -R", "-o needs one of"),
            ("-o list", "-o needs one of"),
            ("-A NONE", "-A needs one of"),
            ("-m 0x20", "-m is not allowed"),
            ("-T 0x82", "-T needs -t"),
            ("-t0x20", "-t is not allowed like this"),
            ("-", "a word without an option"),
            ("-o 'a", "every quote"),
        ] {
            let error = ExtraArguments::parse(bad).unwrap_err();
            assert!(error.contains(word) && !error.contains("secret"), "{bad}: {error}");
        }
    }

    #[test]
    fn cipher_suites_and_privileges_are_those_of_the_standard() {
        for good in ["0", "3", "17", "auto", "AUTO"] {
            assert!(CipherSuite::parse(good).is_ok(), "{good}");
        }
        for bad in ["three", "18", "-1", "3 ", "0x3", "256"] {
            assert!(CipherSuite::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Privilege::parse("operator"), Ok(Privilege("OPERATOR")));
        assert!(Privilege::parse("KING").is_err());
        assert!(BootMode::parse("EFI").is_ok() && BootMode::parse("uefi").is_err());
    }

    #[test]
    fn a_kg_key_is_text_or_hexadecimal() {
        let forty = format!("01{}", "0".repeat(38));
        for (key, bytes) in [
            ("sesame", &b"sesame"[..]),
            ("0x73657361fF", b"sesa\xff"),
            ("0x4142000000", b"AB"),
            (&forty, b"\x01"),
            ("4142", b"4142"),
        ] {
            assert_eq!(kg_for_environment(&Secret::new(key)).expose(), bytes, "{key}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

        #[test]
        fn no_extra_argument_is_a_command_or_overrides_the_fixed_part(
            words in arguments(),
            command in select(Command::all().collect::<Vec<_>>()),
            user in "[ -~]{1,16}",
            (_, boot_mode) in select(&BootMode::MODES[..]),
            kg_key in select(&[None, Some("kg-s3cret"), Some("0xff00")][..]),
        ) {
            let Ok(extra) = ExtraArguments::parse(&words) else { return Ok(()) };
            let fixed = |value: &str| Credential::fixed(value, |_| Ok(())).unwrap();
            let target = Target {
                server: Server::PLAIN,
                program: "/usr/bin/ipmitool".into(),
                host: "192.0.2.1".to_owned(),
                port: 623,
                user: fixed(&user),
                password: fixed("s3cret-n0where-else"),
                kg_key: kg_key.map(fixed),
                cipher_suite: CipherSuite::Number(3),
                privilege: Privilege("OPERATOR"),
                extra,
                boot_mode,
            };
            let head = Head::parse(b"GET / HTTP/1.0\r\nX-API-Key: k\r\n\r\n", String::new()).unwrap();
            let keys = Keys(vec![Key { name: "k".into(), credential: fixed("k"), allows: Command::words(), servers: None }]);
            let authorised = keys.authorise(&head, &Server::PLAIN, command).unwrap();
            let arguments = target.invocation(&authorised, &target.login()).arguments;
            let (options, free) = as_ipmitool_reads(&arguments);
            let is_list = command.reads_sensors();
            let mode = if command.takes_boot_mode() { boot_mode.0 } else { &[] };
            let words = command.name().trim_start_matches("-c ").split(' ').chain(mode.iter().copied());
            prop_assert_eq!(free, words.collect::<Vec<_>>());
            prop_assert_eq!(options.contains(&('c', "")), is_list);
            let (seconds, tries) = if command.is_change() { ("4", "1") } else { ("2", "2") };
            for (option, value) in [
                ('I', "lanplus"),
                ('v', ""),
                ('N', seconds),
                ('R', tries),
                ('H', "192.0.2.1"),
                ('p', "623"),
                ('U', &user),
                ('E', ""),
                ('C', "3"),
                ('L', "OPERATOR"),
            ] {
                let values: Vec<_> = options.iter().filter(|(own, _)| *own == option).collect();
                prop_assert_eq!(values, [&(option, value)]);
            }
            prop_assert_eq!(options.iter().filter(|(option, _)| *option == 'K').count(), usize::from(kg_key.is_some()));
            let others = options.iter().filter(|(option, _)| !"IvNRHpUECLKc".contains(*option));
            for (option, value) in others {
                prop_assert!("oAltbTB".contains(*option) && !value.is_empty(), "-{} {}", option, value);
            }
            prop_assert!(!arguments.iter().any(|argument| argument.contains("s3cret") || argument.contains("ff00")));
        }

        /// It may be a password that stands in the wrong variable.
        #[test]
        fn a_rejected_argument_is_not_repeated(before in arguments(), after in arguments(), option in OPTION) {
            for secret in ["hunter2hunter2", "-phunter2hunter2", "'hunter2hunter2", "$hunter2hunter2"] {
                for between in ["", " "] {
                    let text = format!("{before} {option}{between}{secret} {after}");
                    let error = ExtraArguments::parse(&text).err().unwrap_or_default();
                    prop_assert!(!error.contains("hunter2"), "{}", error);
                }
            }
        }

        /// Each problem at the start is one line.
        #[test]
        fn an_error_is_one_plain_line(words in arguments()) {
            if let Err(error) = ExtraArguments::parse(&words) {
                prop_assert!(!error.contains(char::is_control), "{error:?}");
            }
        }
    }

    const OPTION: &str = "-[a-zA-Z0-9]";

    /// Text of options that pass, options that must not, commands, quotes and noise.
    fn arguments() -> impl Strategy<Value = String> {
        let good = select(
            &[
                "-o supermicro",
                "-A MD5",
                "-l 0",
                "-t 0x20",
                "-b 6",
                "-T 0x82",
                "-B 0",
                "-t '32'",
                "'-o' \"icts\"",
            ][..],
        );
        let bad = select(
            &[
                "-o",
                "-R",
                "-N",
                "-v",
                "-vvv",
                "-P",
                "-f",
                "-I",
                "power",
                "off",
                "power off",
                "--",
                "-",
                "'",
                "\\",
            ][..],
        );
        let word = prop_oneof![
            6 => good.prop_map(str::to_owned),
            1 => bad.prop_map(str::to_owned),
            1 => OPTION,
            2 => select(
                &[
                    "-I lan", "-H other", "-p 624", "-U root", "-E", "-C 17", "-L USER", "-N 9", "-R 4", "-v", "-P x",
                    "-f 1", "-k 0", "-y 0",
                ][..],
            )
            .prop_map(str::to_owned),
            1 => "-[a-zA-Z] ?(0|4|0x20|MD5|supermicro|USER)",
            1 => "\\PC{0,6}",
            1 => any::<String>(),
            1 => any::<char>().prop_map(|letter| format!("'-{letter}'")),
        ];
        prop::collection::vec(word, 0..5).prop_map(|words| words.join(" "))
    }

    /// Options with their values, and the free words: as getopt(3) splits them by `ipmitool` 1.8.19's own list.
    fn as_ipmitool_reads(arguments: &[String]) -> (Vec<(char, &str)>, Vec<&str>) {
        const WITH_VALUE: &str = "IHdPfUpCLAtTmzSlbBeokyORND";
        let (mut options, mut free) = (Vec::new(), Vec::new());
        let mut rest = arguments.iter().map(String::as_str);
        while let Some(word) = rest.next() {
            let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
                free.push(word);
                continue;
            };
            for (at, letter) in letters.char_indices() {
                if !WITH_VALUE.contains(letter) {
                    options.push((letter, ""));
                    continue;
                }
                let attached = &letters[at + letter.len_utf8()..];
                let value = if attached.is_empty() { rest.next().unwrap_or_default() } else { attached };
                options.push((letter, value));
                break;
            }
        }
        (options, free)
    }
}
