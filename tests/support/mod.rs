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

mod fake_ipmitool;
mod patience;
mod process;
mod request;
mod scratch;
mod sidecar;
mod simulated_bmc;

pub use patience::eventually;
pub use process::is_gone;
pub use request::Connection;
pub use sidecar::{Finished, KEY, Sidecar};
pub use simulated_bmc::SimulatedBmc;
