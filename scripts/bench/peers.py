"""The peers: how each starts, its routes, and its size on disk."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KEY = "key-of-the-benchmark-and-of-nothing-else"
PASSWORD = "pw-of-a-bench"
OURS = {"API_KEY": KEY, "BMC_HOST": "127.0.0.1", "BMC_USER": "admin", "BMC_PASSWORD": PASSWORD}


class Site:
    """All peers of one run use this: a folder, the programs, and the command lines of `ipmitool`."""

    def __init__(self, bench, binary, folder, bmc_port):
        self.bench, self.binary, self.folder, self.bmc_port = bench, binary, folder, bmc_port
        self.ipmitool = bench / "stub/0/ipmitool"
        self.commands = {}

    def learn_commands(self, log):
        """Reads the command lines of `ipmitool` from our server's log. All peers use them."""
        for line in log.splitlines():
            if found := re.search(r"running env -i \S+ \S+ (.*)", line):
                words = shlex.split(found[1])
                self.commands[" ".join(words[-2:])] = words[1:]

    def command(self, words):
        kind = "power status" if words == "power status" else "power on"
        return [str(self.ipmitool), *self.commands[kind][:-2], *words.split()]

    def ours(self, port):
        return {
            **OURS,
            "BMC_PORT": str(self.bmc_port),
            "IPMITOOL": str(self.ipmitool),
            "LISTEN_ADDR": f"127.0.0.1:{port}",
            "POWER_COOLDOWN": "0",
        }

    def write(self, name, text, mode=0o600):
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file


class Peer:
    health = "/health"
    prefix = ""  # before /power/…
    healthy = "healthy"  # a part of the answer to `health`
    packages = ("ipmitool",)
    note = ""

    def prepare(self, site, port):
        """Returns the command line and the environment."""
        raise NotImplementedError

    def own_size(self, site):
        """The size in bytes without the packages."""
        return 0


class Dynamic(Peer):
    name = "ipmi-sidecar"
    note = "the release build, linked with Debian's libraries"
    packages = ("ipmitool", "libc6", "libgcc-s1")

    def prepare(self, site, port):
        return [str(site.binary)], site.ours(port)

    def own_size(self, site):
        return site.binary.stat().st_size


class Static(Peer):
    name = "ipmi-sidecar, image"
    note = "the static build of the image"
    packages = ()

    def prepare(self, site, port):
        return [str(site.bench / "image/usr/bin/ipmi-sidecar")], site.ours(port)

    def own_size(self, site):
        return size_of(site.bench / "image")


class Servers(Dynamic):
    """The release build with so many servers behind it, and none without a name."""

    def __init__(self, count):
        self.names = [f"s{number}" for number in range(count)]
        self.name = f"ipmi-sidecar, {count} server{'s' * (count > 1)}"

    def prepare(self, site, port):
        command, variables = super().prepare(site, port)
        hosts = {f"BMC_{name.upper()}_HOST": f"127.0.0.{number + 1}" for number, name in enumerate(self.names)}
        del variables["BMC_HOST"]
        return command, {**variables, **hosts, "SERVERS": ",".join(self.names)}

    def paths(self):
        return ",".join(f"/servers/{name}/power/status" for name in self.names)


class BaselineHttp(Peer):
    name = "baseline over HTTP"
    note = "a C program: the baseline behind a socket, one request at a time, no key"

    def prepare(self, site, port):
        return [str(site.bench / "baseline_http"), str(port), *site.command("power on")], {"IPMITOOL_PASSWORD": PASSWORD}


class Gunicorn(Peer):
    name = "Gunicorn"
    note = "2 sync workers, Flask and subprocess"
    packages = ("ipmitool", "python3")

    def prepare(self, site, port):
        commands = {words: site.command(words) for words in ROUTES}
        environment = {
            "BENCH_KEY": KEY,
            "BENCH_COMMANDS": json.dumps(commands),
            "IPMITOOL_PASSWORD": PASSWORD,
            "PYTHONPYCACHEPREFIX": str(site.bench / "pycache"),
        }
        server = str(site.bench / "venv/bin/gunicorn")
        return [server, "--chdir", str(HERE), "-w", "2", "-b", f"127.0.0.1:{port}", "flask_app:app"], environment

    def own_size(self, site):
        packages = next((site.bench / "venv/lib").iterdir()) / "site-packages"
        tools = ("pip", "setuptools", "_distutils_hack", "pkg_resources")
        return sum(size_of(entry) for entry in packages.iterdir() if not entry.name.startswith(tools))


class Webhook(Peer):
    name = "webhook"
    note = "written in Go; answers with ipmitool's own line, since JSON would need a shell; its / serves as /health"
    health = "/"
    healthy = "OK"
    packages = ("ipmitool", "webhook")

    def prepare(self, site, port):
        return self.serve(site, port, [self.hook(route, site.command(words)) for words, route in ROUTES.items()])

    @staticmethod
    def serve(site, port, hooks):
        file = site.write("hooks.json", json.dumps(hooks))
        command = ["webhook", "-hooks", str(file), "-ip", "127.0.0.1", "-port", str(port), "-urlprefix", ""]
        return command, {"IPMITOOL_PASSWORD": PASSWORD}

    @staticmethod
    def hook(route, command):
        key = {"type": "value", "value": KEY, "parameter": {"source": "header", "name": "X-API-Key"}}
        return {
            "id": f"power/{route}",
            "http-methods": ["GET" if route == "status" else "POST"],
            "execute-command": command[0],
            "pass-arguments-to-command": [{"source": "string", "name": word} for word in command[1:]],
            "include-command-output-in-response": True,
            "trigger-rule": {"match": key},
            "trigger-rule-mismatch-http-response-code": 401,
        }


class WebhookServers(Webhook):
    """A hook for each server."""

    def __init__(self, count):
        self.routes = [f"s{number}" for number in range(count)]
        self.name = f"webhook, {count} hooks"

    def prepare(self, site, port):
        hooks = [self.hook(route, site.command("power status")) for route in self.routes]
        for hook in hooks:
            hook["http-methods"] = ["GET"]
        return self.serve(site, port, hooks)

    def paths(self):
        return ",".join(f"/power/{route}" for route in self.routes)


class ShellCgi(Peer):
    def script(self, site):
        status, change = site.command("power status")[:-2], site.command("power on")[:-2]
        head = f"#!/bin/sh\nKEY={KEY}\nSTATUS='{shlex.join(status)}'\nCHANGE='{shlex.join(change)}'\n"
        head += f"export LC_ALL=C IPMITOOL_PASSWORD={PASSWORD}\n"
        script = site.write("www/cgi-bin/power", head + (HERE / "power.cgi").read_text(), 0o700)
        site.write("www/health", '{"status":"healthy","service":"cgi"}')
        return script


class Busybox(ShellCgi):
    name = "busybox httpd"
    note = "a CGI program in shell; /health is a file"
    prefix = "/cgi-bin"
    packages = ("ipmitool", "busybox", "dash")

    def prepare(self, site, port):
        www = self.script(site).parents[1]
        return ["busybox", "httpd", "-f", "-p", f"127.0.0.1:{port}", "-h", str(www)], {}


class Lighttpd(ShellCgi):
    name = "lighttpd, shell"
    note = "the same CGI program; /health is a file"
    packages = ("ipmitool", "lighttpd", "dash")

    def prepare(self, site, port):
        script = self.script(site)
        return lighttpd(site, port, f"""
server.modules += ( "mod_alias", "mod_cgi" )
$HTTP["url"] =~ "^/power(/|$)" {{
    alias.url = ( "/power" => "{script}" )
    cgi.assign = ( "" => "" )
}}
""")


class LighttpdOurs(Peer):
    name = "lighttpd, ours"
    note = "lighttpd with ipmi-sidecar as the CGI program, as in deploy/cgi"
    packages = ("ipmitool", "lighttpd", "libgcc-s1")

    def prepare(self, site, port):
        (site.folder / "www").mkdir(exist_ok=True)
        state = site.folder / "state"
        state.mkdir(exist_ok=True)
        variables = {**site.ours(port), "STATE_DIR": str(state)}
        file = site.write("sidecar.env", "".join(f"{name}={value}\n" for name, value in variables.items()))
        configuration = (ROOT / "deploy/cgi/lighttpd.conf").read_text()
        for theirs, mine in [("/usr/local/bin/ipmi-sidecar", site.binary), ("/etc/ipmi-sidecar.env", file)]:
            configuration = configuration.replace(theirs, str(mine))
        return lighttpd(site, port, configuration)

    def own_size(self, site):
        return site.binary.stat().st_size


def lighttpd(site, port, configuration):
    own = f'server.bind = "127.0.0.1"\nserver.port = {port}\nserver.document-root = "{site.folder}/www"\n'
    own += f'server.errorlog = "{site.folder}/lighttpd.log"\n'
    file = site.write("lighttpd.conf", own + configuration)
    return ["lighttpd", "-D", "-f", str(file)], {}


ROUTES = {
    "power status": "status",
    "power on": "on",
    "power soft": "off",
    "power off": "force-off",
    "power cycle": "cycle",
    "power reset": "reset",
}


# --- On disk --------------------------------------------------------------------


def size_of(path):
    if path.is_file():
        return path.stat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())


class Packages:
    """Debian's packages as installed here, with their dependencies."""

    def __init__(self):
        form = "${Package}\t${Pre-Depends},${Depends}\t${Provides}\n"
        listing = subprocess.run(["dpkg-query", "-W", "-f", form], capture_output=True, text=True, check=True).stdout
        self.depends, self.providers = {}, {}
        for line in listing.splitlines():
            name, depends, provides = line.split("\t")
            self.depends[name] = [clause for clause in depends.split(",") if clause.strip()]
            for provided in [name, *filter(None, map(self.bare, provides.split(",")))]:
                self.providers.setdefault(provided, name)

    @staticmethod
    def bare(word):
        return re.split(r"[ (:\[]", word.strip())[0]

    def closure(self, names):
        found, waiting = set(), list(names)
        while waiting:
            name = self.providers.get(waiting.pop())
            if name is None or name in found:
                continue
            found.add(name)
            for clause in self.depends[name]:
                installed = [word for word in map(self.bare, clause.split("|")) if word in self.providers]
                waiting.extend(installed[:1])
        return found

    def size(self, names):
        """The size in bytes of all their files."""
        total = 0
        packages = sorted(self.closure(names))
        if not packages:
            return 0
        listing = subprocess.run(["dpkg", "-L", *packages], capture_output=True, text=True, check=True).stdout
        for line in set(listing.splitlines()):
            if os.path.isfile(line) and not os.path.islink(line):
                total += os.path.getsize(line)
        return total


def clear(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
