"""Tests make-package alone, beside a stand-in for the sidecar. It needs nothing but Python."""

import contextlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import unittest
from importlib.machinery import SourceFileLoader
from pathlib import Path

import stand_in
from stand_in import KEY

SHIPPED = Path(__file__).resolve().parents[2] / "deploy/home-assistant"
SCRIPT = SHIPPED / "make-package"
PACKAGE = (SHIPPED / "ipmi_sidecar.yaml").read_text()
DASHBOARD = (SHIPPED / "dashboard.yaml").read_text()
UNSUPPORTED = {"status": 501, "success": False, "error": "The BMC lacks this command", "code": "bmc_unsupported"}


def module():
    loader = SourceFileLoader("make_package", str(SCRIPT))
    made = importlib.util.module_from_spec(importlib.util.spec_from_loader("make_package", loader))
    loader.exec_module(made)
    return made


sys.dont_write_bytecode = True
MADE = module()


def row(id, name, type="temperature", value=40.0, unit="°C", status="ok"):
    return {"id": id, "name": name, "type": type, "value": value, "unit": unit, "status": status, "entity": "7.1"}


ROWS = [
    row("cpu_temp", "CPU Temp"),
    row("temp", "Temp"),
    row("temp_2", "Temp"),
    row("fan_1", "Fan 1", "fan", 5400, "rpm"),
    row("_12v", "+12V", "voltage", 12.1, "V"),
    row("ps1_current", "PS1 Current", "current", 0.8, "A"),
    row("pwr_consumption", "Pwr Consumption", "power", 175, "W"),
    row("fan_duty", "Fan Duty", "other", 35, "%"),
]
CHASSIS = {
    "power_state": "on",
    "power_overload": False,
    "power_fault": False,
    "main_power_fault": False,
    "power_interlock": "inactive",
    "drive_fault": False,
    "cooling_fault": None,
    "chassis_intrusion": "inactive",
}


class Test(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        server = stand_in.server(self.folder)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.addCleanup(server.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)
        self.url = f"http://127.0.0.1:{server.server_port}"

    def has(self, server, sensors=ROWS, reading={"watts": 182}, chassis=CHASSIS, power="on"):
        """Gives the sidecar this server. None is what the BMC lacks."""
        if isinstance(sensors, list):
            sensors = {"sensors": sensors, "age": 0}
        self.reply(f"{server}/power/status", {"power_state": power})
        self.reply(f"{server}/sensors", sensors)
        self.reply(f"{server}/power/reading", reading)
        self.reply(f"{server}/chassis", chassis)

    def reply(self, path, members):
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"success": True, **members} if members is not None else UNSUPPORTED))

    def run_script(self, *options, **environment):
        """Its exit status, its output and its messages."""
        environment = {name.encode(): value.encode() for name, value in (environment or {"API_KEY": KEY}).items()}
        errors = io.StringIO()
        status, output = 0, ""
        with contextlib.redirect_stderr(errors):
            try:
                output = MADE.main(options, environment)
            except MADE.Trouble as trouble:
                status = 1
                MADE.note(str(trouble))
            except SystemExit as exit:
                status = exit.code
        self.assertNotIn(KEY, output + errors.getvalue())
        return status, output, errors.getvalue()

    def made(self, *options, **environment):
        status, output, self.notes = self.run_script("--url", self.url, *options, **environment)
        self.assertEqual(status, 0, self.notes)
        return output

    def refused(self, expected, *options, **environment):
        if "--url" not in options:
            options = ("--url", self.url, *options)
        status, output, errors = self.run_script(*options, **environment)
        self.assertEqual((status, output), (1, ""))
        self.assertIn(expected, errors)
        self.assertRegex(errors, r"\Amake-package: [^\n]+\n\Z")

    # --- A BMC that measures nothing ---

    def test_without_sensors_and_watts_it_is_the_shipped_package(self):
        self.has(".", None, None)
        self.assertEqual(self.made(), PACKAGE.replace("http://127.0.0.1:8080", self.url))
        self.assertEqual(self.made("--dashboard"), DASHBOARD)
        self.assertEqual(self.notes, "")

    def test_without_sensors_and_watts_it_is_the_shipped_package_but_for_names(self):
        self.has("lab", None, None)
        words = "s/server_/lab_/g; s/Server/Lab/g; s/ipmi_sidecar.yaml/lab.yaml/; s/lab_power_key/server_power_key/"
        renamed = lambda text: subprocess.run(["sed", words], input=text, capture_output=True, text=True).stdout
        package = renamed(PACKAGE).replace("http://127.0.0.1:8080", f"{self.url}/servers/lab")
        self.assertEqual(self.made("--server", "lab"), package)
        dashboard = renamed(DASHBOARD).replace("path: server", "path: lab")
        self.assertEqual(self.made("--server", "lab", "--dashboard"), dashboard)

    def test_an_empty_list_of_sensors_is_none(self):
        self.has(".", [], None)
        self.assertNotIn("rest:\n", self.made())

    # --- What a BMC has ---

    def test_watts_alone(self):
        self.has("lab", None)
        text = self.made("--server", "lab")
        self.assertIn("unique_id: lab_watts\n", text)
        self.assertIn("source: sensor.lab_watts\n", text)
        self.assertIn(f"  - resource: {self.url}/servers/lab/chassis\n", text)
        self.assertNotIn("/sensors\n", text)
        self.assertNotIn("sensor_problem", text + self.made("--server", "lab", "--dashboard"))

    def test_each_type_has_its_class_and_unit(self):
        self.has(".")
        sensors = self.sensors(self.made())
        expected = {
            "server_watts": ("Server watts", "power", "W"),
            "server_bmc_cpu_temp": ("Server CPU Temp", "temperature", "°C"),
            "server_bmc_temp": ("Server Temp", "temperature", "°C"),
            "server_bmc_temp_2": ("Server Temp 2", "temperature", "°C"),
            "server_bmc_fan_1": ("Server Fan 1", None, "rpm"),
            "server_bmc__12v": ("Server +12V", "voltage", "V"),
            "server_bmc_ps1_current": ("Server PS1 Current", "current", "A"),
            "server_bmc_pwr_consumption": ("Server Pwr Consumption", "power", "W"),
            "server_bmc_fan_duty": ("Server Fan Duty", None, "%"),
        }
        self.assertEqual(sensors, expected)

    @staticmethod
    def sensors(text):
        found = {}
        for each in re.split(r"^      - ", text, flags=re.MULTILINE):
            if "state_class: measurement" in each:
                value = lambda key: (re.search(rf"^ *{key}: (.*)$", each, re.MULTILINE) or [None, None])[1]
                names = [json.loads(text) if text else None for text in (value("name"), value("unit_of_measurement"))]
                found[value("unique_id")] = (names[0], value("device_class"), names[1])
        return found

    def test_a_unit_that_the_class_does_not_allow_leaves_the_class_out(self):
        self.has(".", [row("margin", "Margin", unit="percent of limit"), row("none", "None", unit=None)], None)
        found = self.sensors(self.made())
        self.assertEqual(found["server_bmc_margin"], ("Server Margin", None, "percent of limit"))
        self.assertEqual(found["server_bmc_none"], ("Server None", "temperature", "°C"))

    def test_only_faults_that_the_bmc_tells(self):
        self.has(".")
        text = self.made()
        self.assertIn("unique_id: server_drive_fault\n", text)
        self.assertNotIn("cooling_fault", text)

    def test_the_only_power_sensor_stands_in_where_there_is_no_reading(self):
        for reading in (None, {"watts": None}):
            self.has(".", ROWS, reading)
            sensors = self.sensors(self.made())
            self.assertEqual(sensors["server_watts"], ("Server watts", "power", "W"))
            self.assertNotIn("server_bmc_pwr_consumption", sensors)
            self.assertNotIn("/power/reading", self.made())
            self.assertNotIn("title: Power\n", self.made("--dashboard"))
        self.has(".", [*ROWS, row("ps2", "PS2", "power", 80, "W")], None)
        self.assertNotIn("watts\n", self.made() + self.made("--dashboard"))
        self.assertIn("no watts", self.notes)

    def test_what_has_no_value_is_left_out_while_the_server_is_on(self):
        self.has(".", [ROWS[0], row("ghost", "Ghost", value=None, unit=None, status="ns")], {"watts": None})
        self.assertEqual(set(self.sensors(self.made())), {"server_bmc_cpu_temp"})
        self.assertIn("left out, because they have no value now: Ghost\n", self.notes)

    def test_what_has_no_value_is_kept_while_the_server_is_off(self):
        self.has(".", [row("ghost", "Ghost", value=None, unit=None, status="ns")], {"watts": None}, power="off")
        self.assertEqual(set(self.sensors(self.made())), {"server_watts", "server_bmc_ghost"})

    def test_a_sensor_that_failed_is_kept_without_a_value(self):
        self.has(".", [row("fan_1", "Fan 1", "fan", None, None, "Lower Critical")], None)
        self.assertEqual(self.sensors(self.made()), {"server_bmc_fan_1": ("Server Fan 1", None, "rpm")})

    def test_a_sensor_of_words_is_left_out(self):
        words = {**row("ps2_status", "PS2 Status", "other", None, None), "state": "Presence detected"}
        self.has(".", [*ROWS, words], power="off")
        self.assertNotIn("ps2_status", self.made())

    def test_a_change_of_hardware_changes_no_other_sensor(self):
        self.has(".")
        before = self.sensors(self.made())
        self.has(".", [row("new", "New"), *ROWS[1:]])
        after = self.sensors(self.made())
        self.assertEqual(after.pop("server_bmc_new"), ("Server New", "temperature", "°C"))
        before.pop("server_bmc_cpu_temp")
        self.assertEqual(after, before)

    # --- Names ---

    def test_a_hostile_name_is_never_a_template_or_yaml(self):
        for name, expected in {
            "{{ states('person.me') }}": "Evil",
            "{% raw %}": "Evil",
            "Température": "Evil",
            "CPU1,2": "Evil",
            "Evil": "Evil",
            'evil"\n  - x: !secret y #': "Evil",
            "+evil!": "+evil!",
            "\x00evil\u2028": "evil",
        }.items():
            self.has(".", [row("evil", name)], None)
            self.assertEqual(self.sensors(self.made())["server_bmc_evil"][0], "Server " + expected, name)
            self.assertIn(f'name: "{expected}"\n', self.made("--dashboard"))

    def test_a_hostile_id_is_refused(self):
        self.has(".", [row("x') }}", "x")])
        self.refused("is not one of ipmi-sidecar")

    def test_a_sensor_does_not_take_the_entity_id_of_another(self):
        self.has(".", [row("watts", "Watts"), row("a_b", "a b"), row("a__b", "a  b")], None)
        names = [name for name, *_ in self.sensors(self.made()).values()]
        self.assertEqual(names, ["Server Watts 2", "Server a b", "Server a b 2"])
        self.assertIn("sensor.server_watts_2\n", self.made("--dashboard"))

    def test_names_of_the_server(self):
        self.has("my-nas")
        text = self.made("--server", "my-nas")
        self.assertIn("name: My nas power\n", text)
        self.assertIn("unique_id: my_nas_power\n", text)
        self.assertIn("its address in my_nas.yaml", text)
        text = self.made("--server", "my-nas", "--name", "NAS", "--secret", "nas_key")
        self.assertIn("name: NAS power\n", text)
        self.assertIn("unique_id: nas_power\n", text)
        self.assertIn("X-API-Key: !secret nas_key\n", text)
        self.assertNotIn("server_power_key", text)
        self.has("1")
        self.refused("give another name with --name", "--server", "1")

    # --- Options ---

    def test_only_some_types(self):
        self.has(".")
        found = self.sensors(self.made("--only", "fan,voltage"))
        self.assertEqual(set(found), {"server_watts", "server_bmc_fan_1", "server_bmc__12v"})
        self.assertNotIn("cpu_temp", self.made("--only", "fan", "--dashboard"))
        self.has(".", ROWS, None)
        found = self.sensors(self.made("--only", "fan"))
        self.assertEqual(set(found), {"server_watts", "server_bmc_fan_1"})

    def test_every(self):
        self.has(".")
        self.assertEqual(re.findall(r"scan_interval: (\d+)", self.made()), ["60"] * 4)
        self.assertEqual(re.findall(r"scan_interval: (\d+)", self.made("--every", "300")), ["60"] + ["300"] * 3)

    def test_wrong_options(self):
        for options in (
            ("--every", "5"),
            ("--every", "1e9"),
            ("--only", "temperatures"),
            ("--server", "../x"),
            ("--name", "{{ x }}"),
            ("--secret", "a b"),
            ("--url", "127.0.0.1:8080"),
            ("--url", "http://user:password@127.0.0.1:8080"),
            ("--url", "http://127.0.0.1:8080/?key=x"),
            ("--url", "http://127.0.0.1/{{x}}"),
        ):
            status, output, errors = self.run_script("--url", self.url, *options)
            self.assertEqual((status, output), (2, ""), options)
            self.assertIn("make-package: error: argument --", errors)

    # --- The key ---

    def test_the_key_comes_from_a_file_or_a_variable(self):
        self.has(".")
        file = self.folder / "key"
        for text in (KEY, KEY + "\n", KEY + "\r\n"):
            file.write_text(text)
            self.made(API_KEY_FILE=str(file))

    def test_a_key_that_cannot_be_used(self):
        self.refused("set the environment variable API_KEY or API_KEY_FILE", OTHER="x")
        self.refused("are both set", API_KEY=KEY, API_KEY_FILE="x")
        self.refused("No such file", API_KEY_FILE=str(self.folder / "nothing"))
        self.refused("control character", API_KEY=KEY + "\nX-Other: 1")

    def test_a_proxy_of_the_environment_is_not_used(self):
        """As a process of its own, because Python reads the proxy from its own environment."""
        self.has(".")
        proxy = "http://127.0.0.1:9"
        environment = {"PATH": os.environ["PATH"], "API_KEY": KEY, "http_proxy": proxy, "LC_ALL": "C"}
        done = subprocess.run([sys.executable, SCRIPT, "--url", self.url], env=environment, capture_output=True)
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertEqual(done.stdout.decode(), self.made())
        done = subprocess.run([sys.executable, SCRIPT, "--url", proxy], env=environment, capture_output=True)
        self.assertEqual((done.returncode, done.stdout), (1, b""))
        self.assertRegex(done.stderr.decode(), r"\Amake-package: [^\n]+ does not answer [^\n]+\n\Z")

    def test_a_redirect_does_not_get_the_key(self):
        self.has(".")
        self.has("elsewhere")
        self.reply("power/status", {"status": 307, "location": f"{self.url}/servers/elsewhere/power/status"})
        self.refused("status 307 is not of ipmi-sidecar")

    # --- Failures ---

    def test_a_wrong_key(self):
        self.refused("reading /power/status: unauthorized: Invalid or missing API key: give", API_KEY="wrong")

    def test_an_unknown_server(self):
        self.has("nas")
        self.reply("servers", {"servers": ["nas", "lab"]})
        self.refused("choose one with --server nas or --server lab")
        self.refused("reading /power/status of attic: unknown_server", "--server", "attic")
        self.reply("servers", {"servers": []})
        self.refused("Leave --server out", "--server", "attic")

    def test_failures_of_a_reading(self):
        failure = {"status": 502, "success": False, "error": "No answer. Check BMC_HOST", "code": "bmc_unreachable"}
        for path in ("power/status", "sensors", "power/reading", "chassis"):
            self.has("nas")
            self.reply(f"nas/{path}", failure)
            self.refused(f"reading /{path} of nas: bmc_unreachable: No answer. Check BMC_HOST", "--server", "nas")
        self.reply("nas/power/status", {**failure, "status": 403, "code": "forbidden"})
        self.refused("use a key that allows status, reading, sensors and chassis", "--server", "nas")
        self.reply("nas/power/status", {**failure, "status": 404, "code": "not_found"})
        self.refused("update the sidecar", "--server", "nas")

    def test_no_sidecar(self):
        self.refused("http://127.0.0.1:9 does not answer", "--url", "http://127.0.0.1:9")
        (self.folder / "power").mkdir()
        (self.folder / "power/status").write_text('{"state": "on"}')
        self.refused("the reply with status 200 is not of ipmi-sidecar: correct --url")


class Clock:
    """Scripted replies of /sensors. Each takes some seconds of a clock that nobody waits for."""

    def __init__(self, replies):
        self.now, self.replies = 100.0, list(replies)

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def ask(self, _):
        takes, status, members = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        self.now += takes
        return status, members, {}

    def __call__(self):
        MADE.time, before = self, MADE.time
        try:
            sidecar = MADE.Sidecar("http://127.0.0.1", "nas", b"key")
            sidecar.ask = self.ask
            return sidecar.sensors()
        finally:
            MADE.time = before


def fresh(takes, age=0):
    return takes, 200, {"sensors": ROWS, "age": age}


BUSY = (9, 503, {"code": "busy", "error": "Not sent"})


class TimeOfSensors(unittest.TestCase):
    def test_a_fast_bmc(self):
        rows, seconds = Clock([fresh(0.4)])()
        self.assertEqual(rows, ROWS)
        self.assertAlmostEqual(seconds, 0.4)

    def test_a_reading_of_another_client_does_not_count(self):
        self.assertAlmostEqual(Clock([fresh(0.01, age=3), fresh(7)])()[1], 7)

    def test_a_slow_bmc_without_an_earlier_reading(self):
        self.assertAlmostEqual(Clock([BUSY, BUSY, fresh(5)])()[1], 25)

    def test_a_slow_bmc_with_an_earlier_reading(self):
        self.assertAlmostEqual(Clock([fresh(9, age=200), fresh(9, age=210), fresh(3)])()[1], 23)

    def test_a_bmc_that_never_ends(self):
        with self.assertRaisesRegex(MADE.Trouble, "reading /sensors of nas: busy: Not sent"):
            Clock([BUSY])()
        self.assertGreater(Clock([fresh(9, age=200)])()[1], 100)

    def test_the_interval(self):
        for seconds, expected in ((0.1, 60), (5, 60), (6, 120), (12, 180), (60, 240)):
            with contextlib.redirect_stderr(io.StringIO()):
                self.assertEqual(MADE.interval(seconds, None), expected)
        self.assertEqual(MADE.interval(60, 240), 240)
        with self.assertRaisesRegex(MADE.Trouble, "choosing --every 300: the BMC takes 60 s .*choose at most 240"):
            MADE.interval(60, 300)


if __name__ == "__main__":
    unittest.main(verbosity=0)
