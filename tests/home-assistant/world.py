"""Starts simulated BMCs, the sidecar and Home Assistant, on the loopback of a network of their own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import sensors
import websocket

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "scripts/lib/bmc"  # of the simulated BMC
KEY = "key-of-the-home-assistant-test"
BMC_PASSWORD = "s3cret"
HOME_ASSISTANT = "http://127.0.0.1:8123"
TIMEOUT = 30  # seconds for a short action on a busy machine

# The steps of the first visit without its first step: these need the internet.
ONBOARDED = {"version": 4, "key": "onboarding", "data": {"done": ["core_config", "analytics", "integration"]}}

# The server of the BMC. Its power button asks the system to shut down, which takes a few seconds.
SERVER = """\
cd "{folder}"
[ "$1" = get ] || {{ echo "$*" >>journal; sleep "$(cat delay)"; }}
case "$*" in
    "get power")
        [ ! -e off-at ] || [ "$(date +%s)" -lt "$(cat off-at)" ] || {{ echo 0 >power; rm off-at; }}
        echo "power:$(cat power)"
        ;;
    "set power "*) rm -f off-at; echo "$3" >power ;;
    "set shutdown 1") [ -e ignores-button ] || echo $(($(date +%s) + $(cat shutdown-takes))) >off-at ;;
    "set reset 1") rm -f off-at ;;
esac
"""


def until(what, condition, timeout=TIMEOUT):
    """Waits for a true result of `condition`, and returns it. A network error counts as false."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            result = condition()
        except OSError:
            result = None
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s for {what}")
        time.sleep(0.2)


class Process:
    """A program that ends with the test, and its log."""

    def __init__(self, command, log, environment=None):
        self.log = log
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
            )

    def text(self):
        return self.log.read_text(errors="replace")

    def signal(self, number):
        self.popen.send_signal(number)

    def stop(self):
        if self.popen.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            try:
                self.popen.wait(30)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()


class Bmc:
    """ipmi_sim with a server that writes the commands it receives into a journal."""

    def __init__(self, folder, port, own_sensors=()):
        self.folder, self.port = folder, port
        folder.mkdir()
        server = folder / "server"
        server.write_text(SERVER.format(folder=folder))
        values = {"ADDRESS": "127.0.0.1", "PORT": port, "CHASSIS": f"sh {server}", "PASSWORD": BMC_PASSWORD}
        text = (FILES / "lan.conf").read_text()
        for name, value in values.items():
            text = text.replace(f"@{name}@", str(value))
        (folder / "lan.conf").write_text(text)
        (folder / "journal").touch()
        self.settle_in()
        self.process = None
        self.replace_sensors(own_sensors)

    def replace_sensors(self, own_sensors):
        """Starts it with these sensors."""
        if self.process:
            self.process.stop()
        self.sensors = own_sensors
        lines = (FILES / "bmc.emu").read_text().splitlines(keepends=True)
        *board, last = [line for line in lines if not line.startswith(("#", "sensor_", "main_sdr_"))]
        assert last.startswith("mc_enable"), last
        (self.folder / "bmc.emu").write_text("".join(board) + sensors.board(self.folder, own_sensors) + last)
        command = ["ipmi_sim", "-n", "-c", self.folder / "lan.conf", "-f", self.folder / "bmc.emu", "-s", self.folder]
        self.process = Process(command, self.folder / "ipmi_sim.log")

    def answers(self):
        """Asks for the authentication that it offers, as `ipmitool` does first."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(0.5)
            client.connect(("127.0.0.1", self.port))
            client.send(bytes.fromhex("0600ff07 00000000 00000000 00092018 c8810038 8e04b5"))
            return client.recv(512)

    def set_sensor(self, name, raw):
        number = [each.name for each in self.sensors].index(name) + 1
        (self.folder / f"sensor-{number}").write_text(f"{raw}\n")

    def settle_in(self, power=0, delay=0, shutdown_takes=2, ignores_button=False):
        """Sets the state of the server, and empties its journal."""
        (self.folder / "off-at").unlink(missing_ok=True)
        (self.folder / "ignores-button").unlink(missing_ok=True)
        if ignores_button:
            (self.folder / "ignores-button").touch()
        (self.folder / "power").write_text(f"{power}\n")
        (self.folder / "delay").write_text(f"{delay}\n")
        (self.folder / "shutdown-takes").write_text(f"{shutdown_takes}\n")
        (self.folder / "journal").write_text("")

    def journal(self):
        return [line.removeprefix("set ") for line in (self.folder / "journal").read_text().splitlines()]

    def fall_silent(self):
        self.process.signal(signal.SIGSTOP)

    def come_back(self):
        self.process.signal(signal.SIGCONT)


class RefusingBmc:
    """The BMC of pyghmi, which refuses to cycle a server that is off. It uses cipher suite 17."""

    def __init__(self, folder, port):
        self.port = port
        command = [sys.executable, ROOT / "scripts/lib/bmc-of-suite-17", "127.0.0.1", port]
        environment = {**os.environ, "USER": "admin", "PASSWORD": BMC_PASSWORD}
        self.process = Process(command, folder / "pyghmi.log", environment)


class Sidecar:
    """The binary, on the port of the shipped files."""

    def __init__(self, binary, log, second_server):
        self.binary, self.log, self.second_server = binary, log, second_server
        self.process = None

    def start(self, bmc, **variables):
        self.stop()
        environment = {
            "PATH": os.environ["PATH"],
            "API_KEY": KEY,
            "BMC_HOST": "127.0.0.1",
            "BMC_PORT": str(bmc.port),
            "BMC_USER": "admin",
            "BMC_PASSWORD": BMC_PASSWORD,
            "LISTEN_ADDR": "127.0.0.1:8080",
            "POWER_COOLDOWN": "0",  # the scenes repeat cycles and resets within seconds
            **self.second_server,
            **variables,
        }
        self.process = Process([self.binary], self.log, environment)
        until("the sidecar", lambda: urllib.request.urlopen("http://127.0.0.1:8080/health").status == 200)

    def stop(self):
        if self.process:
            self.process.stop()


class HomeAssistant:
    """One Home Assistant with one configuration folder, used through the interfaces that a browser uses."""

    def __init__(self, command, folder, work):
        self.command, self.folder = command, folder
        self.output = work / f"{folder.name}.output"
        self.process, self.tokens = None, None

    def start(self):
        start = time.monotonic()
        (self.folder / ".storage").mkdir()
        (self.folder / ".storage/onboarding").write_text(json.dumps(ONBOARDED))
        self.run()
        self.tokens = self.onboard()
        self.wait_until_running()
        return time.monotonic() - start

    def restart(self):
        self.stop()
        self.run()
        self.wait_until_running()

    def run(self):
        self.process = Process([*self.command, self.folder], self.output)
        until("Home Assistant to serve", self.serves, 180)

    def wait_until_running(self):
        until("Home Assistant to be running", lambda: self.get("/api/config")["state"] == "RUNNING", 120)

    def serves(self):
        assert self.process.popen.poll() is None, f"Home Assistant has ended:\n{self.process.text()}"
        return self.ask("GET", "/manifest.json")

    def onboard(self):
        """Does what the first visit of a browser does, and returns the tokens."""
        client = HOME_ASSISTANT + "/"
        user = {"client_id": client, "name": "Test", "username": "test", "password": "test-test", "language": "en"}
        code = self.ask("POST", "/api/onboarding/users", json.dumps(user))["auth_code"]
        form = urllib.parse.urlencode({"client_id": client, "grant_type": "authorization_code", "code": code})
        tokens = self.ask("POST", "/auth/token", form, "application/x-www-form-urlencoded")
        self.tokens = {**tokens, "clientId": client, "hassUrl": HOME_ASSISTANT}
        return self.tokens

    def ask(self, method, path, body=None, content_type="application/json"):
        headers = {"Content-Type": content_type}
        if self.tokens:
            headers["Authorization"] = "Bearer " + self.tokens["access_token"]
        data = body.encode() if body is not None else None
        request = urllib.request.Request(HOME_ASSISTANT + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from error

    def get(self, path):
        return self.ask("GET", path)

    def post(self, path, body):
        return self.ask("POST", path, json.dumps(body))

    def websocket(self, command):
        """Sends one command over the WebSocket API, and returns its result."""
        connection = websocket.create_connection(HOME_ASSISTANT.replace("http", "ws") + "/api/websocket", timeout=60)
        try:
            connection.recv()
            connection.send(json.dumps({"type": "auth", "access_token": self.tokens["access_token"]}))
            connection.recv()
            connection.send(json.dumps({"id": 1, **command}))
            reply = json.loads(connection.recv())
            assert reply["success"], reply
            return reply["result"]
        finally:
            connection.close()

    def call(self, service, entity=None, **data):
        if entity:
            data["entity_id"] = entity
        self.post("/api/services/" + service.replace(".", "/"), data)

    def press(self, button):
        self.call("button.press", f"button.{button}")

    def state(self, entity):
        return self.get(f"/api/states/{entity}")["state"]

    def state_or_none(self, entity):
        found = [each["state"] for each in self.get("/api/states") if each["entity_id"] == entity]
        return found[0] if found else None

    def attributes(self, entity):
        return self.get(f"/api/states/{entity}")["attributes"]

    def read_again(self, sensor="sensor.server_power_state"):
        self.call("homeassistant.update_entity", sensor)

    def notifications(self):
        """The text of each notification by its id."""
        found = self.websocket({"type": "persistent_notification/get"})
        return {each["notification_id"]: f"{each['title']}: {each['message']}" for each in found}

    def dismiss_all(self):
        self.call("persistent_notification.dismiss_all")

    def complaints(self):
        """The warnings and errors in its log as whole records."""
        records = []
        for line in (self.folder / "home-assistant.log").read_text(errors="replace").splitlines():
            if line[:4].isdigit():
                records.append(line)
            elif records:
                records[-1] += "\n" + line
        return [record for record in records if " WARNING " in record or " ERROR " in record]

    def stop(self):
        if self.process:
            self.process.stop()
