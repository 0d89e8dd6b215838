//! The nouns of IPMI chassis power: `Command`, the whole allow-list, and the line by which each one succeeds.

/// Everything this program can ask a BMC to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Asking again is harmless, and several who ask may share the answer.
    Read(Read),
    /// Must be sent at most once.
    Change(Change),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// Get Chassis Status (IPMI 2.0, 28.2).
    PowerStatus,
}

/// Chassis Control (IPMI 2.0, 28.3).
#[allow(clippy::enum_variant_names)] // their names in the field: "on" or "reset" alone say too little
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    PowerOn,
    /// Emulates a press of the power button: the operating system is asked to shut down.
    PowerSoft,
    /// Cuts the power.
    PowerOff,
    /// Off, and on again after at least a second.
    PowerCycle,
    /// A hard reset, without loss of power.
    PowerReset,
}

/// Whether the server has power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    On,
    Off,
}

impl Command {
    pub const ALL: [Self; 6] = [
        Self::Read(Read::PowerStatus),
        Self::Change(Change::PowerOn),
        Self::Change(Change::PowerSoft),
        Self::Change(Change::PowerOff),
        Self::Change(Change::PowerCycle),
        Self::Change(Change::PowerReset),
    ];

    /// The command as `ipmitool` takes it, and as replies name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read(Read::PowerStatus) => "power status",
            Self::Change(Change::PowerOn) => "power on",
            Self::Change(Change::PowerSoft) => "power soft",
            Self::Change(Change::PowerOff) => "power off",
            Self::Change(Change::PowerCycle) => "power cycle",
            Self::Change(Change::PowerReset) => "power reset",
        }
    }

    /// `ipmitool`'s last arguments.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        self.name().split(' ')
    }
}

impl Change {
    pub const ALL: [Self; 5] =
        [Self::PowerOn, Self::PowerSoft, Self::PowerOff, Self::PowerCycle, Self::PowerReset];

    /// A second one in a row meets a server that is just starting; the others find done what they ask for.
    pub const fn restarts(self) -> bool {
        matches!(self, Self::PowerCycle | Self::PowerReset)
    }

    /// The line that `ipmitool` prints once the BMC has acknowledged the change.
    pub const fn success_line(self) -> &'static str {
        match self {
            Self::PowerOn => "Chassis Power Control: Up/On",
            Self::PowerSoft => "Chassis Power Control: Soft",
            Self::PowerOff => "Chassis Power Control: Down/Off",
            Self::PowerCycle => "Chassis Power Control: Cycle",
            Self::PowerReset => "Chassis Power Control: Reset",
        }
    }
}

impl Power {
    pub const ALL: [Self; 2] = [Self::On, Self::Off];

    /// The word in replies.
    pub const fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }

    /// The line that answers `power status`.
    pub const fn status_line(self) -> &'static str {
        match self {
            Self::On => "Chassis Power is on",
            Self::Off => "Chassis Power is off",
        }
    }
}
