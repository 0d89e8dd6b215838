//! The sensors of a simulated BMC, as commands of `ipmi_sim` (`ipmi_sim_cmd(5)`).

use std::fmt::Write;
use std::path::Path;

/// How many sensors the BMC has.
pub const SENSORS: usize = 40;

/// The name and the unit of each odd sensor, its type and its raw value. IPMI 2.0, tables 42-3 and 43-15.
const ODD: [(&[u8], u8, u8, u8); 9] = [
    (b"CPU2, Temp", CELSIUS, TEMPERATURE, 100),
    (b"q\"uote", RPM, FAN, 120),
    (b"new\nline", RPM, FAN, 0),
    (b"lat\xe9n", VOLTS, VOLTAGE, 100),
    (b"", AMPS, CURRENT, 100),
    (b"bell\x07\x1b[1m", WATTS, OTHER, 175),
    (b"Temp", CELSIUS, TEMPERATURE, 101),
    (b"Temp", CELSIUS, TEMPERATURE, 102),
    (b"Height", FEET, OTHER, 100),
];

const CELSIUS: u8 = 1;
const VOLTS: u8 = 4;
const AMPS: u8 = 5;
const WATTS: u8 = 6;
const RPM: u8 = 18;
const FEET: u8 = 29;

const TEMPERATURE: u8 = 1;
const VOLTAGE: u8 = 2;
const CURRENT: u8 = 3;
const FAN: u8 = 4;
const OTHER: u8 = 11;

/// This sensor reads its value from the file `hot`. It exists while the file `present` has a 1.
const MOVING: u8 = 1;

/// A sensor with states, which the list does not show: whether the moving one is present.
const PRESENCE: u8 = 200;

const PRESENT: u8 = 0x25;
const STATES: u8 = 0x6f;
const THRESHOLDS: u8 = 1;

/// A sensor that the BMC has a definition of, and nothing else.
const GHOST: u8 = 2;

/// The commands for all of them. `folder` has the files of the moving one.
pub fn commands(folder: &Path) -> String {
    let folder = folder.display();
    let mut text = format!(
        "sensor_add 0x20 0 {PRESENCE} {PRESENT} {STATES} poll 50 file \"{folder}/present\"\n{}\
         sensor_add 0x20 0 {MOVING} {TEMPERATURE} {THRESHOLDS} poll 50 file \"{folder}/hot\" depends=0x20,0,{PRESENCE},0\n",
        readable(PRESENCE),
    );
    define(&mut text, MOVING, b"Moving", CELSIUS, TEMPERATURE);
    text += &readable(MOVING);
    define(&mut text, GHOST, b"Ghost", CELSIUS, TEMPERATURE);
    for (number, (name, unit, kind, value)) in (GHOST + 1..).zip(ODD) {
        add(&mut text, number, name, unit, kind, value);
    }
    for number in GHOST + 1 + 9..=40 {
        add(&mut text, number, format!("Fan {number}").as_bytes(), RPM, FAN, 100 + number);
    }
    text
}

fn add(text: &mut String, number: u8, name: &[u8], unit: u8, kind: u8, value: u8) {
    let _ = writeln!(text, "sensor_add 0x20 0 {number} {kind} {THRESHOLDS}");
    define(text, number, name, unit, kind);
    *text += &readable(number);
    let _ = writeln!(text, "sensor_set_value 0x20 0 {number} {value} 0"); // now its thresholds are looked at
}

/// A threshold sensor says nothing without it.
fn readable(number: u8) -> String {
    let (all, none) = ("000111111111111", "000000000000000");
    format!(
        "sensor_set_event_support 0x20 0 {number} enable scanning per-state {all} {all} {none} {none}\n\
         sensor_set_threshold 0x20 0 {number} readable 111111 0xf0 0xe0 0xd0 0x10 0x20 0x30\n"
    )
}

/// A full sensor record (IPMI 2.0, 43.1), whose raw value is the value.
fn define(text: &mut String, number: u8, name: &[u8], unit: u8, kind: u8) {
    const ENTITY: [u8; 2] = [7, 1]; // the first system board
    const READABLE: u8 = 0x3f; // all six thresholds
    let mut record = vec![0x20, 0, number, ENTITY[0], ENTITY[1], 0x7f, 0x68, kind, THRESHOLDS];
    record.extend([0, 0, 0, 0, READABLE, READABLE, 0, unit, 0, 0, 1, 0, 0, 0, 0, 0]);
    record.extend([0, 0, 0, 0, 0xff, 0, 0xf0, 0xe0, 0xd0, 0x10, 0x20, 0x30, 0, 0, 0, 0, 0]);
    record.push(0xc0 | u8::try_from(name.len()).expect("a short name"));
    record.extend(name);
    let length = u8::try_from(record.len()).expect("a short record");
    let bytes: Vec<_> =
        [0, 0, 0x51, 1, length].iter().chain(&record).map(|byte| format!("{byte:#04x}")).collect();
    let _ = writeln!(text, "main_sdr_add 0x20 {}", bytes.join(" "));
}
