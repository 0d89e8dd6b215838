"""Runs all scenes with one Home Assistant. scripts/test-home-assistant starts it in a network of its own.

Usage: test.py VERSION SIDECAR FOLDER PICTURE COMMAND...
  It writes to FOLDER. PICTURE is the file for the picture of the dashboard, or "" for none. COMMAND and the path of a
  configuration folder start Home Assistant.
"""

import re
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import checks
import guide
import made
import scenes
from checks import expect, ok, scene
from world import KEY, ROOT, Bmc, HomeAssistant, RefusingBmc, Sidecar

NEWEST = "2026.11"
OF_YEARS_AGO = ROOT / "tests/home-assistant/of-years-ago"

# Automations of a user, two for each event.
AUTOMATIONS = """\
automation:
  - alias: Event, first
    trigger: &wanted
      - platform: event
        event_type: server_wanted
    action: &on
      - service: button.press
        target:
          entity_id: button.server_power_on
  - alias: Event, second
    trigger: *wanted
    action: *on
  - alias: Both, first
    trigger: &both
      - platform: event
        event_type: server_wanted_and_reset
    action: *on
  - alias: Both, second
    trigger: *both
    action:
      - service: button.press
        target:
          entity_id: button.server_reset
"""

MADE_DASHBOARD = """\
    made-servers:
      mode: yaml
      title: Servers
      filename: made.yaml
"""


def main():
    version, binary, work, picture = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    command = sys.argv[5:]
    bmc, second = Bmc(work / "bmc", 6230), Bmc(work / "second-bmc", 6231)
    refusing = RefusingBmc(work, 6232)
    sidecar = Sidecar(binary, work / "sidecar.log", variables_of(second))
    servers = made.Made(binary, work, command)
    home = HomeAssistant(command, shipped(work / "shipped", version), work)
    old = HomeAssistant(command, of_years_ago(work / "of-years-ago", version), work)
    started = [bmc.process, second.process, refusing.process, servers, sidecar, home, old]
    try:
        servers.start()
        servers.write(home.folder, version == NEWEST, picture)
        scene(f"Home Assistant {version} with the shipped files")
        ok(f"running after {home.start():.0f} s")
        sidecar.start(bmc)  # after Home Assistant, as it can happen in a pod
        scenes.sensors(home)
        guided(home)
        scenes.clean(home)
        made.everything(home, servers)
        made.fan_fails(home, servers)
        scenes.buttons(home, bmc)
        scenes.switch(home, bmc)
        scenes.schedule(home, bmc)
        if version == NEWEST:
            import browser

            browser.dashboard(home, bmc, sidecar, work, picture)
        made.fan_failed(home, servers)
        made.energy(home, servers)
        made.identify(home, servers)
        if version == NEWEST:
            if picture:
                made.live(home, servers)
            browser.made(home, servers, work, picture and Path(picture))
        else:
            made.fan_mended(home, servers)
        made.gone(home, servers)
        scenes.changed_elsewhere(home, bmc)
        scenes.second_server(home, second)
        made.is_gone(home, servers)
        made.comes_back(home, servers)
        scene("The log after these scenes")
        scenes.clean_log(home)

        scenes.automations(home, bmc)
        scenes.pressed_twice(home, bmc)
        scenes.shutdown_that_fails(home, bmc, sidecar)
        scenes.wrong_key(home, bmc, sidecar)
        scenes.wrong_password(home, bmc, sidecar)
        scenes.dead_bmc(home, bmc, second)
        scenes.slow_bmc(home, bmc)
        scenes.refusing_bmc(home, refusing, bmc, sidecar)
        scenes.sidecar_restarted(home, bmc, sidecar)
        made.is_back(home, servers)
        made.examples(home, servers)
        made.other_hardware(home, servers)
        made.sidecar_stops(home, servers)
        home.stop()

        sidecar.start(bmc)
        scene(f"Home Assistant {version} with a configuration of years ago")
        ok(f"running after {old.start():.0f} s")
        scenes.of_years_ago(old, bmc)
        if version == NEWEST:
            browser.of_years_ago(old, bmc, work)
    except BaseException:
        traceback.print_exc()
        evidence(work)
        sys.exit(1)
    finally:
        for each in reversed(started):
            each.stop()
    (work / "passed").write_text(str(checks.passed))


def variables_of(second):
    """The guide's variables of a second server, with the address of this one."""
    lines = guide.block("SERVERS=lab").splitlines()
    return {**dict(line.split("=") for line in lines), "BMC_LAB_HOST": "127.0.0.1", "BMC_LAB_PORT": str(second.port)}


def shipped(folder, version):
    """Makes the configuration folder as the guide says, for two servers."""
    packages = folder / "packages"
    packages.mkdir(parents=True)
    dashboards = guide.block("# configuration.yaml: the dashboard") + MADE_DASHBOARD
    blocks = ["frontend:\nhistory:\nenergy:\n", guide.block("# configuration.yaml"), dashboards]
    (folder / "configuration.yaml").write_text("\n".join(blocks))
    (folder / "secrets.yaml").write_text(guide.block("# secrets.yaml").replace("…", KEY))
    for name in ("ipmi_sidecar.yaml", "dashboard.yaml"):
        shutil.copy(guide.SHIPPED / name, packages if name.startswith("ipmi") else folder)
    (packages / "own_automations.yaml").write_text(AUTOMATIONS)

    # The guide's sed line makes the copy. The test shortens its wait.
    line = re.search(r"^\$ sed '([^']+)' ipmi_sidecar.yaml >lab.yaml$", guide.GUIDE, re.MULTILINE)
    assert line, "the guide has no sed line for a second server"
    copied = lambda text: subprocess.run(["sed", line[1]], input=text, capture_output=True, text=True, check=True).stdout
    copy = copied((packages / "ipmi_sidecar.yaml").read_text())
    (packages / "lab.yaml").write_text(replaced(copy, [("repeat.index >= 30", "repeat.index >= 1")]))

    if version != NEWEST:
        switch = guide.block("# packages/ipmi_sidecar_switch.yaml, before Home Assistant 2025.12")
        (packages / "ipmi_sidecar_switch.yaml").write_text(switch)
        (packages / "lab_switch.yaml").write_text(copied(switch))
    return folder


def replaced(text, changes):
    for before, after in changes:
        assert before in text, f"there is no {before} to replace in:\n{text}"
        text = text.replace(before, after)
    return text


def of_years_ago(folder, version):
    """Copies the second configuration. For the newest version it replaces the old switch with the guide's lines."""
    shutil.copytree(OF_YEARS_AGO, folder)
    (folder / "secrets.yaml").write_text(f"ipmi_api_key: {KEY}\n")
    if version == NEWEST:
        file = folder / "configuration.yaml"
        text = file.read_text()
        before = guide.block("# before")
        assert before.split("\n", 1)[1] in text, "the guide's old switch is not that of the second configuration"
        file.write_text(text.replace(before.split("\n", 1)[1], guide.block("# from 2025.12 on")))
    return folder


def guided(home):
    """Checks that the guide lists all codes and entities."""
    scene("The guide")
    told, known = guide.codes(guide.GUIDE, "## Every code"), failure_codes()
    assert known, "deploy/failures.md has no table of failures"
    expect("codes of deploy/failures.md that it lacks", set(), known - told)
    expect("codes it has and deploy/failures.md has not", set(), told - known - {"no_answer"})
    told = set(re.findall(r"`((?!rest_command)\w+\.server_\w+)`", guide.GUIDE))
    known = {each["entity_id"] for each in home.get("/api/states") if ".server_" in each["entity_id"]}
    expect("entities that the guide lacks", set(), known - told)
    expect("entities of the guide that do not exist", set(), told - known)


def failure_codes():
    return guide.codes((ROOT / "deploy/failures.md").read_text(), "## Every failure")


def evidence(work):
    """Prints the end of each log."""
    names = ("*.log", "*/home-assistant.log", "*.output", "*/journal")
    for log in [found for name in names for found in work.glob(name)]:
        print(f"\n--- {log} ---\n" + "\n".join(log.read_text(errors="replace").splitlines()[-60:]), file=sys.stderr)


main()
