"""Runs the peers in turns, and measures them. scripts/bench/run calls it.

Usage: driver.py FOLDER BINARY [--quick]
"""

import json
import os
import platform
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import attacks
import instructions
import report
from machine import DESCRIPTORS, Group, ask, free_port, healthy_after
from peers import (
    KEY, PASSWORD, ROOT, BaselineHttp, Busybox, Dynamic, Gunicorn, Lighttpd, LighttpdOurs, Packages, Servers, Site, Static, Webhook,
    WebhookServers, clear,
)
from report import BASELINE

BMC = ROOT / "scripts/lib/bmc"
ENTERPRISES = "/usr/share/misc/enterprise-numbers.txt"
# ipmitool reads the whole file at each start. The image has a short one.
ONE_ENTERPRISE = "image" + ENTERPRISES
ATTACK_SECONDS = 3
SERVERS = 8
CLIENTS_OF_A_SERVER = 8
HEALTH_TIMEOUT = 2  # seconds for /health during an attack, or while commands are stuck

# The file that the stub writes: how many run now, ran at once at most, and in total.
COUNTER = "3i"
EMPTY_COUNTER = struct.pack(COUNTER, 0, 0, 0)

# Method, path, and a part of every right answer.
STATUS = ("GET", "/power/status", "Chassis Power is on")
CHANGE = ("POST", "/power/on", "Chassis Power Control: Up/On")


class Plan:
    """How much is measured."""

    def __init__(self, quick):
        self.quick = quick
        self.rounds = 3 if quick else 7
        self.seconds = 0.2 if quick else 0.3
        self.slow_seconds = 0.3 if quick else 0.5
        self.attacks = list(attacks.ATTACKS)[:2] if quick else list(attacks.ATTACKS)
        # kind of ipmitool: seconds of each load, and the numbers of clients
        self.works = {
            "instant": (self.seconds, (1, 4) if quick else (1, 4, 32)),
            # Longer, so that the first run, which serves fewer clients, does not count much.
            "50 ms": (2 * self.slow_seconds, (32,) if quick else (1, 4, 32)),
            "Debian's": (self.slow_seconds, (1,) if quick else (1, 4, 32)),
        }
        if not quick:
            self.works["the image's"] = self.works["Debian's"]


class Bench:
    def __init__(self, folder, binary, plan, scratch):
        self.folder, self.plan, self.scratch = folder, plan, scratch
        self.group = Group()
        self.counter = folder / "counter"
        self.helpers = []
        self.site = Site(folder, binary, scratch / "site", free_port(socket.SOCK_DGRAM))
        clear(self.site.folder)
        self.peers = [Dynamic(), Gunicorn(), Webhook(), Busybox(), Lighttpd(), LighttpdOurs()]
        if not plan.quick:
            self.peers.insert(1, Static())
        self.baseline_http = BaselineHttp()
        self.log = (scratch / "peer.log").open("a+")
        self.result = {"figures": {}, "attacks": {}, "notes": {}}

    # --- Figures: one value a round, by work, clients, peer and name -------------

    def put(self, work, clients, peer, **values):
        for name, value in values.items():
            rows = self.result["figures"].setdefault(f"{work}|{clients}|{peer}|{name}", [])
            rows.append(value)

    # --- Peers -------------------------------------------------------------------

    def start(self, peer, work="instant", wrapper=(), **environment):
        port = free_port()
        clear(self.site.folder)
        self.site.ipmitool = self.programs(work)
        command, own = peer.prepare(self.site, port)
        if work == "the image's":
            wrapper = [*wrapper, *self.with_one_enterprise()]
        self.log.truncate(0)
        process, begun = self.group.start([*wrapper, *command], self.log, **own, **environment)
        return port, healthy_after(port, peer.health, process, begun)

    def started(self, peer, *arguments, **environment):
        port, took = self.start(peer, *arguments, **environment)
        if took is None:
            self.fail(f"starting {peer.name}: no answer to {peer.health}")
        return port, took

    def programs(self, work):
        return {
            "instant": self.folder / "stub/0/ipmitool",
            "50 ms": self.folder / "stub/50/ipmitool",
            "2 s": self.folder / "stub/2000/ipmitool",
            "Debian's": Path(shutil.which("ipmitool")),
            "the image's": self.folder / "image/usr/bin/ipmitool",
        }[work]

    def with_one_enterprise(self):
        """Mounts the image's short file for the image's ipmitool. Only this peer sees the mount."""
        mount = f'mount --bind "{self.folder / ONE_ENTERPRISE}" {ENTERPRISES} && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", mount, "sh"]

    def fail(self, what):
        self.log.flush()
        log = Path(self.log.name).read_text()[-2000:]
        sys.exit(f"scripts/bench/run: {what}; its log: {log}")

    # --- Loads -------------------------------------------------------------------

    def load(self, seconds, clients, port, request, pause=0):
        method, path, expected = request
        words = [self.folder / "load", seconds, clients, pause, port, method, path, KEY, expected]
        return self.start_helper(words, stdout=subprocess.PIPE, text=True)

    def start_helper(self, words, **options):
        """Starts a program that is not part of a peer."""
        self.helpers = [helper for helper in self.helpers if helper.poll() is None]
        self.helpers.append(subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, **options))
        return self.helpers[-1]

    def measure(self, work, clients, name, run):
        """Measures one load. `run` starts it."""
        self.counter.write_bytes(EMPTY_COUNTER)
        before = self.group.cpu()
        line = run().communicate()[0].split()
        used = self.group.cpu() - before
        good, failed, seconds, median, late, _ = map(float, line)
        self.put(work, clients, name, failed=failed, rate=good / seconds)
        each = {"p50": median, "p99": late, "cpu": used / good * 1e6} if good else dict.fromkeys(("p50", "p99", "cpu"))
        self.put(work, clients, name, **each)
        if "50 ms" in work:
            self.put(work, clients, name, at_once=self.at_once())

    def at_once(self):
        """The largest number of `ipmitool` that ran at once."""
        return struct.unpack(COUNTER, self.counter.read_bytes())[1]

    # --- One round -----------------------------------------------------------------

    def round(self, number):
        for work in self.plan.works:
            peers = [*self.peers, None]  # None: the baseline
            if work == "instant":
                peers.append(self.baseline_http)
            shift = number % len(peers)
            for peer in peers[shift:] + peers[:shift]:
                if peer is None:
                    self.round_of_baseline(work)
                else:
                    self.round_of(peer, work)

    def round_of(self, peer, work):
        seconds, client_counts = self.plan.works[work]
        if peer is self.baseline_http:
            client_counts = (1,)
        port, started = self.started(peer, work)
        if work == "instant":
            time.sleep(0.2)
            processes, threads = self.group.counts()
            idle = self.group.memory()
            self.put("start", 0, peer.name, ms=started)
            self.put("idle", 0, peer.name, pss=idle, processes=processes, threads=threads)
            health = ("GET", peer.health, peer.healthy)
            for clients in client_counts:
                self.measure("health", clients, peer.name, lambda: self.load(seconds, clients, port, health))
            change = (CHANGE[0], peer.prefix + CHANGE[1], CHANGE[2])
            self.measure("change", 1, peer.name, lambda: self.load(seconds, 1, port, change))
        status = (STATUS[0], peer.prefix + STATUS[1], STATUS[2])
        for clients in client_counts:
            self.measure(f"status {work}", clients, peer.name, lambda: self.load(seconds, clients, port, status))
        if work == "50 ms":
            self.put("loaded", 0, peer.name, pss=self.most_memory(self.load(seconds, 32, port, status)))
        self.group.end()

    def round_of_baseline(self, work):
        seconds, client_counts = self.plan.works[work]
        self.site.ipmitool = self.programs(work)
        if work == "instant":
            self.measure("change", 1, BASELINE, lambda: self.start_baseline(1, seconds, CHANGE, work))
        for clients in client_counts:
            self.measure(f"status {work}", clients, BASELINE, lambda: self.start_baseline(clients, seconds, STATUS, work))
        self.group.end()

    def start_baseline(self, clients, seconds, request, work, wrapper=(), **environment):
        command = self.site.command("power on" if request is CHANGE else "power status")
        words = [self.folder / "baseline", seconds, clients, request[2], *command]
        if work == "the image's":
            wrapper = self.with_one_enterprise()
        output = (self.scratch / "baseline.log").open("w+")
        process, _ = self.group.start([*wrapper, *map(str, words)], output, IPMITOOL_PASSWORD=PASSWORD, **environment)
        return Output(process, output)

    def most_memory(self, load):
        most = 0
        while load.poll() is None:
            most = max(most, self.group.memory())
            time.sleep(0.05)
        return most

    # --- Stuck commands and attacks -------------------------------------------------

    def several(self, number):
        """Eight servers with eight clients each, beside one server with eight; and the memory of more."""
        work = "50 ms"
        peers = [(Servers(1), 1), (Servers(SERVERS), SERVERS), (WebhookServers(SERVERS), SERVERS)]
        shift = number % len(peers)
        for peer, servers in peers[shift:] + peers[:shift]:
            port, _ = self.started(peer, work)
            request, clients = (STATUS[0], peer.paths(), STATUS[2]), servers * CLIENTS_OF_A_SERVER
            seconds = self.plan.works[work][0]
            self.measure(f"several {work}", clients, peer.name, lambda: self.load(seconds, clients, port, request))
            self.group.end()
        for peer in map(Servers, (1, 4, 16)):
            self.started(peer)
            time.sleep(0.2)
            self.put("idle", 0, peer.name, pss=self.group.memory(), threads=self.group.counts()[1])
            self.group.end()

    def stuck(self, peer):
        """The worst /health while 32 clients wait for commands of 2 s."""
        port, _ = self.started(peer, "2 s")
        status = (STATUS[0], peer.prefix + STATUS[1], STATUS[2])
        self.counter.write_bytes(EMPTY_COUNTER)
        waiters = self.load(0.1, 32, port, status)
        time.sleep(0.4)
        health = self.load(0.8, 1, port, ("GET", peer.health, peer.healthy), pause=0.005)
        try:
            _, failed, _, _, _, worst = map(float, health.communicate(timeout=0.8 + HEALTH_TIMEOUT)[0].split())
        except subprocess.TimeoutExpired:
            health.kill()
            failed, worst = 1, 0
        self.put("stuck", 32, peer.name, worst=worst, failed=failed, at_once=self.at_once())
        waiters.kill()
        self.group.end(grace=0)

    def attack(self, peer, name):
        """Asks /health during the attack and once after it; measures the largest PSS."""
        port, _ = self.started(peer, descriptors=attacks.DESCRIPTORS.get(name, DESCRIPTORS))
        words = [name, port, ATTACK_SECONDS, peer.health, peer.prefix + "/power/on"]
        attacker = self.start_helper([sys.executable, attacks.__file__, *words])
        most, worst, asked, answered = 0, 0, 0, 0
        is_over = False
        while not is_over:
            is_over = attacker.poll() is not None  # ask once more after the attack
            begun = time.monotonic()
            answered += ask(port, peer.health, HEALTH_TIMEOUT)
            asked += 1
            worst = max(worst, time.monotonic() - begun)
            most = max(most, self.group.memory())
            time.sleep(0.05)
        self.group.end(grace=0)
        self.result["attacks"][f"{name}|{peer.name}"] = {
            "asked": asked, "answered": answered, "worst": worst * 1e3, "pss": most
        }

    def sizes(self):
        packages = Packages()
        for peer in self.peers:
            self.put("disk", 0, peer.name, bytes=packages.size(peer.packages) + peer.own_size(self.site))

    # --- The simulated BMC -------------------------------------------------------------

    def start_bmc(self):
        folder = self.scratch / "bmc"
        folder.mkdir(mode=0o700)
        values = {"ADDRESS": "127.0.0.1", "PORT": self.site.bmc_port, "CHASSIS": self.programs("instant"), "PASSWORD": PASSWORD}
        text = (BMC / "lan.conf").read_text()
        for name, value in values.items():
            text = text.replace(f"@{name}@", str(value))
        (folder / "lan.conf").write_text(text)
        with (folder / "log").open("w") as log:
            command = ["ipmi_sim", "-n", "-c", "lan.conf", "-f", BMC / "bmc.emu", "-s", "."]
            self.start_helper(command, cwd=folder, stdout=log, stderr=log)

    def learn(self):
        """Reads our command lines of `ipmitool` for all peers. Fails if the simulated BMC does not answer."""
        port, _ = self.started(Dynamic(), "Debian's", RUST_LOG="debug")
        for request in (STATUS, CHANGE):
            line = self.load(0.1, 1, port, request).communicate()[0]
            if int(line.split()[0]) == 0:
                self.fail(f"asking for {request[1]} before the first round: no right answer")
        self.site.learn_commands(Path(self.log.name).read_text())
        self.group.end()

    def run(self):
        self.start_bmc()
        self.learn()
        begun = time.monotonic()
        for number in range(self.plan.rounds):
            print(f"Round {number + 1} of {self.plan.rounds}, {time.monotonic() - begun:.0f} s …", flush=True)
            self.round(number)
            self.several(number)
            for peer in self.peers:
                self.stuck(peer)
        for name in self.plan.attacks:
            print(f"Attack: {name}, {time.monotonic() - begun:.0f} s …", flush=True)
            for peer in self.peers:
                self.attack(peer, name)
        if not self.plan.quick:
            print(f"Instructions, {time.monotonic() - begun:.0f} s …", flush=True)
            instructions.count(self, BASELINE, CHANGE)
        self.sizes()
        self.result["seconds"] = time.monotonic() - begun

    def close(self):
        for helper in self.helpers:
            helper.kill()
            helper.wait()
        self.group.remove()


class Output:
    """The result of the baseline, which prints into the log file of a peer."""

    def __init__(self, process, file):
        self.process, self.file = process, file

    def communicate(self):
        self.process.wait()
        self.file.seek(0)
        return self.file.read(), None



def describe(bench):
    cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line or "Processor" in line)
    names = ("ipmitool", "webhook", "busybox", "lighttpd", "python3")
    query = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${Version}, ", *names], capture_output=True, text=True, check=True)
    version = subprocess.run([str(bench.site.binary), "--version"], capture_output=True, text=True, check=True).stdout.strip()
    notes = bench.result["notes"]
    notes["machine"] = f"{cpu.split(':')[1].strip()}, {len(os.sched_getaffinity(0))} CPUs, Linux {platform.release()}"
    notes["versions"] = f"{version}, Flask 3.1.0, Gunicorn 23.0.0; Debian's {query.stdout.rstrip(', ')}"
    notes["rounds"] = bench.plan.rounds
    notes["quick"] = bench.plan.quick
    notes["cpu"] = bench.group.counting
    notes["load"] = Path("/proc/loadavg").read_text().split()[0]
    notes["date"] = time.strftime("%Y-%m-%d")
    notes["peers"] = {peer.name: peer.note for peer in bench.peers}
    notes["baselines"] = {bench.baseline_http.name: bench.baseline_http.note}


def main():
    folder, binary, quick = Path(sys.argv[1]), Path(sys.argv[2]), "--quick" in sys.argv
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(folder, binary, Plan(quick), Path(scratch))
        describe(bench)
        try:
            bench.run()
        finally:
            bench.close()
    (folder / "result.json").write_text(json.dumps(bench.result, indent=1) + "\n")
    text = report.text(bench.result)
    (folder / "result.md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
