//! The program under test: its environment, its start, its log and its exit.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::fake_ipmitool::{FakeIpmitool, Run, require};
use super::process::{Process, Resources};
use super::relay::{Link, Relay};
use super::request::{Connection, Reply, Request};
use super::simulated_bmc::{RunningBmc, SimulatedBmc, unique_address};
use super::temp_dir::TempDir;
use super::waiting::{TIMEOUT, eventually, wait_for};

/// Long enough to be accepted. The text occurs nowhere else, so a reply or a log line that contains it tells
/// the key.
pub const KEY: &str = "k3y-a8f5f167f44f4964e6c998dee827110c";

const BINARY: &str = env!("CARGO_BIN_EXE_ipmi-sidecar");

/// A builder: the environment of a sidecar, with its BMC, relay and fake `ipmitool`.
#[must_use]
pub struct Sidecar {
    env: BTreeMap<String, OsString>,
    /// A program that starts the sidecar, with its arguments.
    launcher: Vec<String>,
    secrets: Vec<String>,
    files: TempDir,
    bmc: Option<RunningBmc>,
    /// Those that have names.
    servers: Vec<(String, RunningBmc)>,
    relay: Option<Relay>,
    fake: Option<FakeIpmitool>,
}

impl Sidecar {
    /// Sets only `PATH` and `LISTEN_ADDR`.
    pub fn unconfigured() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let sidecar = Sidecar {
            env: BTreeMap::from([("PATH".to_owned(), path)]),
            launcher: Vec::new(),
            secrets: Vec::new(),
            files: TempDir::new(),
            bmc: None,
            servers: Vec::new(),
            relay: None,
            fake: None,
        };
        sidecar.env("LISTEN_ADDR", "127.0.0.1:0")
    }

    /// Configures the real `ipmitool` and this BMC, with the user `admin`.
    #[track_caller]
    pub fn with_bmc(bmc: SimulatedBmc) -> Self {
        let bmc = bmc.start();
        let mut sidecar = Self::with_bmc_at(bmc.address);
        sidecar.bmc = Some(bmc);
        sidecar
    }

    /// The same for a BMC that the test itself has started.
    #[track_caller]
    pub fn with_bmc_at(address: SocketAddr) -> Self {
        let ipmitool = require("ipmitool");
        let mut sidecar = Self::unconfigured();
        if std::env::var_os("IPMITOOL_UNDER_TEST").is_some() {
            sidecar = sidecar.env("IPMITOOL", ipmitool);
        }
        sidecar
            .env("API_KEY", KEY)
            .env("BMC_HOST", address.ip().to_string())
            .env("BMC_PORT", address.port().to_string())
            .login("admin", "s3cret")
    }

    /// Configures a script in place of `ipmitool`; see [`FakeIpmitool::new`].
    #[track_caller]
    pub fn with_fake_ipmitool(body: &str) -> Self {
        Self::unconfigured()
            .env("API_KEY", KEY)
            .env("BMC_HOST", "127.0.0.1")
            .login("admin", "fake-bmc-pw")
            .ipmitool(body)
    }

    /// Configures the real `ipmitool` and this BMC under a name, beside those that have names already.
    #[track_caller]
    pub fn server(mut self, name: &str, bmc: SimulatedBmc) -> Self {
        let bmc = bmc.start();
        let address = bmc.address;
        self.servers.push((name.to_owned(), bmc));
        self.server_at(name, address)
    }

    /// The same for a BMC at this address.
    #[track_caller]
    pub fn server_at(self, name: &str, address: SocketAddr) -> Self {
        let variable = name.to_uppercase().replace('-', "_");
        let names = self.env.get("SERVERS").map(|names| format!("{},{name}", names.display()));
        self.env("SERVERS", names.unwrap_or_else(|| name.to_owned()))
            .env(&format!("BMC_{variable}_HOST"), address.ip().to_string())
            .env(&format!("BMC_{variable}_PORT"), address.port().to_string())
    }

    /// Puts a relay between the sidecar and its BMC. [`Running::set_link`] sets its faults.
    #[track_caller]
    pub fn over_relay(self) -> Self {
        let relay = Relay::in_front_of(self.bmc.as_ref().expect("a simulated BMC").address);
        let mut sidecar = self
            .env("BMC_HOST", relay.address.ip().to_string())
            .env("BMC_PORT", relay.address.port().to_string());
        sidecar.relay = Some(relay);
        sidecar
    }

    /// Uses a script in place of `ipmitool`; see [`FakeIpmitool::new`].
    pub fn ipmitool(self, body: &str) -> Self {
        let fake = FakeIpmitool::new(body);
        let mut sidecar = self.env("IPMITOOL", fake.path.clone());
        sidecar.fake = Some(fake);
        sidecar
    }

    /// The same, whose `-V` is answered by other shell code.
    pub fn ipmitool_of_version(self, version: &str, body: &str) -> Self {
        let fake = FakeIpmitool::of_version(version, body);
        let mut sidecar = self.env("IPMITOOL", fake.path.clone());
        sidecar.fake = Some(fake);
        sidecar
    }

    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        let value = value.into();
        self.record_secret(name, &value.to_string_lossy());
        self.env.insert(name.to_owned(), value);
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    pub fn login(self, name: &str, password: &str) -> Self {
        self.env("BMC_USER", name).env("BMC_PASSWORD", password)
    }

    /// Writes `contents` to a file and sets `NAME_FILE` to its path.
    pub fn file(mut self, name: &str, contents: impl AsRef<[u8]>) -> Self {
        self.record_secret(name, String::from_utf8_lossy(contents.as_ref()).trim());
        let path = self.files.file(name, contents);
        self.without(name).env(&format!("{name}_FILE"), path)
    }

    /// Like [`Sidecar::file`], mounted as Kubernetes does. [`Running::remount`] replaces it.
    pub fn mount(mut self, name: &str, contents: &str) -> Self {
        self.record_secret(name, contents);
        let path = self.files.mount(name, contents);
        self.without(name).env(&format!("{name}_FILE"), path)
    }

    /// Starts the sidecar through this program. The path of the binary is its last argument.
    pub fn started_by(mut self, launcher: &[&str]) -> Self {
        self.launcher = launcher.iter().map(|&word| word.to_owned()).collect();
        self
    }

    fn record_secret(&mut self, name: &str, value: &str) {
        if name.ends_with("_KEY") || name.ends_with("_PASSWORD") || name == "API_KEY_STATUS" {
            self.secrets.push(value.to_owned());
        }
    }

    /// Starts the program and reads the address from its log.
    #[track_caller]
    pub fn start(self) -> Running {
        let started = Instant::now();
        let process = Process::spawn(&mut self.command(&[]));
        let mut running = Running::new(self, process, SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = wait_for(TIMEOUT, || {
            let ended = running.process.ended(Duration::ZERO);
            assert!(ended.is_none(), "the sidecar did not start: {ended:?}");
            address_in(&running.log())
        });
        running.address = address.unwrap_or_else(|| {
            panic!("the log has no address after {:?}", started.elapsed());
        });
        running
    }

    /// Starts the program with its log redirected. The test cannot read the address from the log, so it sets
    /// one.
    #[track_caller]
    pub fn start_logging_to(self, log: impl Into<Stdio>) -> Running {
        let address = unique_address(8080);
        let sidecar = self.env("LISTEN_ADDR", address.to_string());
        let process = Process::spawn_with(&mut sidecar.command(&[]), log.into());
        sidecar.served_by(process, address)
    }

    /// Uses `process`, which listens at `address` and runs the sidecar.
    #[track_caller]
    pub fn served_by(self, process: Process, address: SocketAddr) -> Running {
        let running = Running::new(self, process, address);
        eventually("the process listens", || {
            let ended = running.process.ended(Duration::ZERO);
            assert!(ended.is_none(), "the process did not start: {ended:?}: {}", running.log());
            std::net::TcpStream::connect(address).is_ok()
        });
        running
    }

    /// Runs the program until it exits by itself.
    #[track_caller]
    pub fn run(self, arguments: &[&str]) -> Finished {
        self.finish(arguments)
    }

    #[track_caller]
    fn finish(&self, arguments: &[&str]) -> Finished {
        let started = Instant::now();
        let process = Process::spawn(&mut self.command(arguments));
        let ended = process.ended(TIMEOUT + TIMEOUT);
        let finished = Finished {
            took: started.elapsed(),
            code: ended.and_then(|status| status.code()),
            stdout: process.stdout.text(),
            stderr: process.stderr.text(),
        };
        assert!(ended.is_some(), "the program does not exit: {finished:?}");
        self.assert_no_secret_in("the output", &format!("{finished:?}"));
        finished
    }

    /// A command that runs the program in this environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let words: Vec<_> = self.launcher.iter().map(String::as_str).chain([BINARY]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env_clear().envs(&self.env).args(arguments);
        command
    }

    #[track_caller]
    fn assert_no_secret_in(&self, place: &str, text: &str) {
        for secret in &self.secrets {
            assert!(secret.len() < 4 || !text.contains(secret.as_str()), "{secret:?} in {place}: {text}");
        }
    }
}

fn address_in(log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.split_once("listening on ")?;
    // An incomplete line has no comma yet.
    let (address, _) = rest.split_once(',')?;
    Some(address.parse().expect("an address and a port"))
}

/// The result of a run that has ended.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Finished {
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Standard error contains this text.
    #[track_caller]
    pub fn prints_error(self, fragment: &str) -> Self {
        assert!(self.stderr.contains(fragment), "no {fragment:?} in {self:?}");
        self
    }

    /// Standard output contains this text.
    #[track_caller]
    pub fn prints(self, fragment: &str) -> Self {
        assert!(self.stdout.contains(fragment), "no {fragment:?} in {self:?}");
        self
    }

    #[track_caller]
    pub fn within(self, limit: Duration) -> Self {
        assert!(self.took < limit, "not within {limit:?}: {self:?}");
        self
    }
}

/// A sidecar that runs. When it is dropped, it is killed. After a failed test, its log and its BMC are
/// printed; otherwise its log is searched for secrets.
pub struct Running {
    pub address: SocketAddr,
    process: Process,
    sidecar: Sidecar,
    /// The secrets that requests carried.
    sent_secrets: Mutex<Vec<String>>,
    /// The last request and its reply.
    last: Mutex<String>,
}

impl Running {
    fn new(sidecar: Sidecar, process: Process, address: SocketAddr) -> Self {
        Running { address, process, sidecar, sent_secrets: Mutex::default(), last: Mutex::default() }
    }

    pub fn get(&self, target: &str) -> Request<'_> {
        self.request("GET", target)
    }

    pub fn post(&self, target: &str) -> Request<'_> {
        self.request("POST", target)
    }

    pub fn request(&self, method: &str, target: &str) -> Request<'_> {
        Request::new(self, method, target)
    }

    /// Sends these bytes unchanged.
    #[track_caller]
    pub fn raw(&self, bytes: &[u8]) -> Reply<'_> {
        self.connect().write(bytes).reply()
    }

    /// Opens a connection and sends nothing yet.
    #[track_caller]
    pub fn connect(&self) -> Connection<'_> {
        Connection::open(self)
    }

    /// A command that runs the program again in the same environment.
    pub fn command(&self) -> Command {
        self.sidecar.command(&[])
    }

    /// Runs the program again in the same environment and with the address of this sidecar.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Finished {
        let again = Sidecar {
            env: self.sidecar.env.clone(),
            launcher: Vec::new(),
            secrets: self.sidecar.secrets.clone(),
            files: TempDir::new(),
            bmc: None,
            servers: Vec::new(),
            relay: None,
            fake: None,
        };
        let address = self.address.to_string();
        again.env("LISTEN_ADDR", address).finish(arguments)
    }

    /// Replaces the file of [`Sidecar::file`].
    pub fn file(&self, name: &str, contents: &str) {
        self.record_secret(contents.trim());
        self.sidecar.files.file(name, contents);
    }

    /// Replaces the file of [`Sidecar::mount`], as Kubernetes does.
    pub fn remount(&self, name: &str, contents: &str) {
        self.record_secret(contents);
        self.sidecar.files.mount(name, contents);
    }

    /// The path of the file of [`Sidecar::file`] or [`Sidecar::mount`].
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.sidecar.files.path().join(name)
    }

    /// The process ID of the sidecar, or of the launcher.
    pub fn pid(&self) -> Pid {
        self.process.id()
    }

    pub fn log(&self) -> String {
        self.process.stderr.text()
    }

    /// Waits until the log contains this text.
    #[track_caller]
    pub fn logs(&self, fragment: &str) -> &Self {
        eventually(&format!("{fragment:?} in the log"), || self.log().contains(fragment));
        self
    }

    pub fn resources(&self) -> Resources {
        self.process.resources()
    }

    pub fn signal(&self, signal: Signal) -> &Self {
        self.process.signal(signal);
        self
    }

    /// Signals the sidecar when it is a child of the launcher.
    #[track_caller]
    pub fn signal_launched(&self, signal: Signal) -> &Self {
        self.process.signal_child(signal);
        self
    }

    /// Waits until the sidecar, a child of the launcher, has no children, not even unreaped ones.
    #[track_caller]
    pub fn launched_has_no_children(&self) -> &Self {
        eventually("the sidecar has no children", || self.process.child_has_no_children());
        self
    }

    /// How many children the sidecar has, as a child of the launcher; unreaped ones count.
    pub fn launched_children(&self) -> usize {
        self.process.children_of_child()
    }

    /// Exits with this code, within this time.
    #[track_caller]
    pub fn exits(&self, code: i32, within: Duration) -> &Self {
        let ended = self.process.ended(within);
        let ended = ended.unwrap_or_else(|| panic!("the process still runs after {within:?}"));
        assert_eq!(ended.code(), Some(code), "{ended}");
        self
    }

    /// Waits until the listener is closed.
    #[track_caller]
    pub fn no_longer_listens(&self) -> &Self {
        eventually("connections are refused", || std::net::TcpStream::connect(self.address).is_err());
        self
    }

    /// The BMC got exactly these changes since the start, in this order. Waits for them, and then until the
    /// BMC is idle.
    #[track_caller]
    pub fn bmc_was_asked<const N: usize>(&self, expected: [&str; N]) -> &Self {
        let changes = wait_for(TIMEOUT, || {
            let changes = self.bmc().changes();
            (changes.len() >= N).then_some(changes)
        });
        assert_eq!(changes.unwrap_or_else(|| self.bmc().changes()), expected);
        self.bmc().wait_until_idle();
        assert_eq!(self.bmc().changes(), expected, "the BMC got more changes");
        self
    }

    /// The BMC got no call, neither a read nor a change.
    #[track_caller]
    pub fn bmc_was_never_asked(&self) -> &Self {
        self.bmc().wait_until_idle();
        assert_eq!(self.bmc().calls(), Vec::<String>::new());
        self
    }

    /// All calls of the BMC so far, reads included. Waits until the BMC is idle.
    #[track_caller]
    pub fn bmc_calls(&self) -> Vec<String> {
        self.bmc().wait_until_idle();
        self.bmc().calls()
    }

    /// Waits until the BMC has started this call.
    #[track_caller]
    pub fn wait_for_bmc_call(&self, call: &str) -> &Self {
        eventually(&format!("the BMC starts {call:?}"), || {
            self.bmc().calls().iter().any(|started| started == call)
        });
        self
    }

    /// All changes of the BMC so far. Waits until the BMC is idle.
    #[track_caller]
    pub fn bmc_changes(&self) -> Vec<String> {
        self.bmc().wait_until_idle();
        self.bmc().changes()
    }

    /// Sets what the link does from now on. Needs [`Sidecar::over_relay`].
    #[track_caller]
    pub fn set_link(&self, link: Link) {
        self.sidecar.relay.as_ref().expect("a relay").set(link);
    }

    /// The BMC of this name.
    #[track_caller]
    pub fn bmc_of(&self, name: &str) -> &RunningBmc {
        let bmc = self.sidecar.servers.iter().find(|(own, _)| own == name);
        bmc.map(|(_, bmc)| bmc).expect("a server of this name")
    }

    #[track_caller]
    pub fn bmc(&self) -> &RunningBmc {
        self.sidecar.bmc.as_ref().expect("a simulated BMC")
    }

    /// The runs of the fake `ipmitool` so far.
    #[track_caller]
    pub fn ipmitool_runs(&self) -> Vec<Run> {
        self.sidecar.fake.as_ref().expect("a fake").runs()
    }

    /// The environment that the fake wrote to `$0.env`, without the variables that the shell adds.
    #[track_caller]
    pub fn ipmitool_environment(&self) -> Vec<String> {
        self.sidecar.fake.as_ref().expect("a fake").environment()
    }

    /// The lines that the fake wrote to `$0.notes`, over all of its runs.
    #[track_caller]
    pub fn ipmitool_notes(&self) -> Vec<String> {
        self.sidecar.fake.as_ref().expect("a fake").notes()
    }

    /// The path of the fake.
    #[track_caller]
    pub fn ipmitool_path(&self) -> &Path {
        &self.sidecar.fake.as_ref().expect("a fake").path
    }

    /// Waits until the fake has been started this many times.
    #[track_caller]
    pub fn wait_for_ipmitool_runs(&self, times: usize) -> &Self {
        eventually(&format!("{times} runs of ipmitool"), || self.ipmitool_runs().len() >= times);
        self
    }

    /// Records a key that a request carries. Wrong keys count too: a user may have mistyped the right one.
    /// Keys under 16 bytes are ordinary words of these tests.
    pub(super) fn record_secret(&self, secret: &str) {
        let mut all = self.sent_secrets.lock().unwrap();
        if secret.len() >= 16 && !all.iter().any(|known| known == secret) {
            all.push(secret.to_owned());
        }
    }

    pub(super) fn record_exchange(&self, sent: &[u8], received: &[u8]) {
        *self.last.lock().unwrap() =
            format!("{}\n{}", String::from_utf8_lossy(sent), String::from_utf8_lossy(received));
    }

    #[track_caller]
    pub fn assert_no_secret_in(&self, place: &str, text: &str) {
        self.sidecar.assert_no_secret_in(place, text);
        for secret in self.sent_secrets.lock().unwrap().iter() {
            assert!(!text.contains(secret.as_str()), "{secret:?} in {place}: {text}");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.assert_no_secret_in("the log", &self.log());
            return;
        }
        eprintln!("--- the log\n{}", self.log());
        for (name, bmc) in &self.sidecar.servers {
            eprintln!("--- the BMC of {name}\n{}", bmc.report());
        }
        if let Some(bmc) = &self.sidecar.bmc {
            eprintln!("--- the BMC\n{}", bmc.report());
        }
        if let Some(fake) = &self.sidecar.fake {
            eprintln!("--- the fake ipmitool\n{:?}", fake.runs());
        }
        match self.last.lock() {
            Ok(last) => eprintln!("--- the last request and its reply\n{last}"),
            Err(_) => eprintln!("--- the last request is not known"),
        }
    }
}
