//! The program under test, from its environment to its last log line.

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
use super::patience::{PATIENCE, eventually, until};
use super::process::{Holdings, Process};
use super::relay::{Line, Relay};
use super::request::{Connection, Reply, Request};
use super::scratch::Scratch;
use super::simulated_bmc::{RunningBmc, SimulatedBmc, own_address};

/// Long enough to pass, and found nowhere else: no reply and no log line may hold it.
pub const KEY: &str = "k3y-a8f5f167f44f4964e6c998dee827110c";

const BINARY: &str = env!("CARGO_BIN_EXE_ipmi-sidecar");

/// A sidecar to be: its environment, and what stands beside it.
#[must_use]
pub struct Sidecar {
    env: BTreeMap<String, OsString>,
    /// A program, with its arguments, that starts it.
    launcher: Vec<String>,
    secrets: Vec<String>,
    files: Scratch,
    bmc: Option<RunningBmc>,
    relay: Option<Relay>,
    fake: Option<FakeIpmitool>,
}

impl Sidecar {
    /// With nothing configured but where to listen.
    pub fn unconfigured() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let sidecar = Sidecar {
            env: BTreeMap::from([("PATH".to_owned(), path)]),
            launcher: Vec::new(),
            secrets: Vec::new(),
            files: Scratch::new(),
            bmc: None,
            relay: None,
            fake: None,
        };
        sidecar.env("LISTEN_ADDR", "127.0.0.1:0")
    }

    /// Configured for this BMC, as its `admin`, with the real `ipmitool`.
    #[track_caller]
    pub fn beside(bmc: SimulatedBmc) -> Self {
        require("ipmitool");
        let bmc = bmc.start();
        let mut sidecar = Self::unconfigured()
            .env("API_KEY", KEY)
            .env("BMC_HOST", bmc.address.ip().to_string())
            .env("BMC_PORT", bmc.address.port().to_string())
            .user("admin", "s3cret");
        sidecar.bmc = Some(bmc);
        sidecar
    }

    /// Configured for a script in place of `ipmitool`; see [`FakeIpmitool::new`].
    #[track_caller]
    pub fn with_fake_ipmitool(body: &str) -> Self {
        Self::unconfigured()
            .env("API_KEY", KEY)
            .env("BMC_HOST", "127.0.0.1")
            .user("admin", "fake-bmc-pw")
            .ipmitool(body)
    }

    /// Reaches its BMC over a line that [`Running::line_is`] can spoil.
    #[track_caller]
    pub fn over_a_line(self) -> Self {
        let relay = Relay::before(self.bmc.as_ref().expect("a simulated BMC").address);
        let mut sidecar = self
            .env("BMC_HOST", relay.address.ip().to_string())
            .env("BMC_PORT", relay.address.port().to_string());
        sidecar.relay = Some(relay);
        sidecar
    }

    /// With a script in place of `ipmitool`; see [`FakeIpmitool::new`].
    pub fn ipmitool(self, body: &str) -> Self {
        let fake = FakeIpmitool::new(body);
        let mut sidecar = self.env("IPMITOOL", fake.path.clone());
        sidecar.fake = Some(fake);
        sidecar
    }

    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        let value = value.into();
        self.remember_secret(name, &value.to_string_lossy());
        self.env.insert(name.to_owned(), value);
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    pub fn user(self, name: &str, password: &str) -> Self {
        self.env("BMC_USER", name).env("BMC_PASSWORD", password)
    }

    /// Gives `name` as a file: `API_KEY` becomes `API_KEY_FILE`.
    pub fn file(mut self, name: &str, contents: impl AsRef<[u8]>) -> Self {
        self.remember_secret(name, String::from_utf8_lossy(contents.as_ref()).trim());
        let path = self.files.file(name, contents);
        self.without(name).env(&format!("{name}_FILE"), path)
    }

    /// The same as Kubernetes mounts it, so that [`Running::remount`] can swap it.
    pub fn mount(mut self, name: &str, contents: &str) -> Self {
        self.remember_secret(name, contents);
        let path = self.files.mount(name, contents);
        self.without(name).env(&format!("{name}_FILE"), path)
    }

    /// Gives it to this program to start, as the last of its arguments.
    pub fn started_by(mut self, launcher: &[&str]) -> Self {
        self.launcher = launcher.iter().map(|&word| word.to_owned()).collect();
        self
    }

    fn remember_secret(&mut self, name: &str, value: &str) {
        if name.ends_with("_KEY") || ["API_KEY_STATUS", "BMC_PASSWORD"].contains(&name) {
            self.secrets.push(value.to_owned());
        }
    }

    /// Serves, and knows where.
    #[track_caller]
    pub fn start(self) -> Running {
        let started = Instant::now();
        let process = Process::spawn(&mut self.command(&[]));
        let mut running = Running::new(self, process, SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = until(PATIENCE, || {
            let ended = running.process.ended(Duration::ZERO);
            assert!(ended.is_none(), "did not start, {ended:?}");
            address_in(&running.log())
        });
        running.address = address.unwrap_or_else(|| {
            panic!("nothing about listening within {:?}", started.elapsed());
        });
        running
    }

    /// Serves with its log going elsewhere, so that it cannot say where it listens: at an address of its own.
    #[track_caller]
    pub fn start_logging_to(self, log: impl Into<Stdio>) -> Running {
        let address = own_address(8080);
        let sidecar = self.env("LISTEN_ADDR", address.to_string());
        let process = Process::spawn_with(&mut sidecar.command(&[]), log.into());
        sidecar.served_by(process, address)
    }

    /// Serves through this process, which will listen at that address.
    #[track_caller]
    pub fn served_by(self, process: Process, address: SocketAddr) -> Running {
        let running = Running::new(self, process, address);
        eventually("it listens", || {
            let ended = running.process.ended(Duration::ZERO);
            assert!(ended.is_none(), "did not start, {ended:?}: {}", running.log());
            std::net::TcpStream::connect(address).is_ok()
        });
        running
    }

    /// Runs it to its end, for whatever ends by itself.
    #[track_caller]
    pub fn run(self, arguments: &[&str]) -> Finished {
        self.finish(arguments)
    }

    #[track_caller]
    fn finish(&self, arguments: &[&str]) -> Finished {
        let started = Instant::now();
        let process = Process::spawn(&mut self.command(arguments));
        let ended = process.ended(PATIENCE + PATIENCE);
        let finished = Finished {
            took: started.elapsed(),
            code: ended.and_then(|status| status.code()),
            stdout: process.stdout.text(),
            stderr: process.stderr.text(),
        };
        assert!(ended.is_some(), "runs on and on: {finished:?}");
        self.assert_no_secret_in("its output", &format!("{finished:?}"));
        finished
    }

    /// The program in its environment.
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
    // A line that is half here has no comma yet.
    let (address, _) = rest.split_once(',')?;
    Some(address.parse().expect("an address and a port"))
}

/// A run that has ended.
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

    /// On standard error.
    #[track_caller]
    pub fn says(self, fragment: &str) -> Self {
        assert!(self.stderr.contains(fragment), "no {fragment:?} in {self:?}");
        self
    }

    /// On standard output.
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

/// A sidecar that serves. When it is dropped it is killed; when the test has failed it says all it
/// knows, else its log is searched for secrets.
pub struct Running {
    pub address: SocketAddr,
    process: Process,
    sidecar: Sidecar,
    /// Secrets as requests brought them.
    offered: Mutex<Vec<String>>,
    last: Mutex<String>,
}

impl Running {
    fn new(sidecar: Sidecar, process: Process, address: SocketAddr) -> Self {
        Running { address, process, sidecar, offered: Mutex::default(), last: Mutex::default() }
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

    /// Sends these bytes as they stand.
    #[track_caller]
    pub fn raw(&self, bytes: &[u8]) -> Reply<'_> {
        self.connect().write(bytes).reply()
    }

    /// Connects and says nothing yet.
    #[track_caller]
    pub fn connect(&self) -> Connection<'_> {
        Connection::open(self)
    }

    /// The program once more in the same environment.
    pub fn command(&self) -> Command {
        self.sidecar.command(&[])
    }

    /// Runs the program once more in the same environment, this one's address included.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Finished {
        let again = Sidecar {
            env: self.sidecar.env.clone(),
            launcher: Vec::new(),
            secrets: self.sidecar.secrets.clone(),
            files: Scratch::new(),
            bmc: None,
            relay: None,
            fake: None,
        };
        let address = self.address.to_string();
        again.env("LISTEN_ADDR", address).finish(arguments)
    }

    /// Replaces the file that [`Sidecar::file`] gave.
    pub fn file(&self, name: &str, contents: &str) {
        self.remember_secret(contents.trim());
        self.sidecar.files.file(name, contents);
    }

    /// Swaps what [`Sidecar::mount`] gave, as Kubernetes does.
    pub fn remount(&self, name: &str, contents: &str) {
        self.remember_secret(contents);
        self.sidecar.files.mount(name, contents);
    }

    /// Where the file is that [`Sidecar::file`] or [`Sidecar::mount`] gave.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.sidecar.files.path().join(name)
    }

    /// Of the sidecar, or of the launcher that became it.
    pub fn pid(&self) -> Pid {
        self.process.id()
    }

    pub fn log(&self) -> String {
        self.process.stderr.text()
    }

    #[track_caller]
    pub fn logs(&self, fragment: &str) -> &Self {
        eventually(&format!("{fragment:?} in the log"), || self.log().contains(fragment));
        self
    }

    pub fn holdings(&self) -> Holdings {
        self.process.holdings()
    }

    pub fn signal(&self, signal: Signal) -> &Self {
        self.process.signal(signal);
        self
    }

    /// Where a launcher started it and waits for it.
    #[track_caller]
    pub fn signal_launched(&self, signal: Signal) -> &Self {
        self.process.signal_child(signal);
        self
    }

    /// Where a launcher started it: it has no child, and none that ended is left unreaped.
    #[track_caller]
    pub fn launched_has_no_child(&self) -> &Self {
        eventually("it has no child", || self.process.child_is_childless());
        self
    }

    #[track_caller]
    pub fn exits(&self, code: i32, within: Duration) -> &Self {
        let ended = self.process.ended(within);
        let ended = ended.unwrap_or_else(|| panic!("runs on after {within:?}"));
        assert_eq!(ended.code(), Some(code), "{ended}");
        self
    }

    #[track_caller]
    pub fn no_longer_listens(&self) -> &Self {
        eventually("connections are refused", || std::net::TcpStream::connect(self.address).is_err());
        self
    }

    /// What the BMC was asked to do since the start, exactly and in this order. Waits for what is
    /// to come, and until nothing more can come.
    #[track_caller]
    pub fn bmc_was_asked<const N: usize>(&self, expected: [&str; N]) -> &Self {
        let journal = until(PATIENCE, || {
            let journal = self.bmc().journal();
            (journal.len() >= N).then_some(journal)
        });
        assert_eq!(journal.unwrap_or_else(|| self.bmc().journal()), expected);
        self.bmc().settle();
        assert_eq!(self.bmc().journal(), expected, "more came");
        self
    }

    /// Neither asked to act nor for its state.
    #[track_caller]
    pub fn bmc_was_left_alone(&self) -> &Self {
        self.bmc().settle();
        assert_eq!(self.bmc().calls(), Vec::<String>::new());
        self
    }

    /// All the BMC was asked, its state included.
    #[track_caller]
    pub fn bmc_calls(&self) -> Vec<String> {
        self.bmc().settle();
        self.bmc().calls()
    }

    /// Waits until the BMC is at work on this.
    #[track_caller]
    pub fn bmc_is_asked(&self, call: &str) -> &Self {
        eventually(&format!("the BMC is asked {call:?}"), || {
            self.bmc().calls().iter().any(|asked| asked == call)
        });
        self
    }

    /// All the BMC was asked to do.
    #[track_caller]
    pub fn bmc_journal(&self) -> Vec<String> {
        self.bmc().settle();
        self.bmc().journal()
    }

    /// From now on, for the sidecar of [`Sidecar::over_a_line`].
    #[track_caller]
    pub fn line_is(&self, line: Line) {
        self.sidecar.relay.as_ref().expect("a line").set(line);
    }

    #[track_caller]
    fn bmc(&self) -> &RunningBmc {
        self.sidecar.bmc.as_ref().expect("a simulated BMC")
    }

    /// The runs of the fake so far.
    #[track_caller]
    pub fn ipmitool_runs(&self) -> Vec<Run> {
        self.sidecar.fake.as_ref().expect("a fake").runs()
    }

    /// The environment of the last run, where the fake's script wrote it to `$0.env`; what its shell adds by
    /// itself is left out.
    #[track_caller]
    pub fn ipmitool_environment(&self) -> Vec<String> {
        self.sidecar.fake.as_ref().expect("a fake").environment()
    }

    /// What the fake's script wrote to `$0.notes`, over all its runs.
    #[track_caller]
    pub fn ipmitool_notes(&self) -> Vec<String> {
        self.sidecar.fake.as_ref().expect("a fake").notes()
    }

    /// Where the fake is.
    #[track_caller]
    pub fn ipmitool_path(&self) -> &Path {
        &self.sidecar.fake.as_ref().expect("a fake").path
    }

    /// Waits until the fake has been started this many times.
    #[track_caller]
    pub fn ipmitool_is_run(&self, times: usize) -> &Self {
        eventually(&format!("{times} runs of ipmitool"), || self.ipmitool_runs().len() >= times);
        self
    }

    /// A key that was offered: even a wrong one may be a right one mistyped. Short ones are words of ours.
    pub(super) fn remember_secret(&self, offered: &str) {
        let mut all = self.offered.lock().unwrap();
        if offered.len() >= 16 && !all.iter().any(|known| known == offered) {
            all.push(offered.to_owned());
        }
    }

    pub(super) fn remember_exchange(&self, sent: &[u8], received: &[u8]) {
        *self.last.lock().unwrap() =
            format!("{}\n{}", String::from_utf8_lossy(sent), String::from_utf8_lossy(received));
    }

    #[track_caller]
    pub fn assert_no_secret_in(&self, place: &str, text: &str) {
        self.sidecar.assert_no_secret_in(place, text);
        for secret in self.offered.lock().unwrap().iter() {
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
        if let Some(bmc) = &self.sidecar.bmc {
            eprintln!("--- the BMC\n{}", bmc.report());
        }
        if let Some(fake) = &self.sidecar.fake {
            eprintln!("--- the fake ipmitool\n{:?}", fake.runs());
        }
        match self.last.lock() {
            Ok(last) => eprintln!("--- the last request and its reply\n{last}"),
            Err(_) => eprintln!("--- the last request is lost"),
        }
    }
}
