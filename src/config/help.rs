//! The text of `--help`.

use std::fmt::Write;

use super::variables::VARIABLES;

pub fn help(version: &str) -> String {
    let mut text = format!(
        "ipmi-sidecar {version}: one POST, one ipmitool run\n\n\
         Usage: ipmi-sidecar              serve HTTP\n       \
                ipmi-sidecar check        read the power status once and print it\n       \
                ipmi-sidecar healthcheck  ask the running server for /health\n       \
                ipmi-sidecar --help | --version\n\n\
         Where GATEWAY_INTERFACE is set it answers one CGI request, whatever its arguments.\n\n\
         Environment, where an empty variable is unset and NAME_FILE, for those marked *, names a file:\n"
    );
    for variable in VARIABLES {
        let mark = if variable.from_file { '*' } else { ' ' };
        let (name, default, meaning) = (variable.name, variable.default, variable.meaning);
        let _ = writeln!(text, "  {name:<19}{mark} {meaning} [{default}]"); // writing to a String cannot fail
    }
    text.push_str(
        "\nExit codes: 0 done, 1 failed, 64 wrong arguments, 71 system error, 78 wrong configuration\n",
    );
    text
}
