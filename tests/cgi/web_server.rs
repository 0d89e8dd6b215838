//! Real web servers, each with its configuration from `deploy/cgi`. The tests replace only the paths in it.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::process::geteuid;

use crate::support::{
    Process, Request, Running, Sidecar, TIMEOUT, TempDir, require, unique_address, wait_for,
};

#[derive(Debug, Clone, Copy)]
pub enum WebServer {
    Lighttpd,
    Apache,
    Nginx,
}

use WebServer::{Apache, Lighttpd, Nginx};

/// The paths in the configurations of `deploy/cgi`. The tests replace them.
const PROGRAM: &str = "/usr/local/bin/ipmi-sidecar";
const ENVIRONMENT: &str = "/etc/ipmi-sidecar.env";
const SOCKET: &str = "/run/fcgiwrap.socket";

/// The user of a web server when the tests run as root. Apache refuses to run as root, and no port here needs
/// root.
const NOBODY: u32 = 65534;

/// A small main configuration, with the modules that Debian's own one loads too. It includes the one of
/// `deploy/cgi`.
const LIGHTTPD: &str = r#"
server.modules = ( "mod_access", "mod_alias", "mod_accesslog" )
server.document-root = "DIR"
server.upload-dirs = ( "DIR" )
server.bind = "ADDRESS"
server.port = PORT
accesslog.filename = "DIR/access.log"
include "DIR/ipmi-sidecar.conf"
"#;

const APACHE: &str = r#"
ServerName localhost
Listen ADDRESS:PORT
DefaultRuntimeDir "DIR"
PidFile "DIR/pid"
ErrorLog "|/bin/cat"
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule alias_module /usr/lib/apache2/modules/mod_alias.so
LoadModule env_module /usr/lib/apache2/modules/mod_env.so
LoadModule cgid_module /usr/lib/apache2/modules/mod_cgid.so
CustomLog "DIR/access.log" "%h %l %u %t \"%r\" %>s %b"
DocumentRoot "DIR"
<Directory />
    Require all denied
</Directory>
Include "DIR/ipmi-sidecar.conf"
"#;

const NGINX: &str = r"
daemon off;
pid DIR/pid;
error_log stderr;
events {}
http {
    access_log DIR/access.log;
    client_body_temp_path DIR/body;
    fastcgi_temp_path DIR/fastcgi;
    proxy_temp_path DIR/proxy;
    scgi_temp_path DIR/scgi;
    uwsgi_temp_path DIR/uwsgi;
    server {
        listen ADDRESS:PORT;
        root DIR;
        include DIR/ipmi-sidecar.conf;
    }
}
";

impl WebServer {
    const fn shipped(self) -> &'static str {
        match self {
            Lighttpd => include_str!("../../deploy/cgi/lighttpd.conf"),
            Apache => include_str!("../../deploy/cgi/apache.conf"),
            Nginx => include_str!("../../deploy/cgi/nginx.conf"),
        }
    }

    const fn main_configuration(self) -> &'static str {
        match self {
            Lighttpd => LIGHTTPD,
            Apache => APACHE,
            Nginx => NGINX,
        }
    }

    /// Starts the web server with this sidecar as its CGI program.
    #[track_caller]
    pub fn serve(self, sidecar: Sidecar) -> Served {
        let files = TempDir::new();
        let address = unique_address(8080);
        let at = |name: &str| files.path().join(name).display().to_string();
        install(&sidecar, &files);

        let mut shipped = self.shipped().to_owned();
        let paths = [(PROGRAM, "ipmi-sidecar"), (ENVIRONMENT, "ipmi-sidecar.env"), (SOCKET, "fcgi.socket")];
        for (path, own) in paths {
            assert!(shipped.contains(path) || path == SOCKET, "no {path} in the configuration of {self:?}");
            shipped = shipped.replace(path, &at(own));
        }
        let main = self.main_configuration().replace("DIR", &files.path().display().to_string());
        let main = main.replace("ADDRESS", &address.ip().to_string());
        let main = main.replace("PORT", &address.port().to_string());
        files.file("ipmi-sidecar.conf", shipped);
        let main = files.file("server.conf", main);

        let mut gateway = None;
        let mut command = match self {
            Lighttpd => {
                let mut command = Command::new(require("lighttpd"));
                command.arg("-D").arg("-f").arg(main);
                command
            }
            Apache => {
                // The error log goes to the standard output, so it is redirected to standard error.
                let mut command = Command::new("sh");
                command.args(["-c", r#"exec "$0" "$@" >&2"#]).arg(require("apache2"));
                command.arg("-D").arg("FOREGROUND").arg("-f").arg(main);
                command
            }
            Nginx => {
                let socket = files.path().join("fcgi.socket");
                let mut command = Command::new(require("fcgiwrap"));
                command.arg("-fc8").arg("-s").arg(format!("unix:{}", socket.display()));
                let wrapper = Process::spawn(as_web_server_user(&mut command));
                let has_socket = wait_for(TIMEOUT, || socket.exists().then_some(()));
                assert!(has_socket.is_some(), "fcgiwrap has no socket: {}", wrapper.stderr.text());
                gateway = Some(wrapper);
                symlink("/etc/nginx/fastcgi_params", at("fastcgi_params")).expect("a link");
                let mut command = Command::new(require("nginx"));
                command.arg("-e").arg("stderr").arg("-c").arg(main);
                command
            }
        };
        let process = Process::spawn(as_web_server_user(&mut command));
        Served { running: sidecar.served_by(process, address), _gateway: gateway, files }
    }
}

/// Installs the program, and its variables in a file that other users cannot read.
#[track_caller]
fn install(sidecar: &Sidecar, files: &TempDir) {
    let program = sidecar.command(&[]);
    // Another process copies it: see `TempDir::script`.
    let mut install = Command::new("install");
    install.args(["-m", "755"]).arg(program.get_program()).arg(files.path().join("ipmi-sidecar"));
    assert!(install.status().expect("install, of coreutils").success());

    let mut variables = String::new();
    for (name, value) in program.get_envs() {
        let value = value.and_then(|value| value.to_str()).expect("a text");
        assert!(!value.contains('\''), "{} would need quoting", name.display());
        writeln!(variables, "{}='{value}'", name.display()).expect("a String");
    }
    let file = files.file("ipmi-sidecar.env", variables);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("a mode");
    if geteuid().is_root() {
        chown(&file, None, Some(NOBODY)).expect("root");
    }
    give_to_web_server(files.path());
}

/// Makes the web server's user the owner of the folder.
#[track_caller]
pub fn give_to_web_server(folder: &Path) {
    if geteuid().is_root() {
        chown(folder, Some(NOBODY), None).expect("root");
    }
}

fn as_web_server_user(command: &mut Command) -> &mut Command {
    if geteuid().is_root() { command.uid(NOBODY).gid(NOBODY) } else { command }
}

/// A web server that runs. It is killed when it is dropped.
pub struct Served {
    pub running: Running,
    _gateway: Option<Process>,
    files: TempDir,
}

impl Served {
    /// A request on its own connection.
    pub fn request(&self, method: &str, target: &str) -> Request<'_> {
        self.running.request(method, target).header("Connection", "close")
    }

    pub fn get(&self, target: &str) -> Request<'_> {
        self.request("GET", target)
    }

    pub fn post(&self, target: &str) -> Request<'_> {
        self.request("POST", target)
    }

    pub fn access_log(&self) -> String {
        self.files.lines("access.log").join("\n")
    }
}
