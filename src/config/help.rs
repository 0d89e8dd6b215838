//! The text of `--help`.

use std::fmt::Write;

use super::variables::VARIABLES;

pub fn help(version: &str) -> String {
    let mut text = format!(
        "ipmi-sidecar {version}: one POST, one ipmitool run\n\n\
         Usage: ipmi-sidecar              serve HTTP\n       \
                ipmi-sidecar check [NAME] read what each BMC tells, or this one's, once, and print it\n       \
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
        "\nEach variable of a BMC can have a server's name in it, such as BMC_NAS_HOST, BMC_LAB_2_PASSWORD_FILE for \
         lab-2,\nor BMC_NAS_IPMITOOL_ARGS. All but the host fall back on the plain variable.\n\
         \nExit codes: 0 done, 1 failed, 64 wrong arguments, 71 system error, 78 wrong configuration\n",
    );
    text
}
