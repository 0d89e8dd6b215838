//! The sources of a CGI program's configuration, and the reports of configuration errors.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::cgi::program::{Cgi, cgi};
use crate::support::{KEY, Running, Sidecar, TempDir};

fn with_fake() -> Running {
    Sidecar::with_fake_ipmitool(r#"env >"$0.env"; echo 'Chassis Power is on'"#).start()
}

/// The client must not see the details.
#[test]
fn a_configuration_error_is_500_and_only_the_log_has_its_details() {
    let sidecar = with_fake();
    let wrong = |cgi: Cgi<'_>| {
        let reply = cgi.variable("BMC_PORT", "abc").without("BMC_USER").expect_failure(500, "misconfigured");
        for hidden in ["BMC_PORT", "abc", "BMC_USER"] {
            let error = reply.json["error"].as_str().expect("a text");
            assert!(!error.contains(hidden), "{reply:?}");
        }
        reply.logs("ipmi-sidecar: BMC_PORT is \"abc\"").logs("ipmi-sidecar: BMC_USER is not set")
    };
    wrong(cgi(&sidecar, "GET", "/health"));
    wrong(cgi(&sidecar, "POST", "/power/on").key(KEY));
    wrong(cgi(&sidecar, "POST", "/power/on").key("wr0ng-key-5f2c81d07ae4").body("four"));
    assert_eq!(sidecar.ipmitool_runs().len(), 0);
}

#[test]
fn a_bad_request_is_400_with_a_wrong_configuration_too() {
    let sidecar = with_fake();
    let reply = cgi(&sidecar, "", "/health").without("API_KEY").expect_failure(400, "bad_request");
    reply.logs("API_KEY");
}

/// A file of variables with the mode 640.
fn file(dir: &TempDir, text: &str) -> PathBuf {
    let path = dir.file("ipmi-sidecar.env", text);
    set_permissions(&path, Permissions::from_mode(0o640)).expect("a mode");
    path
}

/// A request that gets its configuration only from this file.
fn with_file<'a>(sidecar: &'a Running, file: &Path) -> Cgi<'a> {
    let cgi = cgi(sidecar, "GET", "/power/status").key(KEY);
    let names = ["API_KEY", "BMC_HOST", "BMC_USER", "BMC_PASSWORD"];
    names.into_iter().fold(cgi, Cgi::without).variable("IPMI_SIDECAR_ENV", file)
}

fn good() -> String {
    format!(
        "# A comment, and an empty line.\n\n\
         API_KEY={KEY}\nBMC_HOST=127.0.0.1\n\
         BMC_USER='admin'\nBMC_PASSWORD=\"two words\"  # quoted as in a shell\n"
    )
}

#[test]
fn a_file_sets_the_variables() {
    let (sidecar, dir) = (with_fake(), TempDir::new());
    let on = json!({"success": true, "power_state": "on", "raw_output": "Chassis Power is on"});
    with_file(&sidecar, &file(&dir, &good())).expect(200, &on);
    assert_eq!(sidecar.ipmitool_environment(), ["IPMITOOL_PASSWORD=two words", "LC_ALL=C"]);
}

#[test]
fn the_environment_overrides_the_file() {
    let (sidecar, dir) = (with_fake(), TempDir::new());
    let file = file(&dir, &good());
    let reply = with_file(&sidecar, &file).variable("BMC_PASSWORD", "0ther").run();
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(sidecar.ipmitool_environment(), ["IPMITOOL_PASSWORD=0ther", "LC_ALL=C"]);
    // An empty variable counts as unset.
    assert_eq!(with_file(&sidecar, &file).variable("BMC_PASSWORD", "").run().status, 200);
    assert_eq!(sidecar.ipmitool_environment(), ["IPMITOOL_PASSWORD=two words", "LC_ALL=C"]);
}

#[test]
fn a_file_that_others_can_read_is_refused() {
    let (sidecar, dir) = (with_fake(), TempDir::new());
    let file = file(&dir, &good());
    for mode in [0o644, 0o604, 0o666] {
        set_permissions(&file, Permissions::from_mode(mode)).expect("a mode");
        let remedy = format!("chmod o= {}", file.display());
        with_file(&sidecar, &file).expect_failure(500, "misconfigured").logs(&remedy);
    }
    set_permissions(&file, Permissions::from_mode(0o600)).expect("a mode");
    assert_eq!(with_file(&sidecar, &file).run().status, 200);
}

#[test]
fn a_wrong_line_is_reported_by_its_number_and_not_printed() {
    let (sidecar, dir) = (with_fake(), TempDir::new());
    for line in ["hunter2hunter2", "BMC_PASSWORD=hunter2 hunter2", "BMC_PASSWORD='hunter2", "X = hunter2"] {
        let file = file(&dir, &format!("{}{line}\n", good()));
        let reply = with_file(&sidecar, &file).expect_failure(500, "misconfigured");
        assert!(!reply.stderr.contains("hunter2"), "{reply:?}");
        reply.logs("IPMI_SIDECAR_ENV").logs("line 7:");
    }
}

#[test]
fn an_unusable_file_is_reported() {
    let (sidecar, dir) = (with_fake(), TempDir::new());
    let large = file(&dir, &"# more than 4 KiB\n".repeat(300));
    for file in [Path::new("/no/such/file"), Path::new("/dev/null"), dir.path(), &large] {
        let reply = with_file(&sidecar, file).expect_failure(500, "misconfigured");
        reply.logs(&format!("IPMI_SIDECAR_ENV is {:?}", file.display().to_string()));
    }
}

/// A password in the wrong variable is still a secret.
#[test]
fn a_wrong_value_in_the_file_is_reported() {
    let (sidecar, dir) = (with_fake(), TempDir::new());
    let file = file(&dir, &format!("{}BMC_PORT=abc\nIPMITOOL_ARGS='-P hunter2'\n", good()));
    let reply = with_file(&sidecar, &file).expect_failure(500, "misconfigured").logs("BMC_PORT is \"abc\"");
    assert!(!reply.stderr.contains("hunter2"), "{reply:?}");
}

#[test]
fn state_dir_must_be_a_writable_folder() {
    let sidecar = with_fake();
    let request =
        |state: &str| cgi(&sidecar, "GET", "/power/status").key(KEY).variable("STATE_DIR", state.to_owned());
    request("state")
        .expect_failure(500, "misconfigured")
        .logs("STATE_DIR is \"state\"")
        .logs("absolute path");
    for state in ["/no/such/folder", "/dev/null"] {
        request(state).expect_failure(500, "misconfigured").logs(&format!("STATE_DIR is \"{state}\": "));
    }
    let dir = TempDir::new();
    let lock = dir.path().join("reads.lock");
    std::fs::create_dir(&lock).expect("a folder in place of the lock file");
    let state = dir.path().display().to_string();
    let reply = request(&state).expect_failure(500, "internal").within(Duration::from_secs(6));
    reply.logs("STATE_DIR").logs(&lock.display().to_string());
    assert_eq!(sidecar.ipmitool_runs().len(), 0);
}
