//! The test harness: it starts the real binary with a simulated BMC and sends requests over a socket.
//!
//! ```ignore
//! Sidecar::with_bmc(SimulatedBmc::off())
//!     .start()
//!     .post("/power/on")
//!     .key(KEY)
//!     .expect(200, json!({"success": true, "output": "Chassis Power Control: Up/On", "command": "power on"}))
//!     .bmc_was_asked(["set power 1"]);
//! ```

#![allow(dead_code, unused_imports, reason = "each test program uses a part of the harness")]

mod fake_ipmitool;
mod waiting;
pub mod packages;
mod process;
mod relay;
mod request;
mod temp_dir;
mod sidecar;
mod simulated_bmc;
mod simulated_sensors;

pub use fake_ipmitool::require;
pub use process::{Process, has_ended};
pub use relay::{Link, Loss, Step};
pub use request::{Connection, Reply, Request};
pub use sidecar::{Finished, KEY, Running, Sidecar};
pub use simulated_bmc::{RunningBmc, SimulatedBmc, unique_address};
pub use simulated_sensors::SENSORS;
pub use temp_dir::TempDir;
pub use waiting::{TIMEOUT, eventually, wait_for};
