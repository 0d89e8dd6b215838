//! A BMC: `ipmi_sim` on a loopback address of its own, with a server behind it that
//! keeps a journal of what it was asked.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use super::fake_ipmitool::require;
use super::patience::{PATIENCE, until};
use super::process::Process;
use super::scratch::Scratch;

/// Below the ports the kernel hands out, so that nobody holds it by chance.
const PORT: u16 = 6230;

/// A presence question as `ipmitool` asks it first (Get Channel Authentication Capabilities).
const ARE_YOU_THERE: &[u8] =
    b"\x06\x00\xff\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x09\x20\x18\xc8\x81\x00\x38\x8e\x04\xb5";

const BOARD: &str = "\
mc_setbmc 0x20
mc_add 0x20 0x20 no-device-sdrs 0x01 0x01 0x23 0x9f 0x2a7c 0x0b22
sel_enable 0x20 1000 0x0a
mc_enable 0x20
";

/// The BMC a test wants. It speaks cipher suites 0 to 3, and knows `admin`, `oper` and `viewer`.
#[must_use]
pub struct SimulatedBmc {
    power: u8,
    mood: Option<Mood>,
}

/// What the server behind the BMC does when asked.
enum Mood {
    Prompt,
    Slow(Duration),
    Refusing,
    NeverConfirming,
}

impl SimulatedBmc {
    /// In front of a server that is on.
    pub fn on() -> Self {
        SimulatedBmc { power: 1, mood: Some(Mood::Prompt) }
    }

    /// In front of a server that is off.
    pub fn off() -> Self {
        SimulatedBmc { power: 0, mood: Some(Mood::Prompt) }
    }

    /// An address where nobody answers.
    pub fn dead() -> Self {
        SimulatedBmc { power: 0, mood: None }
    }

    /// Every question and every change takes this long.
    pub fn slow(self, delay: Duration) -> Self {
        self.with(Mood::Slow(delay))
    }

    /// Every change fails.
    pub fn refusing(self) -> Self {
        self.with(Mood::Refusing)
    }

    /// Every change is made and never acknowledged.
    pub fn never_confirming(self) -> Self {
        self.with(Mood::NeverConfirming)
    }

    fn with(self, mood: Mood) -> Self {
        SimulatedBmc { mood: Some(mood), ..self }
    }

    #[track_caller]
    pub(super) fn start(self) -> RunningBmc {
        let scratch = Scratch::new();
        let address = own_address(PORT);
        let life = match self.mood {
            // Held, so that nothing else can ever answer there.
            None => Life::Dead(UdpSocket::bind(address).expect("a free loopback address")),
            Some(mood) => Life::Simulator(simulator(&scratch, address, self.power, &mood)),
        };
        let bmc = RunningBmc { address, life, scratch };
        bmc.wait_until_ready();
        bmc
    }
}

/// A BMC in its life, ended with the test.
pub struct RunningBmc {
    pub address: SocketAddr,
    life: Life,
    scratch: Scratch,
}

enum Life {
    Simulator(Process),
    Dead(#[expect(dead_code, reason = "held for its port")] UdpSocket),
}

impl RunningBmc {
    /// Every call of the server behind it, in order.
    pub fn calls(&self) -> Vec<String> {
        self.scratch.lines("journal")
    }

    /// The calls that act, in order.
    pub fn journal(&self) -> Vec<String> {
        let mut calls = self.calls();
        calls.retain(|call| call.starts_with("set "));
        calls
    }

    /// Waits until it has dealt with everything sent to it so far. It does one thing at a time, so
    /// the answer to a question of ours comes after all else has been done.
    #[track_caller]
    pub fn settle(&self) {
        self.scratch.file("released", "");
        self.wait_until_ready();
    }

    #[track_caller]
    fn wait_until_ready(&self) {
        let Life::Simulator(process) = &self.life else {
            return;
        };
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
        socket.connect(self.address).expect("loopback");
        let patience = Some(Duration::from_millis(100));
        socket.set_read_timeout(patience).expect("a time-out");
        let answered = until(PATIENCE, || {
            assert!(process.ended(Duration::ZERO).is_none(), "ipmi_sim has ended: {}", process.stderr.text());
            // An error is the port that is not open yet.
            let _ = socket.send(ARE_YOU_THERE);
            socket.recv(&mut [0; 512]).ok()
        });
        assert!(answered.is_some(), "ipmi_sim does not answer");
    }

    /// What a person wants to read when a test has failed.
    pub fn report(&self) -> String {
        match &self.life {
            Life::Dead(_) => format!("nobody at {}", self.address),
            Life::Simulator(process) => format!(
                "{}, asked {:?}\n{}{}",
                self.address,
                self.calls(),
                process.stdout.text(),
                process.stderr.text()
            ),
        }
    }
}

/// All of 127/8 is this computer: with an address of its own nobody meets another's port.
pub fn own_address(port: u16) -> SocketAddr {
    static COUNT: AtomicU16 = AtomicU16::new(1);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let [.., high, low] = std::process::id().to_be_bytes();
    assert!(count < 255, "more in one run than addresses");
    let last = u8::try_from(count).expect("under 255");
    SocketAddr::from((Ipv4Addr::new(127, high.max(1), low, last), port))
}

#[track_caller]
fn simulator(scratch: &Scratch, address: SocketAddr, power: u8, mood: &Mood) -> Process {
    let directory = scratch.path().display();
    scratch.file("power", format!("{power}\n"));
    let server = scratch.script("server", &server_script(mood));
    let lan = scratch.file(
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
  endlan
  chassis_control "{server} {directory}"
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
    let board = scratch.file("bmc.emu", BOARD);
    Process::spawn(
        Command::new(require("ipmi_sim"))
            .arg("-n")
            .arg("-c")
            .arg(lan)
            .arg("-f")
            .arg(board)
            .arg("-s")
            .arg(scratch.path()),
    )
}

/// Called as `server DIRECTORY get power` or `server DIRECTORY set WHAT VALUE`.
fn server_script(mood: &Mood) -> String {
    let (before, after) = match mood {
        Mood::Prompt => (String::new(), ""),
        Mood::Slow(delay) => (format!("sleep {}", delay.as_secs_f64()), ""),
        Mood::Refusing => (r#"[ "$1" = get ] || exit 1"#.to_owned(), ""),
        // Not for ever: a test that is killed leaves nobody to end it.
        Mood::NeverConfirming => {
            (String::new(), r#"for _ in $(seq 300); do [ -e "$dir/released" ] && exit; sleep 0.1; done"#)
        }
    };
    format!(
        r#"#!/bin/sh
dir=$1; shift
echo "$*" >>"$dir/journal"
{before}
case "$*" in
"get power") echo "power:$(cat "$dir/power")"; exit ;;
"set power "*) echo "$3" >"$dir/power" ;;
esac
{after}
"#
    )
}
