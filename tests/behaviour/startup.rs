//! Configuration errors: the program reports all of them at once, in one line each, and exits with 78
//! (`EX_CONFIG`).

use crate::support::{Finished, KEY, Sidecar, SimulatedBmc};

/// A valid configuration, which a test then breaks. Its BMC is never asked.
fn configured() -> Sidecar {
    Sidecar::with_bmc(SimulatedBmc::dead())
}

/// The program refuses to start. Each line has its name, so that a person finds it in a log of many programs.
#[track_caller]
fn refuses(sidecar: Sidecar) -> Finished {
    let ended = sidecar.run(&[]).exits(78);
    assert_eq!(ended.stdout, "");
    for line in ended.stderr.lines() {
        assert!(line.starts_with("ipmi-sidecar: "), "{line:?}");
    }
    ended
}

/// A variable, a wrong value, and parts of the error.
const WRONG_VALUES: &[(&str, &str, &[&str])] = &[
    ("API_KEY", "REPLACE_WITH_YOUR_KEY", &["API_KEY", "openssl rand -hex 32"]),
    ("API_KEY", "your-secret-api-key", &["API_KEY", "openssl rand -hex 32"]),
    ("API_KEY", "YOUR_API_KEY", &["API_KEY", "openssl rand -hex 32"]),
    ("API_KEY", "change-me-please", &["API_KEY", "openssl rand -hex 32"]),
    ("API_KEY", "changeme", &["API_KEY", "openssl rand -hex 32"]),
    (
        "BMC_CIPHER_SUITE",
        "three",
        &[r#"BMC_CIPHER_SUITE is "three": expected a number such as 3 or 17, or auto"#],
    ),
    ("BMC_CIPHER_SUITE", "-1", &["BMC_CIPHER_SUITE"]),
    ("BMC_CIPHER_SUITE", "300", &["BMC_CIPHER_SUITE"]),
    ("BMC_CIPHER_SUITE", "3 -P x", &["BMC_CIPHER_SUITE"]),
    ("BMC_PORT", "abc", &[r#"BMC_PORT is "abc""#]),
    ("BMC_PORT", "0", &[r#"BMC_PORT is "0""#]),
    ("BMC_PORT", "70000", &[r#"BMC_PORT is "70000""#]),
    ("BMC_USER", "seventeen-letters", &["BMC_USER", "16"]),
    ("BMC_PASSWORD", "twenty-one-characters", &["BMC_PASSWORD", "20"]),
    ("BMC_HOST", "-H", &["BMC_HOST"]),
    ("BMC_HOST", "https://bmc.lan", &["BMC_HOST"]),
    ("BMC_PRIVILEGE", "KING", &[r#"BMC_PRIVILEGE is "KING""#, "OPERATOR", "USER"]),
    ("LISTEN_ADDR", "nonsense", &[r#"LISTEN_ADDR is "nonsense""#, "127.0.0.1:8080"]),
    ("LISTEN_ADDR", "127.0.0.1", &["LISTEN_ADDR"]),
    ("REQUEST_TIMEOUT", "5", &[r#"REQUEST_TIMEOUT is "5""#, "7", "120"]),
    ("REQUEST_TIMEOUT", "121", &[r#"REQUEST_TIMEOUT is "121""#]),
    ("REQUEST_TIMEOUT", "9s", &["REQUEST_TIMEOUT"]),
    ("RUST_LOG", "nonsense", &[r#"RUST_LOG is "nonsense""#, "debug"]),
    ("IPMITOOL", "/no/such", &[r#"IPMITOOL is "/no/such""#]),
    ("IPMITOOL", "no-such-program", &["IPMITOOL", "no-such-program"]),
    ("IPMITOOL", "/etc/passwd", &["IPMITOOL"]),
    ("IPMITOOL", "/tmp", &["IPMITOOL"]),
    // These could repeat a change, print the password, or add a command.
    ("IPMITOOL_ARGS", "-R 4", &["IPMITOOL_ARGS", "-R"]),
    ("IPMITOOL_ARGS", "-R4", &["IPMITOOL_ARGS", "-R"]),
    ("IPMITOOL_ARGS", "-N 9", &["IPMITOOL_ARGS", "-N", "REQUEST_TIMEOUT"]),
    ("IPMITOOL_ARGS", "-vvv", &["IPMITOOL_ARGS", "-v"]),
    ("IPMITOOL_ARGS", "-C 17", &["IPMITOOL_ARGS", "BMC_CIPHER_SUITE"]),
    ("IPMITOOL_ARGS", "-L USER", &["IPMITOOL_ARGS", "BMC_PRIVILEGE"]),
    ("IPMITOOL_ARGS", "-H other", &["IPMITOOL_ARGS", "BMC_HOST"]),
    ("IPMITOOL_ARGS", "-U root", &["IPMITOOL_ARGS", "BMC_USER"]),
    ("IPMITOOL_ARGS", "-p 624", &["IPMITOOL_ARGS", "BMC_PORT"]),
    ("IPMITOOL_ARGS", "-f /etc/passwd", &["IPMITOOL_ARGS", "BMC_PASSWORD_FILE"]),
    ("IPMITOOL_ARGS", "power off", &["IPMITOOL_ARGS", "not allowed"]),
    ("IPMITOOL_ARGS", "-o supermicro power off", &["IPMITOOL_ARGS", "not allowed"]),
    ("IPMITOOL_ARGS", "-o 'supermicro", &["IPMITOOL_ARGS", "quot"]),
    ("IPMITOOL_ARGS", "-o", &["IPMITOOL_ARGS", "-o"]),
    ("IPMITOOL_ARGS", "-o -R", &["IPMITOOL_ARGS"]),
    ("IPMITOOL_ARGS", "--", &["IPMITOOL_ARGS"]),
    // With these, the real `ipmitool` exits with 0 or fails, and does nothing.
    ("IPMITOOL_ARGS", "-l 08", &["IPMITOOL_ARGS", "-l"]),
    ("IPMITOOL_ARGS", "-T 0x82", &["IPMITOOL_ARGS", "-t"]),
    ("IPMITOOL_ARGS", "-T 0x82 -t 0x00", &["IPMITOOL_ARGS", "-t"]),
];

#[test]
fn a_wrong_value_is_reported() {
    for (name, value, fragments) in WRONG_VALUES {
        let ended = refuses(configured().env(name, *value));
        assert_eq!(ended.stderr.lines().count(), 1, "{name}={value}: {ended:?}");
        for fragment in *fragments {
            assert!(ended.stderr.contains(fragment), "{name}={value}, no {fragment:?}: {ended:?}");
        }
    }
}

#[test]
fn all_missing_variables_are_reported_at_once() {
    let ended = refuses(Sidecar::unconfigured());
    for name in ["API_KEY", "BMC_HOST", "BMC_USER", "BMC_PASSWORD"] {
        let lines = ended.stderr.lines().filter(|line| line.contains(&format!(": {name} ")));
        assert_eq!(lines.count(), 1, "{name}: {ended:?}");
    }
}

#[test]
fn all_wrong_values_are_reported_at_once() {
    let broken = configured().without("API_KEY").env("PATH", "/nowhere");
    let ended = refuses(
        broken
            .env("BMC_CIPHER_SUITE", "three")
            .env("BMC_PORT", "abc")
            .env("BMC_PASSWORD", "twenty-one-characters")
            .env("BMC_PRIVILEGE", "KING")
            .env("IPMITOOL_ARGS", "-vvv")
            .env("LISTEN_ADDR", "nonsense")
            .env("REQUEST_TIMEOUT", "5")
            .env("RUST_LOG", "nonsense")
            .env("STATE_DIR", "/no/such"),
    );
    let names = [
        "API_KEY",
        "BMC_CIPHER_SUITE",
        "BMC_PORT",
        "BMC_PASSWORD",
        "BMC_PRIVILEGE",
        "IPMITOOL ",
        "IPMITOOL_ARGS",
        "LISTEN_ADDR",
        "REQUEST_TIMEOUT",
        "RUST_LOG",
        "STATE_DIR",
    ];
    for name in names {
        assert!(ended.stderr.contains(&format!("ipmi-sidecar: {name}")), "no {name}: {ended:?}");
    }
    assert_eq!(ended.stderr.lines().count(), names.len(), "{ended:?}");
}

#[test]
fn an_empty_variable_counts_as_unset() {
    refuses(configured().env("API_KEY", "")).prints_error("API_KEY");
    configured().env("BMC_PORT", "").env("IPMITOOL_ARGS", "").env("API_KEY_FILE", "").start();
}

/// `echo "$UNSET" | base64` makes such a Secret. An empty key would give access to every client.
#[test]
fn a_secret_that_is_only_a_newline_is_a_configuration_error() {
    for name in ["API_KEY", "API_KEY_STATUS", "ACCESS_X_KEY", "BMC_USER", "BMC_PASSWORD"] {
        for newline in ["\n", "\r\n"] {
            let broken = configured().env(name, newline).env("ACCESS_X_ALLOW", "status");
            let broken = if name == "ACCESS_X_KEY" { broken } else { broken.without("ACCESS_X_ALLOW") };
            refuses(broken).prints_error(&format!("ipmi-sidecar: {name}: it is empty"));
        }
    }
}

#[test]
fn a_value_and_a_file_for_it_are_a_configuration_error() {
    for name in ["API_KEY", "BMC_USER", "BMC_PASSWORD"] {
        let file = format!("{name}_FILE");
        let ended = refuses(configured().env(&file, "/dev/null"));
        assert!(ended.stderr.contains(&file), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    }
}

#[test]
fn a_file_of_a_secret_must_be_small_and_regular() {
    let path = |path: &str| configured().without("API_KEY").env("API_KEY_FILE", path);
    refuses(path("/no/such/file")).prints_error("API_KEY_FILE").prints_error("/no/such/file");
    refuses(path("/tmp")).prints_error("API_KEY_FILE").prints_error("regular file");
    let key_itself =
        refuses(path("0f9e8d7c6b5a4f3e2d1c0b9a")).prints_error("API_KEY_FILE").prints_error("path of a file");
    assert!(!key_itself.stderr.contains("0f9e8d7c"), "{key_itself:?}");
    refuses(path("/dev/zero")).prints_error("API_KEY_FILE").prints_error("regular file");
    refuses(configured().file("API_KEY", "x".repeat(4097))).prints_error("API_KEY_FILE").prints_error("4");
    refuses(configured().file("API_KEY", "")).prints_error("API_KEY_FILE");
    refuses(configured().file("API_KEY", "\n")).prints_error("API_KEY_FILE");
    refuses(configured().file("API_KEY", b"k3y-\xff\xfe-not-text")).prints_error("API_KEY_FILE");
    refuses(configured().file("API_KEY", "REPLACE_WITH_YOUR_KEY\n")).prints_error("openssl rand -hex 32");
    refuses(configured().file("BMC_PASSWORD", "twenty-one-characters"))
        .prints_error("BMC_PASSWORD_FILE")
        .prints_error("20");
}

#[test]
fn credentials_may_come_from_files() {
    let sidecar = Sidecar::with_bmc(SimulatedBmc::on())
        .file("API_KEY", format!("{KEY}\n"))
        .file("BMC_USER", "admin\n")
        .file("BMC_PASSWORD", "s3cret\n")
        .start();
    assert_eq!(sidecar.get("/power/status").key(KEY).send().status, 200);
}

/// A password in the wrong variable is still a secret.
#[test]
fn a_password_in_the_wrong_variable_is_refused_and_not_printed() {
    for option in ["-P", "-k", "-y"] {
        let ended = refuses(configured().env("IPMITOOL_ARGS", format!("{option} hunter2hunter2")));
        assert!(ended.stderr.contains("IPMITOOL_ARGS") && ended.stderr.contains(option), "{ended:?}");
        assert!(!ended.stderr.contains("hunter2hunter2"), "{ended:?}");
    }
    refuses(configured().env("IPMITOOL_ARGS", "-P hunter2hunter2")).prints_error("BMC_PASSWORD");
    for (name, value) in [
        ("BMC_HOST", "https://root:hunter2hunter2@192.0.2.10"),
        ("IPMITOOL", "ipmitool -U root -P hunter2hunter2"),
    ] {
        let ended = refuses(configured().env(name, value));
        assert!(ended.stderr.contains(name) && !ended.stderr.contains("hunter2hunter2"), "{ended:?}");
    }
}

#[test]
fn an_unusual_but_possible_value_is_only_a_warning() {
    for (name, value, fragment) in [
        ("BMC_PORT", "tcp://10.43.7.5:623", "BMC_PORT"),
        ("BMC_CIPHER_SUITE", "0", "BMC_CIPHER_SUITE"),
        ("API_KEY", "short-k3y", "API_KEY"),
    ] {
        let sidecar = configured().env(name, value).start();
        let log = sidecar.log();
        let warning = log.lines().find(|line| line.contains("WARN"));
        assert!(warning.is_some_and(|line| line.contains(fragment)), "{name}={value}: {log}");
    }
}

#[test]
fn an_address_in_use_is_reported() {
    let first = configured().start();
    let address = first.address.to_string();
    let ended = configured().env("LISTEN_ADDR", &address).run(&[]);
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.contains("ipmi-sidecar: ") && ended.stderr.contains(&address), "{ended:?}");
}

#[test]
fn unknown_variables_are_ignored() {
    let sidecar = configured().env("BMC_SERVICE_HOST", "10.43.7.5").env("FLASK_ENV", "production").start();
    assert!(!sidecar.log().contains("WARN"), "{}", sidecar.log());
}

#[test]
fn the_first_log_line_has_the_version_the_address_and_the_bmc_user() {
    let sidecar = configured().start();
    let version = concat!("ipmi-sidecar ", env!("CARGO_PKG_VERSION"));
    sidecar.logs(version).logs(&format!("listening on {}", sidecar.address)).logs("as admin");
}
