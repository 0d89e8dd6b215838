//! A simulated BMC: `ipmi_sim` on a loopback address that no other test uses. A script acts as the server
//! behind it and writes each call to a file.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use super::fake_ipmitool::require;
use super::process::Process;
use super::simulated_sensors;
use super::temp_dir::TempDir;
use super::waiting::{TIMEOUT, wait_for};

/// Below the ephemeral ports, so that no client socket has it by chance.
const PORT: u16 = 6230;

/// The first request of `ipmitool`: Get Channel Authentication Capabilities.
const AUTH_CAPABILITIES_REQUEST: &[u8] =
    b"\x06\x00\xff\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x09\x20\x18\xc8\x81\x00\x38\x8e\x04\xb5";

const BOARD: &str = "\
mc_setbmc 0x20
mc_add 0x20 0x20 no-device-sdrs 0x01 0x01 0x23 0x9f 0x2a7c 0x0b22
sel_enable 0x20 1000 0x0a
";

/// Behind all sensors.
const ENABLE: &str = "mc_enable 0x20\n";

/// A simulated BMC before its start. It supports cipher suites 0 to 3 and has the users `admin`, `oper` and
/// `viewer`.
#[must_use]
pub struct SimulatedBmc {
    power: u8,
    behaviour: Option<Behaviour>,
    /// A line of its configuration, or nothing.
    kg_key: String,
    has_sensors: bool,
}

/// What the script that acts as the server does when the BMC calls it.
enum Behaviour {
    Normal,
    Slow(Duration),
    Refusing,
    NeverConfirming,
}

impl SimulatedBmc {
    /// The server is on.
    pub fn on() -> Self {
        Self::of(1, Some(Behaviour::Normal))
    }

    /// The server is off.
    pub fn off() -> Self {
        Self::of(0, Some(Behaviour::Normal))
    }

    /// A BMC that never replies.
    pub fn dead() -> Self {
        Self::of(0, None)
    }

    fn of(power: u8, behaviour: Option<Behaviour>) -> Self {
        SimulatedBmc { power, behaviour, kg_key: String::new(), has_sensors: false }
    }

    /// Has a KG key: text in quotes, or 32 hexadecimal digits.
    pub fn kg_key(self, key: &str) -> Self {
        SimulatedBmc { kg_key: format!("bmc_key {key}"), ..self }
    }

    /// It has forty sensors. [`RunningBmc::set_sensor`] moves one of them.
    pub fn with_sensors(self) -> Self {
        SimulatedBmc { has_sensors: true, ..self }
    }

    /// Every read and every change takes this long.
    pub fn slow(self, delay: Duration) -> Self {
        self.with(Behaviour::Slow(delay))
    }

    /// Every change fails.
    pub fn refusing(self) -> Self {
        self.with(Behaviour::Refusing)
    }

    /// Every change is made, but its reply is never sent.
    pub fn never_confirming(self) -> Self {
        self.with(Behaviour::NeverConfirming)
    }

    fn with(self, behaviour: Behaviour) -> Self {
        SimulatedBmc { behaviour: Some(behaviour), ..self }
    }

    #[track_caller]
    pub(super) fn start(self) -> RunningBmc {
        let dir = TempDir::new();
        let address = unique_address(PORT);
        let backend = match &self.behaviour {
            // The open socket keeps the port, so that no other program can reply there.
            None => Backend::Dead(UdpSocket::bind(address).expect("a free loopback address")),
            Some(behaviour) => {
                let sensors =
                    if self.has_sensors { simulated_sensors::commands(dir.path()) } else { String::new() };
                set_sensor(&dir, 100, true);
                Backend::Simulator(simulator(&dir, address, &self, behaviour, &sensors))
            }
        };
        let bmc = RunningBmc { address, backend, dir };
        bmc.wait_until_ready();
        bmc
    }
}

/// A simulated BMC that runs. It ends when it is dropped.
pub struct RunningBmc {
    pub address: SocketAddr,
    backend: Backend,
    dir: TempDir,
}

enum Backend {
    Simulator(Process),
    Dead(#[expect(dead_code, reason = "the open socket keeps the port")] UdpSocket),
}

impl RunningBmc {
    /// All calls of the script that acts as the server, in order.
    pub fn calls(&self) -> Vec<String> {
        self.dir.lines("calls")
    }

    /// The calls that change something, in order.
    pub fn changes(&self) -> Vec<String> {
        let mut calls = self.calls();
        calls.retain(|call| call.starts_with("set "));
        calls
    }

    /// The raw value of the moving sensor, and whether it is there.
    pub fn set_sensor(&self, value: u8, is_present: bool) {
        set_sensor(&self.dir, value, is_present);
    }

    /// Waits until the BMC has processed all requests so far. It processes one request at a time, so the
    /// reply to a request that is sent now comes after all earlier work.
    #[track_caller]
    pub fn wait_until_idle(&self) {
        self.dir.file("released", "");
        self.wait_until_ready();
    }

    #[track_caller]
    fn wait_until_ready(&self) {
        let Backend::Simulator(process) = &self.backend else {
            return;
        };
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
        socket.connect(self.address).expect("loopback");
        let limit = Some(Duration::from_millis(100));
        socket.set_read_timeout(limit).expect("a time-out");
        let reply = wait_for(TIMEOUT, || {
            assert!(process.ended(Duration::ZERO).is_none(), "ipmi_sim has ended: {}", process.stderr.text());
            // An error means that the port is not open yet.
            let _ = socket.send(AUTH_CAPABILITIES_REQUEST);
            socket.recv(&mut [0; 512]).ok()
        });
        assert!(reply.is_some(), "ipmi_sim does not reply");
    }

    /// A description for the output of a failed test.
    pub fn report(&self) -> String {
        match &self.backend {
            Backend::Dead(_) => format!("no BMC at {}", self.address),
            Backend::Simulator(process) => format!(
                "{}, calls {:?}\n{}{}",
                self.address,
                self.calls(),
                process.stdout.text(),
                process.stderr.text()
            ),
        }
    }
}

/// A loopback address that no other test uses, so that tests can use the same port. All of 127.0.0.0/8 is
/// loopback.
pub fn unique_address(port: u16) -> SocketAddr {
    static COUNT: AtomicU16 = AtomicU16::new(1);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let [.., high, low] = std::process::id().to_be_bytes();
    assert!(count < 2 * 254, "one test run needs more addresses than there are");
    // Half of all second bytes for the first 254 addresses, the other half for the rest.
    let high = if count < 254 { high & 0x7f } else { high | 0x80 };
    let last = u8::try_from(count % 254 + 1).expect("at most 254");
    SocketAddr::from((Ipv4Addr::new(127, high.max(1), low, last), port))
}

fn set_sensor(dir: &TempDir, value: u8, is_present: bool) {
    dir.file("hot", value.to_string());
    dir.file("present", u8::from(is_present).to_string());
}

#[track_caller]
fn simulator(
    dir: &TempDir,
    address: SocketAddr,
    bmc: &SimulatedBmc,
    behaviour: &Behaviour,
    sensors: &str,
) -> Process {
    let SimulatedBmc { power, kg_key, .. } = bmc;
    let folder = dir.path().display();
    dir.file("power", format!("{power}\n"));
    let server = dir.script("server", &server_script(behaviour));
    let lan = dir.file(
        "lan.conf",
        format!(
            r#"name "bmc"
set_working_mc 0x20
  startlan 1
    addr {ip} {port}
    priv_limit admin
    allowed_auths_callback none md2 md5 straight
    allowed_auths_user none md2 md5 straight
    allowed_auths_operator none md2 md5 straight
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa123456789abcdef
    {kg_key}
  endlan
  chassis_control "{server} {folder}"
  user 1 true  ""       "test"   user     10 none md2 md5 straight
  user 2 true  "admin"  "s3cret" admin    10 none md2 md5 straight
  user 3 true  "oper"   "operpw" operator 10 none md2 md5 straight
  user 4 true  "viewer" "viewpw" user     10 none md2 md5 straight
"#,
            ip = address.ip(),
            port = address.port(),
            server = server.display(),
        ),
    );
    let board = dir.file("bmc.emu", [BOARD, sensors, ENABLE].concat());
    Process::spawn(
        Command::new(require("ipmi_sim"))
            .arg("-n")
            .arg("-c")
            .arg(lan)
            .arg("-f")
            .arg(board)
            .arg("-s")
            .arg(dir.path()),
    )
}

/// The BMC calls this as `server FOLDER get power` or `server FOLDER set NAME VALUE`.
fn server_script(behaviour: &Behaviour) -> String {
    let (before, after) = match behaviour {
        Behaviour::Normal => (String::new(), ""),
        Behaviour::Slow(delay) => (format!("sleep {}", delay.as_secs_f64()), ""),
        Behaviour::Refusing => (r#"[ "$1" = get ] || exit 1"#.to_owned(), ""),
        // At most 30 s: when a test is killed, nothing else ends this script.
        Behaviour::NeverConfirming => {
            (String::new(), r#"for _ in $(seq 300); do [ -e "$dir/released" ] && exit; sleep 0.1; done"#)
        }
    };
    format!(
        r#"#!/bin/sh
dir=$1; shift
echo "$*" >>"$dir/calls"
{before}
case "$*" in
"get power") echo "power:$(cat "$dir/power")"; exit ;;
"get boot") echo "boot:default"; exit ;;
"set power "*) echo "$3" >"$dir/power" ;;
esac
{after}
"#
    )
}
