"""Uses the shipped files as a person does, and checks what Home Assistant shows."""

import time
from concurrent.futures import ThreadPoolExecutor

from checks import expect, expect_in, ok, scene
from world import TIMEOUT, until

POWER_STATE = "sensor.server_power_state"
POWER = "binary_sensor.server_power"
SWITCH = "switch.server_power"
SHUTTING_DOWN = "script.server_shutting_down"
CYCLE = ["power 0", "power 1"]  # ipmi_sim adds the second by itself

# The commands that the BMC must receive, once, for each button.
BUTTONS = {
    "server_power_on": ["power 1"],
    "server_shut_down": ["shutdown 1"],
    "server_force_off": ["power 0"],
    "server_power_cycle": CYCLE,
    "server_reset": ["reset 1"],
}

# Log records that are not about our files, and their causes.
OTHER_RECORDS = {
    "Skipping pip installation": "the test's own --skip-pip",
    "zlib_ng and isal are not available": "speed",
    "does not have any enabled IPv4 addresses": "the loopback is the only network here",
    "Support for the running Python version": "the Python version",
    "FFmpeg": "not installed",
    "turbojpeg": "not installed",
    "custom integration compile_statistics": "a part of the test",
    "127.0.0.1:8080/power/status failed with": "the test restarts the sidecar",
    "Empty reply found when expecting JSON data": "the same",
    "Platform rest not ready yet": "the test starts the sidecar after Home Assistant",
}

# Repairs that are about this installation, and their causes.
OTHER_REPAIRS = {
    "country_not_configured": "the test skips that step",
    "deprecated_method": "the installation from PyPI",
    "python_version": "the Python version",
}


def shown(home):
    return {entity: home.state(entity) for entity in (POWER_STATE, POWER, SWITCH)}


def all_show(home, state):
    """Waits until the sensors and the switch show this state."""
    until(f"{POWER_STATE} to be {state}", lambda: set(shown(home).values()) == {state})
    ok(f"state, power and switch are {state}")


def unavailable(home, sensor_state):
    expected = {POWER_STATE: sensor_state, POWER: "unavailable", SWITCH: "unavailable"}
    until(f"{expected}", lambda: shown(home) == expected)
    ok(f"the sensor is {sensor_state}, power and switch are unavailable, never off")


def journal_is(bmc, what, expected):
    """Waits for the last line, and one second more for a wrong extra line."""
    until(f"{expected} in the journal after {what}", lambda: len(bmc.journal()) >= len(expected))
    time.sleep(1)
    expect(f"{what}: the BMC's journal", expected, bmc.journal())


def start_over(home, bmc, power, **server):
    """Sets the server to this state, waits until Home Assistant shows it, and removes old notifications."""
    for script in (SHUTTING_DOWN, "script.server_power_answer"):  # these scripts would read the state again
        home.call("script.turn_off", script)
    bmc.settle_in(power, **server)
    home.read_again()
    until("the state to be read", lambda: home.state(POWER_STATE) == ("on" if power else "off"))
    home.dismiss_all()


def notified(home, name):
    return until(f"a notification {name}", lambda: home.notifications().get(name))


# --- Scenes -------------------------------------------------------------------


def sensors(home):
    both = {POWER_STATE, "sensor.lab_power_state"}
    until("the sensors of both servers", lambda: both <= {each["entity_id"] for each in home.get("/api/states")}, 120)
    ok("the sensors of both servers are there, although the sidecar started after Home Assistant")


def clean(home):
    scene("The configuration")
    check = home.post("/api/config/core/check_config", {})
    expect("the result of its check", {"result": "valid", "errors": None, "warnings": None}, check)
    issues = home.websocket({"type": "repairs/list_issues"})["issues"]
    expect("repairs that it shows", [], [issue for issue in issues if issue["issue_id"] not in OTHER_REPAIRS])


def clean_log(home):
    unknown = [record for record in home.complaints() if not any(known in record for known in OTHER_RECORDS)]
    expect("warnings and errors in its log", [], unknown)


def changed_elsewhere(home, bmc):
    scene("The power changes without Home Assistant")
    start_over(home, bmc, 0)
    all_show(home, "off")
    home.dismiss_all()
    bmc.settle_in(1)
    start = time.monotonic()
    until("the next poll", lambda: home.state(POWER) == "on", 120)
    all_show(home, "on")
    ok(f"shown after {time.monotonic() - start:.0f} s, by polling only")
    expect_in("the notification", "Switched on at ", notified(home, "server_power_changed"))


def buttons(home, bmc):
    scene("Each button")
    for button, expected in BUTTONS.items():
        start_over(home, bmc, 0 if button == "server_power_on" else 1)
        home.press(button)
        journal_is(bmc, button, expected)
    failures = set(home.notifications()) - {"server_power_changed"}
    expect("notifications of failures", set(), failures)


def pressed_twice(home, bmc):
    scene("A button pressed twice at once")
    start_over(home, bmc, 1)
    with ThreadPoolExecutor() as pool:
        list(pool.map(home.press, ["server_reset"] * 2))
    journal_is(bmc, "server_reset", ["reset 1"])


def switch(home, bmc):
    scene("The switch")
    start_over(home, bmc, 0)
    home.call("switch.turn_on", SWITCH)
    journal_is(bmc, "switched on", ["power 1"])
    all_show(home, "on")

    # The shutdown takes 15 s. The script polls every 10 s.
    start_over(home, bmc, 1, shutdown_takes=15)
    seen = []
    start = time.monotonic()
    with ThreadPoolExecutor() as pool:
        turning_off = pool.submit(home.call, "switch.turn_off", SWITCH)
        until("the switch to show off", lambda: home.state(SWITCH) == "off")
        while home.state(POWER) == "on":
            seen.append(home.state(SWITCH))
            time.sleep(0.1)
            assert time.monotonic() - start < 120, "the server never went off"
        turning_off.result()
    assert time.monotonic() - start > 10, "the power state changed before the script polled it"
    expect("the states of the switch during the shutdown", {"off"}, set(seen))
    all_show(home, "off")
    expect("switched off: the BMC's journal", ["shutdown 1"], bmc.journal())
    until("the script to end", lambda: home.state(SHUTTING_DOWN) == "off")
    expect("the notification that it is still on", None, home.notifications().get("server_still_on"))


def shutdown_that_fails(home, bmc, sidecar):
    scene("A shutdown that the sidecar refuses")
    start_over(home, bmc, 1)
    sidecar.start(bmc, API_KEY="another-key-of-16-characters")
    home.call("switch.turn_off", SWITCH)
    until("the script to end", lambda: home.state(SHUTTING_DOWN) == "off")
    sidecar.start(bmc)
    home.read_again()
    all_show(home, "on")
    expect("the BMC's journal", [], bmc.journal())


def schedule(home, bmc):
    scene("The schedule")
    start_over(home, bmc, 0)
    trigger = {"skip_condition": False}
    home.call("automation.trigger", "automation.server_on_in_the_morning", **trigger)
    journal_is(bmc, "morning, while the schedule is off", [])
    home.call("input_boolean.turn_on", "input_boolean.server_schedule")
    home.call("automation.trigger", "automation.server_on_in_the_morning", **trigger)
    journal_is(bmc, "morning", ["power 1"])
    start_over(home, bmc, 1)
    home.call("automation.trigger", "automation.server_off_at_night", **trigger)
    journal_is(bmc, "night", ["shutdown 1"])
    start_over(home, bmc, 0)
    home.call("automation.trigger", "automation.server_off_at_night", **trigger)
    journal_is(bmc, "night, while the server is off", [])
    home.call("input_boolean.turn_off", "input_boolean.server_schedule")


def automations(home, bmc):
    scene("Automations")
    start_over(home, bmc, 0)
    home.post("/api/events/server_wanted", {})
    journal_is(bmc, "an event that starts two automations with the same command", ["power 1"])
    start_over(home, bmc, 1)
    home.post("/api/events/server_wanted_and_reset", {})
    until("both commands", lambda: len(bmc.journal()) == 2)
    time.sleep(1)
    expect("an event that starts two automations with two commands", ["power 1", "reset 1"], sorted(bmc.journal()))


def second_server(home, bmc):
    """Its copy of the package waits for one poll of 10 s, so that the test does not wait five minutes."""
    scene("A second server, whose system ignores the power button")
    bmc.settle_in(1, ignores_button=True)
    home.read_again("sensor.lab_power_state")
    until("the state to be read", lambda: home.state("switch.lab_power") == "on")
    home.press("lab_shut_down")
    expect("the switch", "off", home.state("switch.lab_power"))
    expect_in("the notification after the wait", "its power state is on.", notified(home, "lab_still_on"))
    until("the switch to show on again", lambda: home.state("switch.lab_power") == "on")
    journal_is(bmc, "the sidecar does not cut the power", ["shutdown 1"])

    bmc.settle_in(1, ignores_button=True)
    home.call("input_boolean.turn_on", "input_boolean.lab_force_off_when_stuck")
    home.press("lab_shut_down")
    until("the power to be cut", lambda: len(bmc.journal()) == 2)
    journal_is(bmc, "with 'force off when stuck' it cuts the power", ["shutdown 1", "power 0"])
    until("it to be off", lambda: home.state("switch.lab_power") == "off")


def wrong_key(home, bmc, sidecar):
    scene("A wrong key")
    start_over(home, bmc, 1)
    sidecar.start(bmc, API_KEY="another-key-of-16-characters")
    home.read_again()
    unavailable(home, "unknown")
    expect("the sensor's attribute code", "unauthorized", home.attributes(POWER_STATE)["code"])
    home.press("server_reset")
    expect_in("the notification", "**unauthorized**: Invalid or missing API key.", notified(home, "server_reset"))
    expect("the BMC's journal", [], bmc.journal())
    sidecar.start(bmc)
    home.read_again()
    all_show(home, "on")
    home.press("server_reset")
    until("the notification to go", lambda: "server_reset" not in home.notifications())
    ok("the next success removes the notification")


def wrong_password(home, bmc, sidecar):
    scene("A wrong BMC password")
    sidecar.start(bmc, BMC_PASSWORD="not-the-password")
    home.read_again()
    unavailable(home, "unknown")
    expect("the sensor's attribute code", "bmc_bad_password", home.attributes(POWER_STATE)["code"])
    home.press("server_power_on")
    expect_in("the notification", "Correct BMC_PASSWORD", notified(home, "server_power_on"))
    sidecar.start(bmc)


def dead_bmc(home, bmc, second):
    scene("A BMC that does not answer")
    start_over(home, bmc, 1)
    second.settle_in(0)
    changes = home.attributes("automation.server_power_changed").get("last_triggered")
    bmc.fall_silent()
    home.read_again()
    unavailable(home, "unknown")
    # Home Assistant hangs up after 10 s. The sensor would then be unavailable, without a code.
    expect("the sensor's attribute code", "bmc_unreachable", home.attributes(POWER_STATE)["code"])
    home.press("server_power_on")
    expect_in("the notification", "**bmc_unreachable**: The BMC does not answer", notified(home, "server_power_on"))
    home.press("lab_power_on")
    journal_is(second, "the second server meanwhile, switched on", ["power 1"])
    bmc.come_back()
    home.read_again()
    all_show(home, "on")
    now = home.attributes("automation.server_power_changed").get("last_triggered")
    expect("a notification of a change meanwhile", False, now != changes)


def slow_bmc(home, bmc):
    scene("A slow BMC")
    start_over(home, bmc, 0, delay=2)
    home.press("server_power_on")
    journal_is(bmc, "a change that takes 2 s", ["power 1"])
    all_show(home, "on")
    expect("the notification", None, home.notifications().get("server_power_on"))

    start_over(home, bmc, 1, delay=12)
    home.press("server_reset")
    text = notified(home, "server_reset")
    expect_in("a change that takes 12 s, longer than Home Assistant waits", "**outcome_unknown**", text)
    expect("its journal", ["reset 1"], bmc.journal())
    until("the change to finish", lambda: home.read_again() or home.state(POWER_STATE) == "on", 60)
    journal_is(bmc, "after its end", ["reset 1"])


def refusing_bmc(home, refusing, bmc, sidecar):
    scene("A BMC that refuses")
    sidecar.start(refusing, BMC_CIPHER_SUITE="17")
    home.read_again()
    all_show(home, "off")
    home.press("server_power_cycle")
    expect_in("the notification", "**bmc_refused**: The BMC refused the command", notified(home, "server_power_cycle"))
    all_show(home, "off")
    sidecar.start(bmc)


def sidecar_restarted(home, bmc, sidecar):
    scene("The sidecar stops and starts again")
    start_over(home, bmc, 1)
    sidecar.stop()
    home.read_again()
    unavailable(home, "unavailable")
    home.press("server_reset")
    expect_in("the notification", "**no_answer**: The sidecar did not answer.", notified(home, "server_reset"))
    expect("the BMC's journal", [], bmc.journal())
    sidecar.start(bmc)
    home.read_again()
    all_show(home, "on")
    home.press("server_reset")
    journal_is(bmc, "a press after the restart", ["reset 1"])


def of_years_ago(home, bmc):
    """The second configuration: rest commands without a body, a rest sensor, and a template switch that uses it."""
    scene("A configuration of years ago")
    clean(home)
    sensor = "sensor.server_power_status"
    bmc.settle_in(0)
    home.read_again(sensor)
    until("the state", lambda: home.state(sensor) == "off")
    expect("the switch", "off", home.state("switch.server"))
    expect("the attribute raw_output", "Chassis Power is off", home.attributes(sensor)["raw_output"])
    for command, expected in {
        "server_on": ["power 1"],
        "server_off": ["shutdown 1"],
        "server_force_off": ["power 0"],
        "server_cycle": CYCLE,
        "server_reset": ["reset 1"],
    }.items():
        bmc.settle_in(0 if command == "server_on" else 1)
        home.call(f"rest_command.{command}")
        journal_is(bmc, f"rest_command.{command}", expected)
    bmc.settle_in(0)
    home.call("switch.turn_on", "switch.server")
    journal_is(bmc, "the switch on", ["power 1"])
    home.read_again(sensor)
    until("the state", lambda: home.state("switch.server") == "on")
    home.call("switch.turn_off", "switch.server")
    journal_is(bmc, "the switch off", ["power 1", "shutdown 1"])
    until("the shutdown", lambda: home.read_again(sensor) or home.state("switch.server") == "off", TIMEOUT)
    clean_log(home)
