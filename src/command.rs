//! THE TABLE of commands: everything that this program can ask a BMC to do. A method and a path select a row, and
//! nothing else of a request does.

use std::fmt;

use crate::http::Method::{self, Get, Head, Post};
use crate::readings::{Answer, chassis, power_reading, power_status};
use crate::server::Server;

/// A row of the table. To add a command, add its row here, its row in README.md (a test holds the two together) and its
/// test.
struct Row {
    /// Without the server's name.
    path: &'static str,
    /// What access lists call it. Commands that belong together share a word.
    word: &'static str,
    /// `ipmitool`'s last arguments, separated by spaces. Replies and the log use them as the command's name.
    name: &'static str,
    effect: Effect,
    /// Some BMCs lack it. Every BMC can switch power.
    may_be_lacked: bool,
    /// `ipmitool`'s words go on with the boot mode, which the configuration of the BMC says.
    takes_boot_mode: bool,
}

/// What a command does decides its method, so that a GET never acts.
enum Effect {
    /// Asking again is harmless, and several callers may share the answer.
    Read {
        /// Reads standard output. `None` if the answer is not there.
        parse: fn(&str) -> Option<Answer>,
        /// A member of every failure's reply: Home Assistant's rest sensor reads the body whatever the status.
        when_failed: Option<(&'static str, &'static str)>,
    },
    /// Reads every sensor, which takes some BMCs longer than a request may take. It has a queue of its own, and its
    /// answer may be a little older than the question.
    ReadSensors,
    /// Is sent at most once.
    Change {
        /// The line that `ipmitool` prints once the BMC has acknowledged the change.
        success: &'static str,
        /// A second restart in a row meets a server that is just starting. All other changes find done what they ask for.
        restarts: bool,
    },
}

const fn read(
    path: &'static str,
    word: &'static str,
    name: &'static str,
    parse: fn(&str) -> Option<Answer>,
) -> Row {
    let effect = Effect::Read { parse, when_failed: None };
    Row { path, word, name, effect, may_be_lacked: false, takes_boot_mode: false }
}

const fn change(path: &'static str, word: &'static str, name: &'static str, success: &'static str) -> Row {
    let effect = Effect::Change { success, restarts: false };
    Row { path, word, name, effect, may_be_lacked: false, takes_boot_mode: false }
}

const fn restart(path: &'static str, word: &'static str, name: &'static str, success: &'static str) -> Row {
    Row { effect: Effect::Change { success, restarts: true }, ..change(path, word, name, success) }
}

/// Says what the next boot starts from.
const fn boot(path: &'static str, name: &'static str, success: &'static str) -> Row {
    Row { takes_boot_mode: true, ..lacked_by_some(change(path, "boot", name, success)) }
}

const fn lacked_by_some(row: Row) -> Row {
    Row { may_be_lacked: true, ..row }
}

const fn read_sensors(path: &'static str, word: &'static str, name: &'static str) -> Row {
    Row { path, word, name, effect: Effect::ReadSensors, may_be_lacked: true, takes_boot_mode: false }
}

/// What decides about `ipmi-sidecar check`.
const POWER_STATUS: Row = Row {
    path: "/power/status",
    word: "status",
    name: "power status",
    effect: Effect::Read { parse: power_status, when_failed: Some(("power_state", "unknown")) },
    may_be_lacked: false,
    takes_boot_mode: false,
};

// Chassis Control is IPMI 2.0, 28.3. Off presses the power button: the operating system is asked to shut down.
// Force-off cuts the power. Cycle is off, and on again after at least a second. Reset never cuts the power.
// Boot is Set System Boot Options (28.12), for the next boot only.
#[rustfmt::skip] // a table
const COMMANDS: &[Row] = &[
    //       path,               word,        ipmitool's words, its line at success, or what reads its output
    POWER_STATUS,
    lacked_by_some(read("/power/reading", "reading", "dcmi power reading", power_reading)),
    read_sensors("/sensors",    "sensors",   "-c sdr elist full"),
    read   ("/chassis",         "chassis",   "chassis status", chassis),
    change ("/power/on",        "on",        "power on",       "Chassis Power Control: Up/On"),
    change ("/power/off",       "off",       "power soft",     "Chassis Power Control: Soft"),
    change ("/power/force-off", "force-off", "power off",      "Chassis Power Control: Down/Off"),
    restart("/power/cycle",     "cycle",     "power cycle",    "Chassis Power Control: Cycle"),
    restart("/power/reset",     "reset",     "power reset",    "Chassis Power Control: Reset"),
    lacked_by_some(change("/identify/on",  "identify", "chassis identify force", "Chassis identify interval: indefinite")),
    lacked_by_some(change("/identify/off", "identify", "chassis identify 0",     "Chassis identify interval: off")),
    boot   ("/boot/pxe",        "chassis bootdev pxe",         "Set Boot Device to pxe"),
    boot   ("/boot/bios",       "chassis bootdev bios",        "Set Boot Device to bios"),
    boot   ("/boot/disk",       "chassis bootdev disk",        "Set Boot Device to disk"),
    boot   ("/boot/cdrom",      "chassis bootdev cdrom",       "Set Boot Device to cdrom"),
    boot   ("/boot/none",       "chassis bootdev none",        "Set Boot Device to none"),
];

/// Characters of an unknown path or server that an error repeats.
pub const MAX_SHOWN: usize = 100;

/// The path that needs no key and no BMC: whether this program serves.
pub const HEALTH: &str = "/health";

/// A row of the table, and nothing else: no other command exists.
#[derive(Clone, Copy)]
pub struct Command(&'static Row);

impl Command {
    pub const POWER_STATUS: Self = Self(&POWER_STATUS);

    /// Every command, in the order of the table.
    pub fn all() -> impl Iterator<Item = Self> {
        COMMANDS.iter().map(Self)
    }

    /// Every word of access lists, once, in the order of the table.
    pub fn words() -> Vec<&'static str> {
        let mut words: Vec<_> = COMMANDS.iter().map(|row| row.word).collect();
        words.dedup();
        words
    }

    pub const fn path(self) -> &'static str {
        self.0.path
    }

    pub const fn word(self) -> &'static str {
        self.0.word
    }

    pub const fn name(self) -> &'static str {
        self.0.name
    }

    pub const fn is_change(self) -> bool {
        matches!(self.0.effect, Effect::Change { .. })
    }

    /// Whether it reads every sensor.
    pub const fn reads_sensors(self) -> bool {
        matches!(self.0.effect, Effect::ReadSensors)
    }

    /// Whether the server starts anew.
    pub const fn restarts(self) -> bool {
        matches!(self.0.effect, Effect::Change { restarts: true, .. })
    }

    /// Whether a BMC may lack it.
    pub const fn may_be_lacked(self) -> bool {
        self.0.may_be_lacked
    }

    /// Whether `ipmitool`'s words go on with the boot mode of the BMC's server.
    pub const fn takes_boot_mode(self) -> bool {
        self.0.takes_boot_mode
    }

    pub const fn method(self) -> Method {
        if self.is_change() { Post } else { Get }
    }

    /// The line at a change's success. A read has none.
    pub const fn success_line(self) -> Option<&'static str> {
        match self.0.effect {
            Effect::Change { success, .. } => Some(success),
            Effect::Read { .. } | Effect::ReadSensors => None,
        }
    }

    /// The answer that stands in this output, as whole lines.
    pub fn answer(self, stdout: &str) -> Option<Answer> {
        match self.0.effect {
            Effect::Read { parse, .. } => parse(stdout),
            Effect::ReadSensors => None, // it takes several runs, and bytes that are no text
            Effect::Change { success, .. } => stdout.lines().any(|line| line == success).then(|| Answer {
                line: success.to_owned(),
                members: vec![("output", success.into()), ("command", self.name().into())],
            }),
        }
    }

    /// A member of every failure's reply.
    pub const fn when_failed(self) -> Option<(&'static str, &'static str)> {
        match self.0.effect {
            Effect::Read { when_failed, .. } => when_failed,
            Effect::ReadSensors | Effect::Change { .. } => None,
        }
    }
}

/// Each path stands once in the table.
impl PartialEq for Command {
    fn eq(&self, other: &Self) -> bool {
        self.path() == other.path()
    }
}

impl Eq for Command {}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The path that needs a key and no BMC: which servers the key reaches.
pub const SERVERS: &str = "/servers";

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    Health,
    Servers,
    /// There need not be such a server.
    Command(Server, Command),
}

/// Why there is no such route.
#[derive(Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// The path, shortened.
    UnknownPath(String),
    /// The path exists; its methods, as `Allow` names them.
    WrongMethod { allow: &'static str },
}

/// Exactly the documented paths match: no trailing slash, no percent-encoding, no other case.
///
/// # Errors
/// `UnknownPath`, or `WrongMethod` for a known path.
pub fn find(method: &Method, path: &str) -> Result<Route, NoRoute> {
    let (server, rest) = of_server(path);
    let command = Command::all().find(|command| command.path() == rest);
    let (route, takes) = match command {
        Some(command) => (Route::Command(server, command), command.method()),
        None if path == HEALTH => (Route::Health, Get),
        None if path == SERVERS => (Route::Servers, Get),
        None => return Err(NoRoute::UnknownPath(path.escape_debug().take(MAX_SHOWN).collect())),
    };
    // RFC 9110, 9.3.2: HEAD is GET without the body.
    let asked = if *method == Head { &Get } else { method };
    if *asked == takes {
        Ok(route)
    } else {
        Err(NoRoute::WrongMethod { allow: if takes == Get { "GET, HEAD" } else { "POST" } })
    }
}

/// The server that a path names, and the rest of the path: `/servers/nas/power/on` is `/power/on` of `nas`.
fn of_server(path: &str) -> (Server, &str) {
    let named = path.strip_prefix(SERVERS).and_then(|rest| rest.strip_prefix('/'));
    match named.and_then(|rest| Some(rest.split_at(rest.find('/')?))) {
        Some((name, rest)) => (Server::named(name), rest),
        None => (Server::PLAIN, path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_documented_paths_match() {
        for path in [
            "",
            "/",
            "*",
            "//health",
            "/health/",
            "/Health",
            "/%68ealth",
            "/health;a",
            "/./health",
            "/power",
            "/power/",
            "/power/status/",
            "/power/../health",
            "/power//on",
            "/power/on%00",
            "/POWER/ON",
            "/power/soft",
            "/servers/",
            "/servers/nas",
            "/servers/nas/",
            "/servers/nas/health",
            "/servers/nas/servers",
            "/servers/nas/servers/lab/power/on",
            "/servers/nas/power/on/",
            "/servers/nas//power/on",
            "/server/nas/power/on",
            "/serversnas/power/on",
        ] {
            assert_eq!(find(&Get, path), Err(NoRoute::UnknownPath(path.to_owned())), "{path:?}");
        }
    }

    #[test]
    fn a_get_never_acts() {
        for command in Command::all() {
            for method in [Get, Head] {
                let acts = matches!(find(&method, command.path()), Ok(Route::Command(_, found)) if found.is_change());
                assert!(!acts, "{method} {}", command.path());
            }
        }
    }

    #[test]
    fn each_command_has_a_path_for_each_server() {
        for command in Command::all() {
            for name in ["nas", "lab-2", "NAS", "%", "."] {
                let found = find(&command.method(), &format!("/servers/{name}{}", command.path()));
                assert_eq!(found, Ok(Route::Command(Server::named(name), command)));
            }
        }
    }

    #[test]
    fn every_other_method_is_told_the_right_one() {
        for path in Command::all().map(Command::path).chain([HEALTH, SERVERS, "/servers/nas/power/on"]) {
            let allow = if find(&Get, path).is_ok() { "GET, HEAD" } else { "POST" };
            for method in ["PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "post", "BREW"] {
                let found = find(&method.parse().unwrap(), path);
                assert_eq!(found, Err(NoRoute::WrongMethod { allow }), "{method} {path}");
            }
        }
    }

    #[test]
    fn each_path_and_each_name_stands_once_and_each_word_in_one_piece() {
        let commands: Vec<_> = Command::all().collect();
        for (index, command) in commands.iter().enumerate() {
            let earlier = &commands[..index];
            assert!(!earlier.contains(command), "{}", command.path());
            assert!(earlier.iter().all(|other| other.name() != command.name()), "{command:?}");
        }
        let mut words = Command::words();
        words.sort_unstable();
        assert!(words.windows(2).all(|pair| pair[0] != pair[1]), "{words:?}");
    }

    #[test]
    fn the_readme_shows_the_same_routes() {
        let commands = Command::all().map(|row| {
            format!("| `{} {}` | `{}` | `{}` | ", row.method(), row.path(), row.word(), row.name())
        });
        let health = format!("| `GET {HEALTH}` | – | – | ");
        let servers = format!("| `GET {SERVERS}` | any key | – | ");
        let rows: Vec<_> = [health].into_iter().chain(commands).chain([servers]).collect();
        let readme = include_str!("../README.md");
        let documented: Vec<_> = readme
            .lines()
            .filter(|line| line.starts_with("| `GET /") || line.starts_with("| `POST /"))
            .collect();
        assert_eq!(documented.len(), rows.len(), "{documented:#?}");
        for (documented, row) in documented.iter().zip(rows) {
            assert!(documented.starts_with(&row), "README.md has {documented}, the table {row}");
        }
    }

    /// Of each route: method, path, word, `ipmitool`'s words and the line at success.
    #[test]
    fn the_openapi_document_shows_the_same_routes() {
        let rows = Command::all().map(|row| {
            let mut parts = vec![row.method().to_string(), row.path().to_owned()];
            parts.extend([row.word(), row.name()].map(str::to_owned));
            parts.extend(row.success_line().map(str::to_owned));
            parts
        });
        let health = vec!["GET".to_owned(), HEALTH.to_owned()];
        let document = include_str!("../deploy/openapi.yaml");
        let paths = document.split("\npaths:\n").nth(1).unwrap().split("\ncomponents:\n").next().unwrap();
        let mut documented: Vec<Vec<String>> = Vec::new();
        let mut path = "";
        for line in paths.lines() {
            let text = line.trim_start();
            match line.len() - text.len() {
                2 => path = text.trim_end_matches(':'),
                4 => documented.push(vec![text.trim_end_matches(':').to_uppercase(), path.to_owned()]),
                _ => {
                    let starts = ["x-word: ", "x-ipmitool: ", "output: {const: "];
                    let value = starts.iter().find_map(|start| text.strip_prefix(start));
                    let value = value.map(|value| value.trim_end_matches('}').trim_matches('"').to_owned());
                    documented.last_mut().unwrap().extend(value);
                }
            }
        }
        let servers = vec!["GET".to_owned(), SERVERS.to_owned()];
        let expected: Vec<_> = [health].into_iter().chain(rows).chain([servers]).collect();
        assert_eq!(documented, expected);
    }

    #[test]
    fn the_web_servers_pass_every_path_on() {
        let mut folders: Vec<_> = Command::all()
            .map(Command::path)
            .chain([HEALTH, SERVERS])
            .filter_map(|path| path.split('/').nth(1))
            .collect();
        folders.sort_unstable();
        folders.dedup();
        let pattern = format!("({})", folders.join("|"));
        for (name, text) in [
            ("apache.conf", include_str!("../deploy/cgi/apache.conf")),
            ("lighttpd.conf", include_str!("../deploy/cgi/lighttpd.conf")),
            ("nginx.conf", include_str!("../deploy/cgi/nginx.conf")),
        ] {
            for line in text.lines().filter(|line| line.contains("health|")) {
                assert!(line.contains(&pattern), "deploy/cgi/{name}: expected {pattern} in {line}");
            }
        }
    }

    #[test]
    fn the_guide_to_a_second_key_has_every_word() {
        let line = format!("\nACCESS_NEXT_ALLOW={}\n", Command::words().join(","));
        assert!(include_str!("../deploy/README.md").contains(&line), "deploy/README.md has not {line:?}");
    }
}
