"""Makes packages and a dashboard for two servers as the guide says, and checks what Home Assistant shows of them.

Both servers belong to a sidecar of their own, with one key. `nas` is ipmi_sim with sensors. It has no power reading.
`rack` is pyghmi's BMC, which has a power reading and no sensors. Some scenes only begin something, and a later one looks
for it: Home Assistant polls once a minute, and other scenes run meanwhile.
"""

import math
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from datetime import datetime, timezone
from urllib.parse import urlencode

import guide
import sensors
from checks import expect, expect_in, ok, scene
from scenes import journal_is, notified
from world import BMC_PASSWORD, KEY, ROOT, Bmc, Process, until

PORT = 8084
URL = f"http://127.0.0.1:{PORT}"
POLL = 75  # s: a minute, and what a busy machine adds
FAN = "Fan 2"
FAULTS = ("power_overload", "power_fault", "main_power_fault", "drive_fault", "cooling_fault")
CLASSES = {"temperature": "temperature", "voltage": "voltage", "current": "current", "power": "power"}
UNITS = {"temperature": "°C", "voltage": "V", "current": "A", "power": "W", "fan": "rpm", "percent": "%"}

# What the examples call "yours".
OWN_SENSORS = """\
input_number:
  room_temperature: {min: 0, max: 100, initial: 20}
  solar_surplus: {min: 0, max: 1000, initial: 0}
compile_statistics:
template:
  - sensor:
      - name: Room temperature
        state: "{{ states('input_number.room_temperature') }}"
      - name: Solar surplus
        state: "{{ states('input_number.solar_surplus') }}"
"""


class MeasuringBmc:
    """pyghmi's BMC. It draws so many watts until it is started with others."""

    def __init__(self, folder, port):
        self.port, self.log, self.process = port, folder / "measuring.log", None

    def start(self, watts):
        self.stop()
        words = [ROOT / "tests/support/dcmi_bmc.py", "127.0.0.1", self.port, 0, watts, 1, 999, watts, "activated"]
        self.log.unlink(missing_ok=True)
        self.process = Process([sys.executable, *words], self.log)
        until("the BMC of pyghmi", lambda: self.process.text().startswith("ready"), 60)

    def stop(self):
        if self.process:
            self.process.stop()


class Made:
    """The two servers, their sidecar, and their files in the configuration folder."""

    def __init__(self, binary, work, command):
        self.binary, self.work = binary, work
        *prefix, hass, _, _ = command
        self.python = [*prefix, hass.removesuffix("hass") + "python"]
        self.nas = Bmc(work / "nas-bmc", 6233, sensors.SENSORS)
        self.rack = MeasuringBmc(work, 6234)
        self.sidecar = None
        # In the root of the newest version, only this folder is there.
        self.folder = work / "make"
        shutil.copytree(guide.SHIPPED, self.folder)

    def start(self):
        self.rack.start(100)
        until("ipmi_sim", self.nas.answers)
        self.start_sidecar()

    def start_sidecar(self):
        environment = {
            "PATH": os.environ["PATH"],
            "API_KEY": KEY,
            "SERVERS": "nas,rack",
            "BMC_NAS_HOST": "127.0.0.1",
            "BMC_NAS_PORT": str(self.nas.port),
            "BMC_RACK_HOST": "127.0.0.1",
            "BMC_RACK_PORT": str(self.rack.port),
            "BMC_USER": "admin",
            "BMC_PASSWORD": BMC_PASSWORD,
            "LISTEN_ADDR": f"127.0.0.1:{PORT}",
        }
        self.sidecar = Process([self.binary], self.work / "made-sidecar.log", environment)
        until("the sidecar", lambda: urllib.request.urlopen(f"{URL}/health").status == 200)

    def stop(self):
        for each in (self.sidecar, self.rack, self.nas.process):
            if each:
                each.stop()

    def make(self, *options):
        """Runs make-package with the Python of Home Assistant."""
        command = [*self.python, str(self.folder / "make-package"), "--url", URL, *options]
        environment = {"PATH": os.environ["PATH"], "API_KEY": KEY}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def write(self, folder, is_newest, picture):
        """Makes the files in the configuration folder. The server is off, so that no sensor is left out."""
        self.nas.settle_in(0)
        part = "compile_statistics"
        shutil.copytree(ROOT / "tests/home-assistant" / part, folder / "custom_components" / part)
        packages = folder / "packages"
        for server in ("nas", "rack"):
            (packages / f"{server}.yaml").write_text(self.make("--server", server))
        first, second = (self.make("--server", server, "--dashboard") for server in ("nas", "rack"))
        # The guide's line for two servers on one dashboard.
        assert "| sed '1,/^views:/d' >>" in guide.GUIDE, "the guide has no line for two servers on one dashboard"
        text = first + second.split("\nviews:\n", 1)[1]
        if not is_newest:
            words = "s/server_/nas_/g; s/Server/Nas/g"
            assert f"`sed '{words}'`" in guide.GUIDE, "the guide has no line for the switch"
            switch = guide.block("# packages/ipmi_sidecar_switch.yaml, before Home Assistant 2025.12")
            done = subprocess.run(["sed", words], input=switch, capture_output=True, text=True, check=True)
            (packages / "nas_switch.yaml").write_text(done.stdout)
        if picture:
            text = text.replace("hours_to_show: 24", "hours_to_show: 0.1")  # the age of this Home Assistant
        (folder / "made.yaml").write_text(text)
        examples = guide.block("# packages/my_servers.yaml")
        examples = re.sub(r'for: "00:\d\d:00"', 'for: "00:00:01"', examples)
        (packages / "my_servers.yaml").write_text(examples if is_newest else older(examples))
        (packages / "my_sensors.yaml").write_text(OWN_SENSORS)
        self.nas.settle_in(1)


def older(text):
    """The words before Home Assistant 2024.10, by the guide's table."""
    text = re.sub(r"^( *(?:- )?)action: ", r"\1service: ", text, flags=re.MULTILINE)
    text = re.sub(r"^( *)- trigger: ", r"\1- platform: ", text, flags=re.MULTILINE)
    return re.sub(r"^( *)(trigger|condition|action)s:$", r"\1\2:", text, flags=re.MULTILINE)


# --- Scenes -------------------------------------------------------------------


def expected_sensors():
    """The value, the class and the unit of each sensor by its entity id."""
    expected, seen = {}, {}
    for sensor in sensors.SENSORS:
        words = re.sub("[^a-z0-9]+", "_", sensor.name.lower()).strip("_")
        seen[words] = seen.get(words, 0) + 1
        entity = words if seen[words] == 1 else f"{words}_{seen[words]}"
        if sensor.kind == "power":
            entity = "watts"
        value = None if sensor.raw is None else round(sensor.value(sensor.raw), 3)
        expected[f"sensor.nas_{entity}"] = (value, CLASSES.get(sensor.kind), UNITS[sensor.kind])
    return {**expected, "sensor.rack_watts": (100, "power", "W")}


def everything(home, made):
    scene("The made packages: each sensor")
    expected = expected_sensors()
    until("the first readings", lambda: home.state("sensor.nas_watts") not in ("unknown", "unavailable"), POLL)
    states = {each["entity_id"]: each for each in home.get("/api/states")}
    shown = {}
    for entity in expected:
        state, attributes = states[entity]["state"], states[entity]["attributes"]
        assert attributes["state_class"] == "measurement", states[entity]
        value = None if state == "unavailable" else round(float(state), 3)
        shown[entity] = (value, attributes.get("device_class"), attributes["unit_of_measurement"])
    different = {entity: (shown[entity], expected[entity]) for entity in expected if shown[entity] != expected[entity]}
    expect(f"of {len(expected)} sensors, those with another value, class or unit", {}, different)
    expect("the sensor without a reading", "unavailable", home.state("sensor.nas_ghost_temp"))
    expect("a name with braces is no template", "Nas 7 6", home.attributes("sensor.nas_7_6")["friendly_name"])
    for server in ("nas", "rack"):
        faults = [states[entity] for fault in FAULTS if (entity := f"binary_sensor.{server}_{fault}") in states]
        assert len(faults) > 2, faults
        shown = {(each["state"], each["attributes"]["device_class"]) for each in faults}
        expect(f"the faults of {server}", {("off", "problem")}, shown)
    expect("the switch", "on", home.state("switch.nas_power"))
    expect("any sensor not ok", "off", home.state("binary_sensor.nas_sensor_problem"))
    expect("the sum of the watts", 280.0, float(home.state("sensor.all_servers_watts")))
    assert "binary_sensor.rack_sensor_problem" not in states, "rack has no sensors"


def identify(home, made):
    scene("The identify light")
    for word in ("on", "off"):
        home.press(f"nas_identify_{word}")
    # ipmi_sim writes the seconds, and whether the light stays on.
    journal_is(made.nas, "its buttons on and off", ["identify 0 1", "identify 0 0"])


def fan_fails(home, made):
    """The scene `fan_failed` looks for it."""
    made.failed_at = time.time()
    made.nas.set_sensor(FAN, 0)
    made.nas.set_sensor("Pwr Consumption", 40)
    made.rack.start(150)


def changed(home, entity):
    """When the state of this entity changed, in seconds since 1970."""
    return datetime.fromisoformat(home.get(f"/api/states/{entity}")["last_changed"]).timestamp()


def fan_failed(home, made):
    scene("A fan that fails")
    problem = "binary_sensor.nas_sensor_problem"
    until("the problem", lambda: home.state(problem) == "on", POLL)
    seconds = changed(home, problem) - made.failed_at
    assert 0 <= seconds < POLL, seconds
    ok(f"shown as a problem after {seconds:.0f} s, by polling only")
    expect("the text", f"{FAN} (Lower Non-Recoverable)", home.state("sensor.nas_sensor_problems"))
    expect("its speed", "0", home.state("sensor.nas_fan_2").removesuffix(".0"))
    # Other scenes remove all notifications. So the test triggers this one again.
    assert home.attributes("automation.nas_problem")["last_triggered"], "the guide's example was not triggered"
    home.call("automation.trigger", "automation.nas_problem", skip_condition=False)
    expect_in("the notification of the guide's example", FAN, notified(home, "nas_problem"))


def fan_mended(home, made):
    made.nas.set_sensor(FAN, 54)
    time.sleep(6)  # the sidecar gives a reading again for 5 s
    home.read_again("sensor.nas_watts")
    until("the problem to end", lambda: home.state("binary_sensor.nas_sensor_problem") == "off", POLL)


def live(home, made):
    """Makes curves for the picture."""
    scene("Two minutes for the picture")
    for step in range(11):
        wave = math.sin(step / 2)
        for name, middle, width in (
            ("CPU1 Temp", 45, 5),
            ("CPU2 Temp", 48, 4),
            ("Exhaust Temp", 33, 2),
            ("Fan 1", 54, 4),
            ("Fan 3", 56, 3),
            ("Pwr Consumption", 38, 6),
        ):
            made.nas.set_sensor(name, round(middle + width * wave))
        home.read_again("sensor.nas_watts")
        time.sleep(11)


def examples(home, made):
    scene("The guide's examples")
    made.nas.settle_in(1)
    home.call("input_number.set_value", "input_number.room_temperature", value=40)
    journal_is(made.nas, "a room that is too hot", ["shutdown 1"])
    home.call("input_number.set_value", "input_number.room_temperature", value=20)
    made.nas.settle_in(0)
    home.read_again("sensor.nas_power_state")
    until("it to be off", lambda: home.state("binary_sensor.nas_power") == "off")
    home.call("input_number.set_value", "input_number.solar_surplus", value=400)
    journal_is(made.nas, "solar power that is left over", ["power 1"])


def energy(home, made):
    scene("The energy dashboard")
    meters = ["sensor.nas_energy", "sensor.rack_energy"]
    for meter in meters:
        until(f"{meter} to rise", lambda: float(home.state(meter)) > 0, POLL)
        attributes = home.attributes(meter)
        kind = (attributes["device_class"], attributes["unit_of_measurement"], attributes["state_class"])
        expect(f"{meter}: {home.state(meter)}", ("energy", "kWh", "total"), kind)
    consumption = [{"stat_consumption": meter} for meter in meters]
    home.websocket({"type": "energy/save_prefs", "device_consumption": consumption})
    home.call("compile_statistics.now")
    found = lambda: home.websocket({"type": "energy/validate"})["device_consumption"]
    until("its own validation to find nothing", lambda: found() == [[], []])
    ok("its own validation finds nothing")


def gone(home, made):
    """The scene `is_gone` looks for it."""
    made.gone_at = datetime.now(timezone.utc)
    made.nas.fall_silent()


def of_nas(home):
    """The entities that tell what the BMC of nas says."""
    entities = [each["entity_id"] for each in home.get("/api/states")]
    mine = [each for each in entities if each.startswith(("sensor.nas_", "binary_sensor.nas_"))]
    return [each for each in mine if each != "sensor.nas_power_state"]


def is_gone(home, made):
    scene("A BMC that does not answer: the made package")
    entities = of_nas(home)
    states = lambda: {home.state(entity) for entity in entities}
    until("all to be unavailable", lambda: states() == {"unavailable"}, 2 * POLL)
    ok(f"{len(entities)} entities are unavailable")
    expect("the other server meanwhile", "150", home.state("sensor.rack_watts").removesuffix(".0"))
    query = urlencode({"filter_entity_id": ",".join(entities), "significant_changes_only": "0", "no_attributes": "1"})
    start = made.gone_at.isoformat().replace("+00:00", "Z")

    def states_since():
        """The states that are new, by their entities. The energy counts until the watts are gone."""
        since = {}
        for first, *others in home.get(f"/api/history/period/{start}?{query}"):
            for state in others:
                if first["entity_id"] != "sensor.nas_energy":
                    since.setdefault(state["state"], set()).add(first["entity_id"])
        return since

    # Home Assistant writes its history some seconds later. The energy is not among them, nor what had no value before.
    until("the history", lambda: len(states_since().get("unavailable", ())) == len(entities) - 2)
    since = states_since()
    since.pop("unavailable")
    since.pop("unknown", None)  # Home Assistant 2024.3, for a moment
    expect("other states in their history, such as off or 0", {}, since)


def comes_back(home, made):
    made.nas.come_back()


def is_back(home, made):
    absent = lambda: [each for each in of_nas(home) if home.state(each) == "unavailable"]
    until("the sensors to come back", lambda: absent() == ["sensor.nas_ghost_temp"], POLL)
    ok("all are available again")


def entities_by_unique_id(home):
    found = home.websocket({"type": "config/entity_registry/list"})
    return {each["unique_id"]: each["entity_id"] for each in found if each["unique_id"].startswith("nas_")}


def other_hardware(home, made):
    scene("Made again after a change of hardware")
    before = entities_by_unique_id(home)
    made.nas.replace_sensors([each for each in sensors.SENSORS if each.name != "Fan 6"] + [sensors.ADDED])
    (home.folder / "packages/nas.yaml").write_text(made.make("--server", "nas"))
    energy = float(home.state("sensor.nas_energy"))
    home.restart()
    added = "sensor.nas_" + sensors.ADDED.name.lower().replace(" ", "_")
    until("the new sensor", lambda: home.state_or_none(added) not in (None, "unknown", "unavailable"), POLL)
    after = entities_by_unique_id(home)
    expect("entity ids that changed", {}, {key: after.get(key) for key in before if after.get(key) != before[key]})
    expect("new ones", [added], [after[key] for key in after if key not in before])
    assert float(home.state("sensor.nas_energy")) >= energy > 0
    ok("the energy goes on from where it was")


def sidecar_stops(home, made):
    scene("The sidecar of the made packages stops")
    made.sidecar.stop()
    entities = of_nas(home) + ["sensor.rack_watts", "sensor.rack_energy"]
    for sensor in ("nas_power_state", "nas_watts", "nas_faults", "rack_watts"):
        home.read_again(f"sensor.{sensor}")
    until("all to be unavailable", lambda: {home.state(entity) for entity in entities} == {"unavailable"}, POLL)
    ok(f"{len(entities)} entities are unavailable")
