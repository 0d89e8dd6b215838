//! The servers: `SERVERS`, and how to reach the BMC of each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::reader::Reader;
use super::variables::{
    BMC_BOOT, BMC_CIPHER_SUITE, BMC_HOST, BMC_KG_KEY, BMC_PASSWORD, BMC_PORT, BMC_PRIVILEGE, BMC_USER,
    Fallback, IPMITOOL_ARGS, SERVERS, Variable,
};
use crate::bmc::arguments::{CipherSuite, Target};
use crate::secret::Credential;
use crate::server::Server;

/// What the plain variables gave, once for all servers that share it: one file is read by one thread.
type Shared = BTreeMap<&'static str, Option<Credential>>;

impl Reader<'_> {
    /// The servers that `SERVERS` names, in its order.
    pub fn servers(&mut self) -> Option<Vec<Server>> {
        self.value(&SERVERS)
    }

    /// The BMC of `BMC_HOST`, if that is set, and one of each name. What is wrong is among the errors.
    pub fn targets(&mut self, servers: Option<&[Server]>, program: Option<&PathBuf>) -> Vec<Target> {
        let has_plain = self.text(BMC_HOST.name).is_some_and(|host| !host.is_empty());
        let is_needed = servers.is_some_and(<[_]>::is_empty);
        let plain = (has_plain || is_needed).then_some(Server::PLAIN);
        let mut shared = Shared::new();
        // Every server is read, so that every error is reported.
        let targets: Vec<_> = plain
            .iter()
            .chain(servers.unwrap_or_default())
            .map(|server| self.target(server.clone(), program, &mut shared))
            .collect();
        let targets: Vec<_> = targets.into_iter().flatten().collect();
        self.warn_of_twins(&targets);
        targets
    }

    fn target(&mut self, server: Server, program: Option<&PathBuf>, shared: &mut Shared) -> Option<Target> {
        let host = self.host(&server);
        let user = self.login(&BMC_USER, &server, shared);
        let password = self.login(&BMC_PASSWORD, &server, shared);
        let kg_key = self.own_or_shared(&BMC_KG_KEY, &server, shared);
        let port = self.port(&server);
        let cipher_suite = self.of_server(&BMC_CIPHER_SUITE, &server);
        let privilege = self.of_server(&BMC_PRIVILEGE, &server);
        let boot_mode = self.of_server(&BMC_BOOT, &server);
        let extra = self.of_server(&IPMITOOL_ARGS, &server);
        if cipher_suite == Some(CipherSuite::NONE) {
            let name = self.name_in_use(&BMC_CIPHER_SUITE, &server)?;
            self.warn(format!("{name} is 0: the BMC then takes any password; use 3 or 17"));
        }
        Some(Target {
            server,
            program: program?.clone(),
            host: host?,
            port: port?,
            user: user?,
            password: password?,
            kg_key: kg_key?,
            cipher_suite: cipher_suite?,
            privilege: privilege?,
            boot_mode: boot_mode?,
            extra: extra?,
        })
    }

    /// The server's own variable where it is set, else the plain one.
    fn name_in_use<T>(&mut self, variable: &Variable<T>, server: &Server) -> Option<String> {
        let own = server.variable(variable.name);
        let is_set = !self.text(&own)?.is_empty();
        Some(if is_set { own } else { variable.name.to_owned() })
    }

    fn of_server<T>(&mut self, variable: &Variable<T>, server: &Server) -> Option<T> {
        let name = self.name_in_use(variable, server)?;
        self.value_by(variable, &name, variable.parse)
    }

    /// The plain variable does not count for it: two servers with one BMC are one server.
    fn host(&mut self, server: &Server) -> Option<String> {
        let own = server.variable(BMC_HOST.name);
        match server.name() {
            Some(name) if self.text(&own)?.is_empty() => {
                self.wrong(format!("{own} is not set: it is required, since SERVERS names {name}"))
            }
            None if self.text(&own)?.is_empty() => {
                self.wrong(format!("{own} is not set: it is required, unless SERVERS names servers"))
            }
            _ => self.value_by(&BMC_HOST, &own, BMC_HOST.parse),
        }
    }

    fn login(
        &mut self,
        variable: &'static Variable<()>,
        server: &Server,
        shared: &mut Shared,
    ) -> Option<Credential> {
        self.own_or_shared(variable, server, shared)?.or_else(|| {
            let (plain, own) = (variable.name, server.variable(variable.name));
            let or_own =
                server.name().map(|name| format!(", or for {name} alone as {own}")).unwrap_or_default();
            self.wrong(format!("{plain} is not set: it is required, as {plain} or {plain}_FILE{or_own}"))
        })
    }

    /// The server's own credential where it is set, else the plain one. `Some(None)` where neither is set.
    #[allow(clippy::option_option)] // not set is no error here
    fn own_or_shared(
        &mut self,
        variable: &'static Variable<()>,
        server: &Server,
        shared: &mut Shared,
    ) -> Option<Option<Credential>> {
        if server.name().is_some()
            && let Some(credential) = self.credential(variable, &server.variable(variable.name))?
        {
            return Some(Some(credential));
        }
        let plain = variable.name;
        if !shared.contains_key(plain) {
            shared.insert(plain, self.credential(variable, plain)?);
        }
        Some(shared.get(plain).cloned().flatten())
    }

    fn port(&mut self, server: &Server) -> Option<u16> {
        let Fallback::Value(default) = BMC_PORT.default else { return None };
        for name in [server.variable(BMC_PORT.name), BMC_PORT.name.to_owned()] {
            let text = self.text(&name)?;
            // Kubernetes sets such a variable in every pod beside a Service of that name.
            if text.starts_with("tcp://") {
                let service = name.trim_end_matches("_PORT").to_ascii_lowercase().replace('_', "-");
                self.warn(format!(
                    "{name} is {text:?}, which Kubernetes made for a Service named {service}: it is ignored; \
                     enableServiceLinks: false in the pod avoids it"
                ));
            } else if !text.is_empty() {
                return self.value_by(&BMC_PORT, &name, BMC_PORT.parse);
            }
        }
        (BMC_PORT.parse)(default).ok()
    }

    /// Two names for one BMC are two queues and twice the sessions.
    fn warn_of_twins(&mut self, targets: &[Target]) {
        for (index, target) in targets.iter().enumerate() {
            let is_same = |other: &&Target| other.address() == target.address();
            if let Some(other) = targets[..index].iter().find(is_same) {
                let (own, other) =
                    (target.server.variable(BMC_HOST.name), other.server.variable(BMC_HOST.name));
                self.warn(format!("{own} is the same BMC as {other}: expected each BMC once"));
            }
        }
    }

    /// Somebody adds a server and forgets its name in the list. Kubernetes makes `BMC_NAS_SERVICE_HOST` by itself.
    pub fn warn_of_unlisted(&mut self, names: &BTreeSet<String>, servers: &[Server]) {
        let own: Vec<_> = servers.iter().map(|server| server.variable(BMC_HOST.name)).collect();
        for name in names.iter().filter(|name| !own.contains(name)) {
            let Some(rest) = name.strip_prefix("BMC_").and_then(|rest| rest.strip_suffix("_HOST")) else {
                continue;
            };
            if !format!("_{rest}").ends_with("_SERVICE") && !self.text(name).unwrap_or_default().is_empty() {
                let server = rest.to_ascii_lowercase().replace('_', "-");
                self.warn(format!("{name} is set, and ignored: SERVERS does not name {server}"));
            }
        }
    }
}
