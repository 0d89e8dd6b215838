//! The one harness: the real binary beside a simulated BMC, driven over a socket.
//!
//! ```ignore
//! Sidecar::beside(SimulatedBmc::off())
//!     .start()
//!     .post("/power/on")
//!     .key(KEY)
//!     .expect(200, json!({"success": true, "output": "Chassis Power Control: Up/On", "command": "power on"}))
//!     .bmc_was_asked(["set power 1"]);
//! ```

#![allow(dead_code, unused_imports, reason = "each of the test programs uses a part of it")]

mod fake_ipmitool;
mod patience;
mod process;
mod relay;
mod request;
mod scratch;
mod sidecar;
mod simulated_bmc;

pub use fake_ipmitool::require;
pub use patience::{PATIENCE, eventually, until};
pub use process::{Process, is_gone};
pub use relay::{Line, Loss, Step};
pub use request::{Connection, Reply, Request};
pub use scratch::Scratch;
pub use sidecar::{Finished, KEY, Running, Sidecar};
pub use simulated_bmc::{SimulatedBmc, own_address};
