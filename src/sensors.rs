//! What `ipmitool -c -v sdr elist full` prints, as the sensors of a reply. Pure.
//!
//! The output is not CSV: nothing is quoted, and a name may hold a comma, a quote or a newline. What stands behind the
//! name is `ipmitool`'s own. So a row is read from its end, and what is left is the name.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::readings::Answer;

/// One row of the list.
#[derive(Debug, Clone, PartialEq)]
pub struct Sensor {
    /// Made of the name. No other sensor of the list has it.
    pub id: String,
    pub name: String,
    /// `temperature`, `fan`, `voltage`, `current`, `power` or `other`.
    pub kind: &'static str,
    /// `None` if the BMC gave none. Neither has a sensor with states.
    pub value: Option<f64>,
    pub unit: Option<Cow<'static, str>>,
    /// In `ipmitool`'s own words: see [`STATUSES`].
    pub status: &'static str,
    /// Which part of the server it belongs to, such as `3.1` for the first processor (IPMI 2.0, 43.14).
    pub entity: String,
    /// What a sensor with states tells. `ok` beside it means only that it could be read.
    pub state: Option<String>,
}

/// Every status, in words under `-v` and without. `ns` is no reading.
pub const STATUSES: [&str; 17] = [
    "ok",
    "ns",
    "Upper Non-Critical",
    "Upper Critical",
    "Upper Non-Recoverable",
    "Lower Non-Critical",
    "Lower Critical",
    "Lower Non-Recoverable",
    "nc",
    "cr",
    "nr",
    "unc",
    "ucr",
    "unr",
    "lnc",
    "lcr",
    "lnr",
];

/// The unit as Home Assistant names it, and the kind that it decides. Of a watt sensor the BMC's own type says anything.
#[rustfmt::skip] // a table
const UNITS: &[(&str, &str, Option<&str>)] = &[
    ("degrees C", "°C",      Some("temperature")),
    ("degrees F", "°F",      Some("temperature")),
    ("degrees K", "K",       Some("temperature")),
    ("RPM",       "rpm",     Some("fan")),
    ("Volts",     "V",       Some("voltage")),
    ("Amps",      "A",       Some("current")),
    ("Watts",     "W",       Some("power")),
    ("VA",        "VA",      None),
    ("percent",   "%",       None),
    ("CFM",       "ft³/min", None),
    ("Hz",        "Hz",      None),
    ("Joules",    "J",       None),
];

/// The status of a sensor that gives none.
const NO_READING: &str = "ns";

/// A line of the log names fewer sensors than this: it stays readable.
const MAX_TOLD: usize = 8;

/// Units that say there is none.
const NO_UNIT: [&[u8]; 3] = [b"", b"unspecified", b"none"];

/// The kind by the sensor's type (IPMI 2.0, table 42-3), where no unit decides.
const TYPES: [(&[u8], &str); 4] =
    [(b"Temperature", "temperature"), (b"Fan", "fan"), (b"Voltage", "voltage"), (b"Current", "current")];

/// Behind the status: the entity with its name, the type, three normal values, six thresholds and the range.
const TAIL: usize = 14;

/// The numbers at the end of these.
const NUMBERS: usize = 11;

/// Bytes of a name that a newline splits. `ipmitool` cuts a name at 16 bytes. What is longer is no name.
const MAX_SPLIT: usize = 64;

/// Every sensor of the list, in the order of the BMC. `None` if it is no such list, or ends in the middle of a row.
#[must_use]
pub fn read(stdout: &[u8]) -> Option<Vec<Sensor>> {
    let (mut sensors, mut before) = (Vec::new(), Vec::new());
    let mut lines: Vec<_> = stdout.split(|byte| *byte == b'\n').collect();
    if !lines.pop()?.is_empty() {
        return None;
    }
    let mut ids = Ids::default();
    for line in lines {
        match Row::read(line) {
            Some(row) => {
                before.extend_from_slice(row.name);
                let name = text(&before);
                sensors.push(row.sensor(ids.of(&name), name));
                before.clear();
            }
            // The beginning of a name that has a newline in it.
            None if before.len() + line.len() < MAX_SPLIT => {
                before.extend_from_slice(line);
                before.push(b'\n');
            }
            None => return None,
        }
    }
    before.is_empty().then_some(sensors)
}

/// The reply's members, with a list that was complete so long ago.
#[must_use]
pub fn answer(sensors: &[Sensor], age: Duration) -> Answer {
    Answer {
        line: summary(sensors),
        members: vec![
            ("sensors", sensors.iter().map(Sensor::to_json).collect()),
            ("age", age.as_secs().into()),
        ],
    }
}

/// One line for the log: how many there are, and which are not ok. An id is plain, whatever the BMC calls the sensor.
fn summary(sensors: &[Sensor]) -> String {
    let silent = sensors.iter().filter(|sensor| sensor.status == NO_READING).count();
    let bad = sensors.iter().filter(|sensor| !["ok", NO_READING].contains(&sensor.status));
    let bad: Vec<_> = bad.map(|sensor| format!("{} ({})", sensor.id, sensor.status)).collect();
    let not_ok = match bad.get(..MAX_TOLD) {
        Some(first) => format!("{} and {} more", first.join(", "), bad.len() - MAX_TOLD),
        None if bad.is_empty() => "none".to_owned(),
        None => bad.join(", "),
    };
    format!("sensors: {}, without a reading: {silent}, not ok: {not_ok}", sensors.len())
}

impl Sensor {
    fn to_json(&self) -> Value {
        let mut members = json!({
            "id": self.id, "name": self.name, "type": self.kind, "value": self.value, "unit": self.unit,
            "status": self.status, "entity": self.entity,
        });
        if let Some(state) = &self.state {
            members["state"] = json!(state);
        }
        members
    }
}

/// A row as its fields.
struct Row<'a> {
    name: &'a [u8],
    value: &'a [u8],
    unit: &'a [u8],
    status: &'static str,
    entity: &'a [u8],
    kind: &'a [u8],
    state: &'a [u8],
}

impl<'a> Row<'a> {
    fn read(line: &'a [u8]) -> Option<Self> {
        let Some((head, tail)) = split_off_last(line, TAIL).filter(|(_, tail)| is_tail(tail)) else {
            return Self::of_states(line);
        };
        let [_, kind, ..] = tail[1..] else { return None };
        let row = Self::of_threshold(head, tail[0]).or_else(|| Self::of_states(head))?;
        Some(Self { kind, ..row })
    }

    /// `NAME,45,degrees C,ok`
    fn of_threshold(head: &'a [u8], entity: &'a [u8]) -> Option<Self> {
        let (name, fields) = split_off_last(head, 3)?;
        let [value, unit, status] = fields[..] else { return None };
        Some(Self { name, value, unit, status: status_of(status)?, entity, kind: b"", state: b"" })
    }

    /// `NAME,18h,ok,10.1,Presence detected`, or a value with its unit in place of the number. The states may have commas
    /// as well, but never look like `ok,10.1`.
    fn of_states(line: &'a [u8]) -> Option<Self> {
        let commas: Vec<_> =
            line.iter().enumerate().filter_map(|(at, byte)| (*byte == b',').then_some(at)).collect();
        commas.windows(3).rev().find_map(|places| {
            let [first, second, third] = places[..] else { return None };
            let (status, entity) = (status_of(&line[first + 1..second])?, &line[second + 1..third]);
            if !is_entity(entity) {
                return None;
            }
            let state = &line[third + 1..];
            let state = if state == b"No Reading" { b"" } else { state };
            let head = &line[..first];
            let (name, value, unit) = match split_off_last(head, 1) {
                Some((name, number)) if is_number_of_sensor(number[0]) => (name, &b""[..], &b""[..]),
                _ => {
                    let (name, fields) = split_off_last(head, 2)?;
                    number(fields[0])?;
                    (name, fields[0], fields[1])
                }
            };
            Some(Self { name, value, unit, status, entity, kind: b"", state })
        })
    }

    fn sensor(self, id: String, name: String) -> Sensor {
        let known = UNITS.iter().find(|(own, ..)| own.as_bytes() == self.unit);
        let unit = match known {
            Some((_, unit, _)) => Some(Cow::Borrowed(*unit)),
            None if NO_UNIT.contains(&self.unit) => None,
            None => Some(Cow::Owned(text(self.unit))),
        };
        let by_type = || TYPES.iter().find(|(own, _)| *own == self.kind).map(|(_, kind)| *kind);
        Sensor {
            id,
            name,
            kind: known.and_then(|(.., kind)| *kind).or_else(by_type).unwrap_or("other"),
            value: number(self.value),
            unit,
            status: self.status,
            entity: text(self.entity),
            state: Some(text(self.state)).filter(|state| !state.is_empty()),
        }
    }
}

/// The last fields, and what stands before them. `None` if nothing does.
fn split_off_last(line: &[u8], count: usize) -> Option<(&[u8], Vec<&[u8]>)> {
    let mut fields: Vec<_> = line.rsplitn(count + 1, |byte| *byte == b',').collect();
    let head = fields.pop().filter(|_| fields.len() == count)?;
    fields.reverse();
    Some((head, fields))
}

/// The entity, its name, the type, and numbers of which each may be missing.
fn is_tail(fields: &[&[u8]]) -> bool {
    let is_number = |field: &&[u8]| field.is_empty() || number(field).is_some() || is_hexadecimal(field);
    is_entity(fields[0]) && fields[TAIL - NUMBERS..].iter().all(is_number)
}

/// `7.1`
fn is_entity(field: &[u8]) -> bool {
    let is_digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    let mut parts = field.split(|byte| *byte == b'.');
    parts.next().is_some_and(is_digits) && parts.next().is_some_and(is_digits) && parts.next().is_none()
}

/// `18h`: a sensor with states has no value, and this in its place.
fn is_number_of_sensor(field: &[u8]) -> bool {
    field.len() == 3 && field[2] == b'h' && field[..2].iter().all(u8::is_ascii_hexdigit)
}

/// `0x0F`: a raw value.
fn is_hexadecimal(field: &[u8]) -> bool {
    field.len() == 4 && field.starts_with(b"0x") && field[2..].iter().all(u8::is_ascii_hexdigit)
}

/// `None` for `na`, `no reading`, nothing, and whatever else is no number.
fn number(field: &[u8]) -> Option<f64> {
    let number: f64 = str::from_utf8(field).ok()?.parse().ok()?;
    number.is_finite().then_some(number)
}

fn status_of(field: &[u8]) -> Option<&'static str> {
    STATUSES.into_iter().find(|status| status.as_bytes() == field)
}

/// A BMC writes Latin-1 (IPMI 2.0, 43.15), and some write UTF-8. Spaces around it only pad it.
fn text(bytes: &[u8]) -> String {
    let latin = || bytes.iter().copied().map(char::from).collect();
    str::from_utf8(bytes).map_or_else(|_| latin(), str::to_owned).trim().to_owned()
}

/// Which ids are taken, and the number that the next of a name gets.
#[derive(Default)]
struct Ids(HashMap<String, usize>);

impl Ids {
    /// Names repeat on real BMCs: nine times `Temp`.
    fn of(&mut self, name: &str) -> String {
        let plain =
            |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '_' };
        let mut base: String = name.chars().map(plain).collect();
        if base.chars().all(|letter| letter == '_') {
            "sensor".clone_into(&mut base);
        }
        let mut id = base.clone();
        let mut count = self.0.get(&base).copied().unwrap_or(1);
        // `Temp 2` may stand behind two sensors called `Temp`.
        while self.0.contains_key(&id) {
            count += 1;
            id = format!("{base}_{count}");
        }
        self.0.insert(base, count);
        self.0.entry(id.clone()).or_insert(1);
        id
    }
}
