"""Runs processes in a control group of their own, and measures their CPU time and memory."""

import contextlib
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

DESCRIPTORS = 1024  # the usual default for a service
START_TIMEOUT = 60  # seconds: a server starts slowly under valgrind


class Group:
    """All processes of one peer. The control group also counts the CPU time of children that have ended."""

    def __init__(self):
        self.folder = self.make_folder()
        self.processes = []

    @staticmethod
    def make_folder():
        own = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        for _, mount, kind, options, *_ in mounts:
            names = [name for name in own if "cpuacct" in name.split(",")]
            if kind == "cgroup" and "cpuacct" in options.split(",") and names:
                path = own[names[0]]
            elif kind == "cgroup2" and not any("cpuacct" in name.split(",") for name in own):
                path = own[""]
            else:
                continue
            folder = Path(mount + path) / f"ipmi-sidecar-bench-{os.getpid()}"
            with contextlib.suppress(OSError):
                folder.mkdir(exist_ok=True)
                return folder
        sys.exit("scripts/bench/run: cannot make a control group: run it as root, where /sys/fs/cgroup is writable")

    @property
    def counting(self):
        return "a control group, v1" if (self.folder / "cpuacct.usage").exists() else "a control group, v2"

    def start(self, command, log, descriptors=DESCRIPTORS, **environment):
        """Starts the command. Returns the process and the time of its start."""
        reading, writing = os.pipe()

        def join():
            (self.folder / "cgroup.procs").write_text("0")
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            os.write(writing, str(time.monotonic_ns()).encode())

        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", **environment},
            start_new_session=True,
            preexec_fn=join,
        )
        begun = int(os.read(reading, 32)) / 1e9
        os.close(reading)
        os.close(writing)
        self.processes.append(process)
        return process, begun

    def pids(self):
        return [int(pid) for pid in (self.folder / "cgroup.procs").read_text().split()]

    def cpu(self):
        """Seconds of CPU time of all processes since the group exists."""
        usage = self.folder / "cpuacct.usage"
        if usage.exists():
            return int(usage.read_text()) / 1e9
        return int((self.folder / "cpu.stat").read_text().split()[1]) / 1e6

    def memory(self):
        """PSS in KiB: a page that N processes share counts 1/N for each."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                total += int(next(line for line in lines if line.startswith("Pss:")).split()[1])
        return total

    def counts(self):
        """The number of processes, and of their threads."""
        pids = self.pids()
        threads = 0
        for pid in pids:
            with contextlib.suppress(OSError):
                threads += len(os.listdir(f"/proc/{pid}/task"))
        return len(pids), threads

    def end(self, grace=3):
        """Sends SIGTERM to all processes, waits `grace` seconds, then sends SIGKILL."""
        for process in self.processes:
            process.terminate()
        until = time.monotonic() + grace
        while self.pids() and time.monotonic() < until:
            time.sleep(0.01)
            for process in self.processes:
                process.poll()
        while left := self.pids():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
            for process in self.processes:
                process.poll()
        self.processes = []

    def remove(self):
        self.end()
        self.folder.rmdir()


def free_port(kind=socket.SOCK_STREAM):
    """A port below those that the kernel gives to clients. A client could else connect to itself while its server starts."""
    while True:
        port = random.randrange(16384, 32768)
        with contextlib.suppress(OSError), socket.socket(type=kind) as probe:
            probe.bind(("127.0.0.1", port))
            return port


def ask(port, path, timeout):
    """True if the server answers 200 within `timeout` seconds."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
    with contextlib.suppress(OSError), socket.socket() as connection:
        connection.settimeout(timeout)
        connection.connect(("127.0.0.1", port))
        connection.sendall(request)
        return connection.recv(64)[8:12] == b" 200"
    return False


def healthy_after(port, path, process, begun):
    """Milliseconds from the start to the first healthy answer; None if the server ended or never answered."""
    while time.monotonic() < begun + START_TIMEOUT:
        if ask(port, path, START_TIMEOUT):
            return (time.monotonic() - begun) * 1e3
        if process.poll() is not None:
            break
        time.sleep(0.0002)
    return None
