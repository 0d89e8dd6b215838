"""The program of scripts/soak: servers, clients and invariants.

Two sidecars run, each with a fake ipmitool of its own. The first is stopped and killed again and again, and
starts with the same STATE_DIR. The second runs all the time: its memory and its descriptors are measured.

The fake notes its runs in a journal. The log of a sidecar tells for which client a run was made. The fake and
this program use the monotonic clock of the machine. A recorded run is never longer than the real one, and a
recorded request is never shorter. So a slow machine breaks no check, except those that have room for it.
"""

import argparse
import bisect
import collections
import contextlib
import fcntl
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

# Seconds. The least that the sidecar allows.
REQUEST_TIMEOUT = 7
POWER_COOLDOWN = 3
# Promise, and room for a busy machine: see the invariants.
LATEST_REPLY = REQUEST_TIMEOUT + 1
LATEST_HEALTH = 1
# A read may join one that began so long ago.
STATUS_AGE = 1
# A request that was complete so long before SIGTERM was admitted, and is answered.
ADMITTED_AFTER = 1
# A cooldown is counted from a note before the run. A busy machine may start the run late.
COOLDOWN_ROOM = 2
# KiB. The history takes 2.6 for each attempt, with its text and the objects of which the text is made. It
# keeps at most 1,024 attempts of a key.
MEMORY_ROOM = 1024
MEMORY_OF_AN_ATTEMPT = 4
DESCRIPTOR_ROOM = 8
# A delivery is repeated at most so long after it was new. The sidecar knows it for 600 s.
REPEATED_WITHIN = 300
HEALTH_PAUSE = 0.02
# Clients of each server. A mixed or a pair client has at most two connections: at most 30 for each server.
MIXED, PAIRS, SLOW = 10, 3, 3
SHOWN_OF_A_KIND = 3
# The largest pipe that every user may ask for: the log must not drop a line.
PIPE_SIZE = 1 << 20

PASSWORD = "pw-Hj5Ng8Kc1Fv3"
KEYS = {
    "API_KEY": "k3y-qWx7Zp0vB4tLm9Rd2Ys6Nf1Hc8Ja5",
    "ACCESS_ON_KEY": "oN-7hGt2Vb9Xk4Ws1Qz6Mc3Lp8Rf5Yd0J",
    "ACCESS_CYCLE_KEY": "cY-4nBv8Dz1Tg6Kx3Hm9Sq2Wj7Pf5Rc0L",
}
WRONG_KEY = "wR-9sLk3Jd7Fh2Gz5Xv8Cb1Nm4Qw6Er0T"
SECRETS = [PASSWORD, WRONG_KEY, *KEYS.values()]

# Path, the command that ipmitool gets, its line at success.
CHANGES = {
    "/power/on": ("power on", "Chassis Power Control: Up/On"),
    "/power/off": ("power soft", "Chassis Power Control: Soft"),
    "/power/force-off": ("power off", "Chassis Power Control: Down/Off"),
    "/power/cycle": ("power cycle", "Chassis Power Control: Cycle"),
    "/power/reset": ("power reset", "Chassis Power Control: Reset"),
    "/identify/on": ("chassis identify force", "Chassis identify interval: indefinite"),
    "/identify/off": ("chassis identify 0", "Chassis identify interval: off"),
}
PATHS = {
    "API_KEY": list(CHANGES),
    "ACCESS_ON_KEY": ["/power/on"],
    "ACCESS_CYCLE_KEY": ["/power/cycle"],
}
RESTARTS = ("power cycle", "power reset")

# These runs of the fake have no effect, and the sidecar knows it: the same delivery may be sent again.
HARMLESS = ("no_session", "hang_before", "busy")
# The success line is not among the first 64 KiB of these.
HIDDEN = ("flood_before",)
UNCONFIRMED = ("lost_ack", "hang_after", "deaf", "wrong", "flood_before")
# Which behaviour of the fake a code tells of.
TOLD = {
    "bmc_refused": ("declined",),
    "bmc_unsupported": ("declined",),
    "bmc_unreachable": ("no_session", "hang_before"),
    "bmc_busy": ("busy",),
    "outcome_unknown": UNCONFIRMED,
}
# After these, nothing of the request was sent.
NOT_SENT = (
    "busy", "cooldown", "bmc_unreachable", "bmc_busy", "bmc_timeout", "delivery_id_reused", "bad_request",
    "unauthorized", "forbidden", "not_found", "method_not_allowed", "request_timeout", "body_too_large",
    "unsupported_encoding", "head_too_large", "internal",
)


def now():
    return time.monotonic()


class Violations:
    """What was broken, with all that is known. Threads share it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.count = 0
        self.kinds = collections.Counter()

    def add(self, what, *known):
        with self.lock:
            self.count += 1
            kind = re.sub(r"\d+(\.\d+)?", "N", what)
            self.kinds[kind] += 1
            if self.kinds[kind] > SHOWN_OF_A_KIND:
                return
            print(f"\nVIOLATION {self.count}: {what}")
            for item in known:
                print(f"    {item}")
            sys.stdout.flush()


class Life:
    """One process of a sidecar, from its start to its end."""

    def __init__(self, server, number):
        self.server, self.number = server, number
        self.process = self.port = None
        # When it listened, when and how it was told to end.
        self.listened = self.ended = self.how = None
        self.is_listening = threading.Event()
        self.log = []  # (time, line)

    def __repr__(self):
        return f"{self.server.name}.{self.number}"

    @property
    def is_up(self):
        return self.port is not None and self.ended is None

    def read_log(self, pipe, path):
        with open(path, "ab") as copy:
            for line in pipe:
                copy.write(line)
                text = line.decode("utf-8", "replace").rstrip("\n")
                self.log.append((now(), text))
                found = re.search(r" listening on 127\.0\.0\.1:(\d+),", text)
                if found and not self.port:
                    self.listened, self.port = now(), int(found[1])
                    self.is_listening.set()
        self.is_listening.set()


class Server:
    """A sidecar with its fake ipmitool, its STATE_DIR and its lives."""

    def __init__(self, name, soak):
        self.name, self.soak = name, soak
        self.folder = os.path.join(soak.folder, name)
        self.state_dir = os.path.join(self.folder, "state-dir")
        os.makedirs(self.state_dir)
        self.program = os.path.join(self.folder, "ipmitool")
        os.symlink(soak.fake, self.program)
        with open(os.path.join(self.folder, "seed"), "w", encoding="ascii") as file:
            file.write(f"{soak.seed}\n")
        self.lives, self.readers = [], []
        self.requests = []
        self.recent = collections.deque(maxlen=60)
        self.alerts = collections.deque(maxlen=60)
        self.worst_health, self.healths = 0, 0
        self.kills = collections.Counter()

    @property
    def life(self):
        return self.lives[-1]

    def start(self):
        life = Life(self, len(self.lives))
        environment = {
            "PATH": os.environ["PATH"],
            "ACCESS_ON_ALLOW": "status,on",
            "ACCESS_CYCLE_ALLOW": "cycle",
            "BMC_HOST": "127.0.0.1",
            "BMC_USER": "admin",
            "BMC_PASSWORD": PASSWORD,
            "IPMITOOL": self.program,
            "LISTEN_ADDR": "127.0.0.1:0",
            "REQUEST_TIMEOUT": str(REQUEST_TIMEOUT),
            "POWER_COOLDOWN": str(POWER_COOLDOWN),
            "RUST_LOG": "debug",
            "STATE_DIR": self.state_dir,
            **KEYS,
        }
        ours, its = os.pipe()
        fcntl.fcntl(its, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        life.process = subprocess.Popen(
            [self.soak.binary], env=environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=its,
        )
        os.close(its)
        reader = threading.Thread(
            target=life.read_log, args=(os.fdopen(ours, "rb"), os.path.join(self.folder, "log")), daemon=True
        )
        reader.start()
        self.readers.append(reader)
        self.lives.append(life)

    def wait_until_up(self):
        # It may wait for the one before.
        if not self.life.is_listening.wait(3 * REQUEST_TIMEOUT) or not self.life.port:
            self.soak.violations.add("the sidecar did not start", repr(self.life), *self.life.log[-5:])
            return False
        return True

    def end(self, how):
        """Ends the present life: kill, term, or twice term."""
        life = self.life
        self.kills[how] += 1
        life.how, life.ended = how, now()
        life.process.send_signal(signal.SIGKILL if how == "kill" else signal.SIGTERM)
        if how == "twice":
            time.sleep(0.3)
            life.process.send_signal(signal.SIGTERM)

    def check_exit(self, life):
        try:
            # The commands, and a client that does not read its reply.
            code = life.process.wait(REQUEST_TIMEOUT + 9)
        except subprocess.TimeoutExpired:
            self.soak.violations.add("SIGTERM did not end the sidecar", repr(life), *life.log[-5:])
            life.process.kill()
            return
        if life.how == "term" and code != 0:
            self.soak.violations.add(f"after SIGTERM the exit code is {code}", repr(life), *life.log[-5:])

    def usage(self):
        """Resident memory in KiB, descriptors, and attempts in the history."""
        pid = self.life.process.pid
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            memory = int(re.search(r"VmRSS:\s+(\d+) kB", file.read())[1])
        attempts = 0
        with contextlib.suppress(FileNotFoundError), open(
                os.path.join(self.state_dir, "attempts.json"), encoding="utf-8") as file:
            attempts = len(json.load(file)["attempts"])
        return memory, len(os.listdir(f"/proc/{pid}/fd")), attempts


class Request:
    """One request, with all that is known of it."""

    def __init__(self, name, path=None, key=None, delivery=None, skip=None, expect=None):
        self.name, self.path, self.key, self.delivery, self.skip = name, path, key, delivery, skip
        self.command = CHANGES[path][0] if path in CHANGES else None
        self.expect = expect  # statuses
        self.life = self.port = None
        self.start = self.complete = self.end = None
        self.has_left = self.has_half_closed = self.is_slow = False
        self.status = self.reply = None
        self.is_replayed = False
        self.answered_at = None  # a place in the log
        self.error = None
        self.socket = None
        self.before = None  # the change that the same client sent before

    @property
    def code(self):
        return (self.reply or {}).get("code")

    @property
    def is_done(self):
        return bool(self.reply) and self.reply.get("success") is True and "skipped" not in self.reply

    def __repr__(self):
        def seconds(value):
            return "-" if value is None else f"{value:.3f}"

        times = f"{seconds(self.start)} {seconds(self.complete)} {seconds(self.end)}"
        names = ("has_left", "has_half_closed", "is_slow", "is_replayed")
        flags = [name for name in names if getattr(self, name)]
        return (f"request {self.name} {self.path} key={self.key} delivery={self.delivery} life={self.life!r} "
                f"port={self.port} start/complete/end={times} {' '.join(flags)} error={self.error} "
                f"reply={self.status} {self.reply}")


class Soak:
    def __init__(self, options):
        self.seed, self.seconds = options.seed, options.minutes * 60
        self.binary, self.fake, self.folder = options.binary, options.fake, options.folder
        self.violations = Violations()
        self.names = collections.Counter()
        self.statuses = collections.Counter()
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.number = 0

    def count(self, request):
        with self.lock:
            self.names[request.name] += 1
            self.statuses[request.status or ("left" if request.has_left else "none")] += 1

    def next_number(self):
        with self.lock:
            self.number += 1
            return self.number

    def run(self):
        self.servers = [Server("restarted", self), Server("steady", self)]
        try:
            return self.run_servers()
        finally:
            for life in [life for server in self.servers for life in server.lives]:
                if life.process.poll() is None:
                    life.process.kill()

    def run_servers(self):
        threads = []
        for server in self.servers:
            server.start()
            if not server.wait_until_up():
                return 1
            kinds = [(MIXED, Mixed), (PAIRS, Pair), (SLOW, Slow)]
            for count, kind in kinds:
                for index in range(count):
                    dice = random.Random(f"{self.seed} {server.name} {kind.__name__} {index}")
                    client = kind(self, server, dice)
                    threads.append(threading.Thread(target=client.run, daemon=True))
            threads.append(threading.Thread(target=self.ask_health, args=(server,), daemon=True))
        idle = self.servers[1].usage()
        threads.append(threading.Thread(target=self.restart, args=(self.servers[0],), daemon=True))
        for thread in threads:
            thread.start()
        begun = now()
        first = min(60, self.seconds / 2)
        self.sleep(first)
        early = self.servers[1].usage()
        while self.sleep(min(30, max(0, begun + self.seconds - now()))):
            if now() - begun >= self.seconds:
                break
            print(f"{now() - begun:4.0f} s: {sum(self.names.values())} requests, "
                  f"{self.violations.count} violations", flush=True)
        self.stop.set()
        for thread in threads:
            # A restart, or a client that waits for its reply.
            thread.join(60)
        if any(thread.is_alive() for thread in threads):
            self.violations.add("a client did not end")
        time.sleep(3)  # the sidecar reads on for 2 s after a reply
        late = self.servers[1].usage()
        self.check_usage(idle, early, late)
        for server in self.servers:
            life = server.life
            if life.is_up:
                server.end("term")
            for life in server.lives:
                server.check_exit(life)
            for reader in server.readers:
                reader.join(10)
            self.check_secrets(server)
            Judge(server, self.violations).judge()
        self.summarise(early, late)
        return 1 if self.violations.count else 0

    def sleep(self, seconds):
        return not self.stop.wait(seconds)

    def ask_health(self, server):
        """Invariant 4."""
        while self.sleep(HEALTH_PAUSE):
            life = server.life
            if not life.is_up:
                continue
            request = Request("health")
            call = Call(self, server, request, life)
            call.begin([(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n", 0)])
            call.finish()
            if life.ended is not None:
                continue
            took = (request.end or now()) - request.start
            server.healths += 1
            server.worst_health = max(server.worst_health, took)
            if request.status != 200 or took > LATEST_HEALTH:
                self.violations.add(f"/health took {took:.3f} s", request)

    def restart(self, server):
        dice = random.Random(f"{self.seed} restarts")
        while True:
            longest = min(90, self.seconds / 4)
            if not self.sleep(dice.uniform(longest / 3, longest)):
                return
            life = server.life
            server.end(dice.choice(["term", "term", "kill", "kill", "twice"]))
            if life.how == "kill":
                life.process.wait()
            server.start()
            if not server.wait_until_up():
                return

    def check_usage(self, idle, early, late):
        """Invariant 6."""
        if late[0] > early[0] + MEMORY_ROOM + MEMORY_OF_AN_ATTEMPT * max(0, late[2] - early[2]):
            self.violations.add(f"memory grew: {early[0]} KiB with {early[2]} attempts in the history, "
                                f"{late[0]} KiB with {late[2]} at the end")
        if late[1] > early[1] + DESCRIPTOR_ROOM or late[1] > idle[1] + DESCRIPTOR_ROOM:
            self.violations.add(f"descriptors: {idle[1]} idle, {early[1]} early, {late[1]} at the end")

    def check_secrets(self, server):
        """Invariant 5, in the log. Replies are looked at as they come."""
        for life in server.lives:
            for _, line in life.log:
                for secret in SECRETS:
                    if secret in line:
                        self.violations.add("a secret is in the log", repr(life), line)
                if " panicked " in line or "this is a defect" in line or " dropped" in line:
                    self.violations.add("the log tells of a defect or of dropped lines", repr(life), line)

    def summarise(self, early, late):
        def listed(counter):
            items = sorted((str(name), count) for name, count in counter.items())
            return ", ".join(f"{name} {count}" for name, count in items)

        lives = sum(len(server.lives) for server in self.servers)
        kills = collections.Counter()
        runs = collections.Counter()
        for server in self.servers:
            kills.update(server.kills)
            runs.update(server.runs)
        for what, count in self.violations.kinds.most_common():
            print(f"{count} times: {what}")
        print(f"\nseed {self.seed}, {self.seconds / 60:g} min: {self.violations.count} violations; "
              f"{sum(self.names.values())} requests ({listed(self.names)}); "
              f"replies ({listed(self.statuses)}); "
              f"runs ({listed(runs)}); {lives} processes (ended by {listed(kills)}); "
              f"worst /health {max(server.worst_health for server in self.servers) * 1000:.0f} ms; "
              f"memory {early[0]} to {late[0]} KiB (history {early[2]} to {late[2]}), "
              f"descriptors {early[1]} to {late[1]}")


class Call:
    """Sends a request, and reads its reply."""

    def __init__(self, soak, server, request, life=None):
        self.soak, self.server, self.request = soak, server, request
        request.life = life or server.life

    def begin(self, pieces):
        """Sends pieces of bytes, each behind a pause."""
        request = self.request
        request.start = now()
        try:
            request.socket = socket.create_connection(("127.0.0.1", request.life.port), timeout=3)
            request.port = request.socket.getsockname()[1]
            for piece, pause in pieces:
                if pause:
                    time.sleep(pause)
                request.socket.sendall(piece)
            request.complete = now()
        except OSError as error:
            request.error = f"sending: {error}"
        return self

    def half_close(self):
        self.request.has_half_closed = True
        try:
            self.request.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.request.error = f"ending our side: {error}"
        return self

    def leave(self):
        """Resets the connection."""
        request = self.request
        request.has_left = True
        if request.socket:
            request.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.socket.close()
        request.end = now()
        self.soak.count(request)

    def finish(self):
        request = self.request
        received = b""
        try:
            if request.socket:
                # Long enough to tell a late reply from none.
                until = now() + REQUEST_TIMEOUT + 8
                while True:
                    request.socket.settimeout(max(0.01, until - now()))
                    some = request.socket.recv(65536)
                    if not some:
                        break
                    received += some
        except OSError as error:
            request.error = f"{request.error or ''} receiving: {error}"
        request.end = now()
        if request.socket:
            request.socket.close()
        self.read(received)
        self.soak.count(request)
        self.check(received)

    def read(self, received):
        request = self.request
        received = received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        head, end, body = received.partition(b"\r\n\r\n")
        found = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
        length = re.search(rb"\r\nContent-Length: (\d+)", head)
        if not end or not found or not length:
            return
        if not request.name.startswith("head") and len(body) != int(length[1]):
            return
        request.status = int(found[1])
        request.is_replayed = b"\r\nIdempotent-Replayed: true" in head
        try:
            request.reply = json.loads(body) if body else {}
        except ValueError:
            self.soak.violations.add("a reply is no JSON", request, received)

    def check(self, received):
        request, add = self.request, self.soak.violations.add
        for secret in SECRETS:
            if secret.encode() in received:
                add("a secret is in a reply", request, received)
        if request.status is None:
            if self.must_be_answered():
                add("a request got no reply", request, received)
            return
        if request.complete and request.end - request.complete > LATEST_REPLY:
            add(f"the reply came {request.end - request.complete:.3f} s after the request", request)
        if request.expect and request.status not in request.expect:
            add(f"expected {request.expect}", request)
        if request.reply and not request.name.startswith("health"):
            is_failure = request.reply.get("success") is False
            if is_failure != bool(request.code) or (not is_failure and request.status != 200):
                add("success, code and status do not fit together", request)
        if request.code == "internal":
            add("an internal error", request)

    def must_be_answered(self):
        """Invariant 8."""
        request, life = self.request, self.request.life
        if request.has_left or (request.complete is None and request.error is None):
            return False
        if life.ended is None:
            return True
        if life.how != "term" or request.complete is None:
            return False
        return request.complete < life.ended - ADMITTED_AFTER and not request.is_slow


class Client:
    def __init__(self, soak, server, dice):
        self.soak, self.server, self.dice = soak, server, dice

    def run(self):
        while self.soak.sleep(self.pause()):
            if not self.server.life.is_up:
                time.sleep(0.05)
                continue
            self.act()

    def call(self, request):
        if request.path in CHANGES or request.name == "status":
            self.server.requests.append(request)
        return Call(self.soak, self.server, request)

    def head(self, request, method, headers=(), key=None):
        value = key or KEYS.get(request.key)
        lines = [f"{method} {request.path} HTTP/1.1", "Host: sidecar", *headers]
        if value:
            field = self.dice.choice(["X-API-Key: ", "x-api-key:", "Authorization: Bearer "])
            lines.insert(self.dice.randrange(1, len(lines) + 1), field + value)
        return lines

    def wire(self, lines, body=None):
        """The bytes of a request: its body by length or in chunks."""
        chunks = body is not None and self.dice.random() < 0.4
        lines = list(lines)
        if chunks:
            lines.append("Transfer-Encoding: chunked")
        elif body is not None:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join(lines).encode() + b"\r\n\r\n"
        return head + (self.chunked(body) if chunks else body or b"")

    def chunked(self, body):
        dice, text = self.dice, b""
        while body:
            length = min(len(body), dice.choice([1, 2, 3, 17, 255, 1000, 5000]))
            size = dice.choice(["%x", "%X", "0%x", "00000000%x"]) % length
            extension = dice.choice(["", "", ";a=b", ';a="b c"'])
            text += f"{size}{extension}\r\n".encode() + body[:length] + b"\r\n"
            body = body[length:]
        return text + b"0\r\n" + dice.choice([b"", b"", b"X-Trailer: a\r\n"]) + b"\r\n"

    def pieces(self, data):
        """Mostly all at once, else in odd pieces."""
        if self.dice.random() < 0.7:
            return [(data, 0)]
        pieces = []
        for _ in range(self.dice.randrange(1, 6)):
            length = self.dice.randrange(1, len(data) + 1) if data else 0
            pieces.append((data[:length], self.dice.choice([0, 0, 0.001, 0.02])))
            data = data[length:]
        return [piece for piece in [*pieces, (data, 0)] if piece[0]]

    def change(self, name, delivery=None, path=None, key=None, **more):
        key = key or self.dice.choice(["API_KEY", "API_KEY", "API_KEY", "ACCESS_ON_KEY", "ACCESS_CYCLE_KEY"])
        return Request(name, path or self.dice.choice(PATHS[key]), key, delivery, **more)

    def post(self, request, headers=(), body=None, send=True):
        """Begins a change; ends it too if it is to be sent now."""
        if request.delivery and request.delivery[0] == "id":
            fields = ["Idempotency-Key", "webhook-id", "X-GitHub-Delivery", "idempotency-key"]
            field = self.dice.choice(fields)
            headers = [*headers, f"{field}: {request.delivery[1]}"]
        if body is None and self.dice.random() < 0.3:
            body = self.dice.choice([b"", b"a=b", b"x" * 5000, b'"text"', b"[1,2]"])
        call = self.call(request).begin(self.pieces(self.wire(self.head(request, "POST", headers), body)))
        if send:
            call.finish()
        return call


class Pair(Client):
    """Invariant 3: sends one change, and then another on a second connection."""

    def pause(self):
        return self.dice.uniform(1, 5)

    def act(self):
        paths = [path for path in CHANGES if path not in ("/power/cycle", "/power/reset")]
        calls = []
        for path in self.dice.sample(paths, 2):
            request = self.change("pair", path=path, key="API_KEY")
            request.before = calls[-1].request if calls else None
            calls.append(self.post(request, send=False))
        for call in calls:
            call.finish()


class Mixed(Client):
    """Statuses, changes, alerts, and requests that are broken or cut off."""

    def pause(self):
        return self.dice.uniform(0, 0.6)

    def act(self):
        ways = [
            (self.status, 30), (self.plain, 4), (self.named, 12), (self.named_twice, 6),
            (self.named_again, 14), (self.other_command, 3), (self.alert, 8), (self.alert_again, 10),
            (self.alert_resolved, 4), (self.alert_damaged, 1), (self.half_closed, 6), (self.left, 8),
            (self.broken, 25),
        ]
        self.dice.choices([way for way, _ in ways], [weight for _, weight in ways])[0]()

    def status(self):
        name = "head" if self.dice.random() < 0.05 else "status"
        request = Request(name, "/power/status", self.dice.choice(["API_KEY", "ACCESS_ON_KEY"]))
        method = "HEAD" if name == "head" else "GET"
        self.call(request).begin(self.pieces(self.wire(self.head(request, method)))).finish()

    def plain(self):
        self.post(self.change("plain"))

    def new_delivery(self, name):
        request = self.change(name)
        request.delivery = ("id", f"{self.dice.choice(['a', 'an id ', 'x' * 200])}{self.soak.next_number()}")
        self.server.recent.append((now(), request))
        return request

    def named(self):
        self.post(self.new_delivery("named"))

    def named_twice(self):
        first = self.new_delivery("named_twice")
        second = self.change("named_twice", first.delivery, first.path, first.key)
        calls = [self.post(first, send=False), self.post(second, send=False)]
        for call in self.dice.sample(calls, 2):
            call.finish()

    def earlier(self, pool):
        known = [entry for at, entry in list(pool) if now() - at < REPEATED_WITHIN]
        return self.dice.choice(known) if known else None

    def named_again(self):
        before = self.earlier(self.server.recent)
        if before:
            self.post(self.change("named_again", before.delivery, before.path, before.key))

    def other_command(self):
        before = self.earlier(self.server.recent)
        if before and before.key == "API_KEY":
            path = self.dice.choice([path for path in CHANGES if path != before.path])
            self.post(self.change("other_command", before.delivery, path, before.key))

    def alert(self):
        """One or two alerts that are new, or one of them together with an earlier one."""
        request = self.change("alert")
        alerts = {self.new_alert()}
        before = self.earlier(self.server.alerts)
        if before and self.dice.random() < 0.3:
            request = self.change("alert", path=before.path, key=before.key)
            alerts.add(self.dice.choice(sorted(before.delivery[1])))
        elif before and self.dice.random() < 0.3:
            # It fires anew, and so later.
            request = self.change("alert", path=before.path, key=before.key)
            alerts = {(print_, since + 600_000) for print_, since in before.delivery[1]}
        elif self.dice.random() < 0.3:
            alerts.add(self.new_alert())
        request.delivery = ("alerts", frozenset(alerts))
        self.server.alerts.append((now(), request))
        self.send_alerts(request, alerts)

    def new_alert(self):
        number = self.soak.next_number()
        return f"{number:016x}", (int(time.time()) - 100_000) * 1000 + number % 1000

    def alert_again(self):
        before = self.earlier(self.server.alerts)
        if before:
            request = self.change("alert_again", before.delivery, before.path, before.key)
            self.send_alerts(request, request.delivery[1], resolved=self.dice.random() < 0.2)

    def alert_resolved(self):
        before = self.earlier(self.server.alerts)
        if before:
            request = self.change("alert_resolved", path=before.path, key=before.key, skip="resolved")
            self.send_alerts(request, (), before.delivery[1])

    def send_alerts(self, request, firing, resolved=()):
        entries = [self.entry(alert, "firing") for alert in firing]
        over = [self.new_alert()] if resolved is True else list(resolved or ())
        entries += [self.entry(alert, "resolved") for alert in over]
        self.dice.shuffle(entries)
        status = "firing" if firing else "resolved"
        body = {"version": "4", "receiver": "sidecar", "status": status, "alerts": entries}
        text = json.dumps(body, indent=self.dice.choice([None, 2])).encode()
        mark = b"\xef\xbb\xbf" if self.dice.random() < 0.1 else b""
        # A relay that gives all its requests the same id.
        headers = ["Idempotency-Key: relay"] if self.dice.random() < 0.2 else []
        self.post(request, ["Content-Type: application/json", *headers], mark + text)

    def entry(self, alert, status):
        fingerprint, since = alert
        hours = self.dice.choice([0, 0, 2, -5])
        date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since // 1000 + hours * 3600))
        zone = f"{hours:+03d}:00" if hours else "Z"
        return {
            "status": status, "fingerprint": fingerprint, "labels": {"alertname": "Hangs"}, "annotations": {},
            "startsAt": f"{date}.{since % 1000:03d}{zone}", "endsAt": "0001-01-01T00:00:00Z",
        }

    def alert_damaged(self):
        body = b'{"status":"firing","alerts":[{"status":"firing",' + b"x" * self.dice.randrange(50)
        self.post(self.change("alert_damaged"), body=body)

    def half_closed(self):
        if self.dice.random() < 0.4:
            request = Request("half_closed_status", "/power/status", "API_KEY")
            call = self.call(request).begin([(self.wire(self.head(request, "GET")), 0)])
        else:
            call = self.post(self.new_delivery("half_closed"), send=False)
        if self.dice.random() < 0.5:
            time.sleep(self.dice.uniform(0, 0.2))
        call.half_close().finish()

    def left(self):
        kind = self.dice.randrange(3)
        if kind == 0:
            request = Request("left_status", "/power/status", "API_KEY")
            call = self.call(request).begin([(self.wire(self.head(request, "GET")), 0)])
        else:
            call = self.post(self.new_delivery("left") if kind == 1 else self.change("left"), send=False)
        time.sleep(self.dice.choice([0, 0, 0.01, 0.1, 0.5]))
        call.leave()

    def broken(self):
        dice = self.dice
        api = f"X-API-Key: {KEYS['API_KEY']}"
        change = dice.choice(list(CHANGES))

        def post(*lines, path=change, body=b""):
            return "\r\n".join([f"POST {path} HTTP/1.1", "Host: a", *lines]).encode() + b"\r\n\r\n" + body

        def get(path, *lines):
            return "\r\n".join([f"GET {path} HTTP/1.1", "Host: a", *lines]).encode() + b"\r\n\r\n"

        chunked = "Transfer-Encoding: chunked"
        cases = [
            ("garbage", {400, 431}, dice.randbytes(dice.randrange(1, 3000)) + b"\r\n\r\n"),
            ("no_method", {400}, b" / HTTP/1.1\r\n\r\n"),
            ("no_version", {400}, b"POST " + change.encode() + b"\r\n" + api.encode() + b"\r\n\r\n"),
            ("space_before_colon", {400}, post(api, "Content-Length : 0")),
            ("folded", {400}, post(api, "X-A: a\r\n b")),
            ("bare_line", {400}, post(api, "nothing")),
            ("nul", {400}, post(api, "X-A: \0")),
            ("two_lengths", {400}, post(api, "Content-Length: 1", "Content-Length: 2", body=b"ab")),
            ("length_and_chunks", {400}, post(api, "Content-Length: 5", chunked, body=b"0\r\n\r\n")),
            ("negative_length", {400}, post(api, "Content-Length: -1")),
            ("bad_chunk", {400}, post(api, chunked, body=b"zz\r\n\r\n")),
            ("endless_size", {400, 413}, post(api, chunked, body=b"f" * 40 + b"\r\n")),
            ("huge_head", {431}, post(api, "X-A: " + "a" * 9000)),
            ("many_fields", {431}, post(api, *["X-A: a"] * 70)),
            ("huge_body", {413}, post(api, "Content-Length: 70000", body=b"a" * 70000)),
            ("huge_claim", {413}, post(api, "Content-Length: 99999999999")),
            ("huge_chunks", {413}, post(api, chunked, body=(b"1000\r\n" + b"a" * 4096 + b"\r\n") * 18)),
            ("gzip", {415}, post(api, "Content-Encoding: gzip", "Content-Length: 3", body=b"\x1f\x8b\x08")),
            ("wrong_key", {401}, post(f"X-API-Key: {WRONG_KEY}")),
            ("part_of_key", {401}, post(api[:-1])),
            ("two_keys", {401}, post(api, f"X-API-Key: {WRONG_KEY}")),
            ("no_key", {401}, post()),
            ("no_key_status", {401}, get("/power/status")),
            ("weak_key", {403}, post(f"X-API-Key: {KEYS['ACCESS_ON_KEY']}", path="/power/cycle")),
            ("other_site", {403}, post(api, "Sec-Fetch-Site: cross-site")),
            ("unknown_path", {404}, post(api, path="/power/explode")),
            ("get_change", {405}, get(change, api)),
            ("two_ids", {400}, post(api, "Idempotency-Key: a", "Idempotency-Key: b")),
            ("long_id", {400}, post(api, "Idempotency-Key: " + "a" * 256)),
            ("cut_off", {400}, None),
            ("silent", None, b""),
        ]
        name, expect, data = dice.choice(cases)
        request = Request(f"broken_{name}", expect=expect)
        call = Call(self.soak, self.server, request)
        if name == "silent":
            call.begin([])
            time.sleep(dice.uniform(0, 0.3))
            call.leave()
        elif name == "cut_off":
            whole = post(api, "Content-Length: 10", body=b"a" * 9)
            call.begin([(whole[:dice.randrange(1, len(whole))], 0)]).half_close().finish()
        else:
            # A head that was refused early may be cut off before it was sent.
            request.is_slow = len(data) > 8000
            call.begin(self.pieces(data)).finish()


class Slow(Client):
    """Heads and bodies that come slowly, or never."""

    def pause(self):
        return self.dice.uniform(0.2, 2)

    def act(self):
        kind = self.dice.choice(["head", "body", "body_in_time", "drips"])
        if kind == "head":
            self.send_slowly(Request("slow_head", expect={408}), [(b"GET /power/status HTT", 0)])
            return
        body = b"a" * 100
        if kind == "body":
            request = self.change("slow_body", expect={408, 503})
            data = self.wire_of(request, body)
            self.send_slowly(request, [(data[:-self.dice.randrange(1, 100)], 0)])
            return
        request = self.change("slow_in_time" if kind == "body_in_time" else "drips")
        data = self.wire_of(request, body)
        if kind == "body_in_time":
            pieces = [(data[:-60], 0), (data[-60:-20], self.dice.uniform(0, 1)), (data[-20:], 0.5)]
        else:
            pieces = [(data[index:index + 9], 0.05) for index in range(0, len(data), 9)]
        self.send_slowly(request, pieces)

    def wire_of(self, request, body):
        lines = self.head(request, "POST", [f"Content-Length: {len(body)}"])
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def send_slowly(self, request, pieces):
        request.is_slow = True
        self.call(request).begin(pieces).finish()


class Run:
    """One run of the fake, as its journal tells it."""

    def __init__(self, number, pid, parent, begin, behaviour, command):
        self.number, self.pid, self.parent = number, pid, parent
        self.begin = self.last = begin
        self.behaviour, self.command = behaviour, command
        self.effect = self.read = self.state = None  # the first two: places in the journal
        self.prints = self.printed = None
        self.end = self.how = None
        self.latest = None  # it had ended by then
        self.life = self.owner = None
        self.is_answered = False
        self.ran_at = None  # a place in the log

    @property
    def is_harmless(self):
        return self.behaviour in HARMLESS

    @property
    def is_cut_off(self):
        """The fake was stopped before it was done."""
        return self.how != "done"

    def __repr__(self):
        end = "-" if self.end is None else f"{self.end:.3f}"
        return (f"run {self.number} of {self.command!r} {self.behaviour} life={self.life!r} "
                f"begin={self.begin:.3f} last={self.last:.3f} end={end} {self.how} "
                f"effect={self.effect} read={self.read} state={self.state} "
                f"prints={self.prints} printed={self.printed} owner={self.owner!r}")


CHANGE_WORDS = "|".join(re.escape(command) for command, _ in CHANGES.values())
RUNNING = re.compile(rf"DEBUG running env -i .* ({CHANGE_WORDS})$")
OF_CHANGE = re.compile(rf"\w+ ({CHANGE_WORDS}) \(\w+ from 127\.0\.0\.1:(\d+)\) (.*)$")
# An answer that no run gave.
NO_RUN = re.compile(
    r"answered after \d+ ms: (busy:|cooldown:|delivery_id_reused:|internal:|as before,|repeat$)")


class Judge:
    """Checks the invariants that need the journal."""

    def __init__(self, server, violations):
        self.server, self.add = server, violations.add
        self.runs = self.read_journal()
        self.changes = [run for run in self.runs if run.command != "power status"]
        self.reads = [run for run in self.runs if run.command == "power status"]
        self.set_latest(self.changes)
        server.runs = collections.Counter()
        for run in self.runs:
            server.runs["reads" if run.command == "power status" else "changes"] += 1

    def judge(self):
        for life in self.server.lives:
            self.attribute(life)
        self.check_deliveries()
        self.check_one_at_a_time()
        self.check_order()
        self.check_cooldown()
        self.check_changes()
        self.check_statuses()

    def read_journal(self):
        runs = {}
        with open(os.path.join(self.server.folder, "journal"), encoding="ascii") as file:
            for place, line in enumerate(file):
                at, number, pid, parent, event, *more = line.rstrip("\n").split(" ", 5)
                at, number = int(at) / 1e9, int(number)
                if event == "begin":
                    behaviour, command = more[0].split(": ")
                    runs[number] = Run(number, int(pid), int(parent), at, behaviour, command)
                    continue
                run = runs[number]
                run.last = at
                if event == "effect":
                    run.effect = place
                elif event == "read":
                    run.read, run.state = place, more[0]
                elif event in ("prints", "printed"):
                    setattr(run, event, at)
                elif event == "end":
                    run.end, run.how = at, more[0]
        ordered = sorted(runs.values(), key=lambda run: run.number)
        for run in ordered:
            of_life = [life for life in self.server.lives if life.process.pid == run.parent]
            run.life = of_life[0] if of_life else None
        return ordered

    def set_latest(self, runs):
        """A killed run has no end in the journal. It had ended when the next one of its life began."""
        following = {}
        for run in reversed(runs):
            run.latest = run.end or following.get(run.life, float("inf"))
            following[run.life] = run.begin

    def attribute(self, life):
        """Finds the request that each run of a change was made for."""
        by_port = collections.defaultdict(list)
        for request in self.server.requests:
            if request.life is life and request.port and request.command:
                by_port[request.port].append(request)
        runs = [run for run in self.changes if run.life is life]
        index, current, waiting = 0, None, []
        begun = 0
        for place, (at, line) in enumerate(life.log):
            running = RUNNING.match(line)
            if running:
                begun += 1
                if index == len(runs):
                    if life.how != "kill":
                        self.add("the log has a run that the journal lacks", repr(life), line)
                    continue
                current = runs[index]
                current.ran_at = place
                index += 1
                if current.command != running[1]:
                    self.add("log and journal differ", repr(life), line, current)
                continue
            found = OF_CHANGE.match(line)
            if not found:
                continue
            command, port, what = found[1], int(found[2]), found[3]
            if not what.startswith(("accepted", "answered", "not run")):
                continue
            of_port = [request for request in by_port[port] if request.start <= at]
            if not of_port:
                self.add("the log has a request that nobody sent", repr(life), line)
                continue
            request = of_port[-1]
            if what == "accepted":
                waiting.append(request)
                continue
            request.answered_at = place
            if request in waiting:
                waiting.remove(request)
            if not what.startswith("answered") or NO_RUN.match(what):
                continue
            if current and current.command == command and not current.is_answered:
                current.owner, current.is_answered = request, True
                current = None
        if current and not current.owner:
            # Changes run in the order in which they were accepted.
            current.owner = next((request for request in waiting if request.command == current.command), None)
        if index < len(runs):
            self.add("the journal has a run that the log lacks", repr(life), runs[index])
        for run in runs:
            if not run.owner and life.how not in ("kill", "twice"):
                self.add("a run has no request", run)

    def check_deliveries(self):
        """Invariant 1."""
        of_id = collections.defaultdict(list)
        of_alert = collections.defaultdict(list)
        for run in self.changes:
            delivery = run.owner and run.owner.delivery
            if not delivery:
                continue
            if delivery[0] == "id":
                earlier = of_id[(run.owner.key, delivery[1])]
                if any(not before.is_harmless for before in earlier):
                    self.add("an id was sent twice", run, *earlier)
                earlier.append(run)
                continue
            lists = [of_alert[(run.owner.key, run.command, alert)] for alert in delivery[1]]
            if all(any(not before.is_harmless for before in earlier) for earlier in lists):
                self.add("alerts were sent twice", run, *[before for earlier in lists for before in earlier])
            for earlier in lists:
                earlier.append(run)
        self.of_alert = of_alert

    def check_one_at_a_time(self):
        """Invariant 3."""
        for runs in (self.changes, self.reads):
            latest = None
            for run in sorted(runs, key=lambda run: run.begin):
                # A run may outlive a sidecar that was killed.
                if latest and run.begin < latest.last and not (
                        run.life is not latest.life and latest.life and latest.life.how == "kill"):
                    self.add("two runs of a kind at a time", latest, run)
                if not latest or run.last > latest.last:
                    latest = run

    def check_order(self):
        """Invariant 3."""
        of_request = {id(run.owner): run for run in self.changes if run.owner}
        for request in self.server.requests:
            before = request.before
            first, second = of_request.get(id(before)), of_request.get(id(request))
            if not first or not second or request.life is not before.life or before.complete is None:
                continue
            if before.complete <= request.start and first.number > second.number:
                self.add("two changes ran in another order than they came", before, request, first, second)

    def check_cooldown(self):
        restarts = [run for run in self.changes if run.command in RESTARTS
                    and not run.is_harmless and run.behaviour != "declined"]
        for first, second in zip(restarts, restarts[1:]):
            if second.begin - first.begin < POWER_COOLDOWN - COOLDOWN_ROOM:
                self.add(f"two restarts within {second.begin - first.begin:.3f} s", first, second)

    def check_changes(self):
        """Invariant 2, for changes."""
        of_delivery = collections.defaultdict(list)
        for run in self.changes:
            if run.owner:
                of_delivery[self.name(run.owner)].append(run)
        done_at = {}
        changes = [request for request in self.server.requests if request.command and request.status]
        for request in sorted(changes, key=lambda request: request.end):
            runs = [run for run in of_delivery[self.name(request)] if run.begin <= request.end]
            overlapping = [run for run in runs if run.latest >= request.start]
            if request.is_done:
                self.check_done(request, runs, overlapping)
                if request.delivery and request.delivery[0] == "id":
                    done_at.setdefault(self.name(request), request.end)
            elif request.reply.get("skipped"):
                self.check_skipped(request)
            else:
                self.check_failed(request, overlapping)
                is_known = done_at.get(self.name(request), request.end) < request.start
                # Only these are decided before the delivery is known.
                if is_known and request.code != "request_timeout" and not self.is_about_its_body(request):
                    self.add("a delivery that was answered with success got another reply", request, *runs)
            is_skipped = request.reply.get("skipped") == request.skip
            if request.skip and not is_skipped and not self.is_about_its_body(request):
                self.add(f"expected it to be skipped as {request.skip}", request)
            own = [run for run in overlapping if run.owner is request and run.is_answered]
            for run in own:
                if run.printed and run.behaviour not in HIDDEN and not request.is_done:
                    self.add("a change that the BMC confirmed was not answered so", request, run)

    @staticmethod
    def is_about_its_body(request):
        return request.code in ("busy", "request_timeout") and "bod" in request.reply.get("error", "")

    @staticmethod
    def name(request):
        if not request.delivery:
            return id(request)
        return request.delivery, request.key, request.command

    def check_done(self, request, runs, overlapping):
        line = CHANGES[request.path][1]
        if request.reply.get("output") != line or request.reply.get("command") != request.command:
            self.add("a reply has the line of another change", request)
        candidates = runs if request.is_replayed else overlapping
        visible = [run for run in candidates if run.prints and run.behaviour not in HIDDEN]
        if not any(run.prints <= request.end for run in visible):
            self.add("a reply says done, and the fake did not", request, *runs)

    def check_skipped(self, request):
        skipped = request.reply["skipped"]
        if skipped == request.skip:
            return
        if skipped != "repeat" or not request.delivery or request.delivery[0] != "alerts":
            self.add("it was skipped without a reason", request)
            return
        for fingerprint, since in request.delivery[1]:
            # The start of an alert may move back.
            runs = [run for (key, command, alert), runs in self.of_alert_named(fingerprint)
                    if key == request.key and command == request.command and alert[1] >= since
                    for run in runs if run.begin <= request.end]
            if not any(not run.is_harmless or not run.is_answered for run in runs):
                self.add("an alert was skipped as a repeat, and was never sent", request, *runs)

    def of_alert_named(self, fingerprint):
        if not hasattr(self, "of_fingerprint"):
            self.of_fingerprint = collections.defaultdict(list)
            for name, runs in self.of_alert.items():
                self.of_fingerprint[name[2][0]].append((name, runs))
        return self.of_fingerprint[fingerprint]

    def check_failed(self, request, overlapping):
        code = request.code
        # One that was stopped by the end of its sidecar may be answered as unknown, or not at all.
        if code in NOT_SENT:
            for run in overlapping:
                # A repeat may run behind the reply, before the client has read it.
                is_behind = (request.answered_at is not None and run.life is request.life
                             and run.ran_at is not None and run.ran_at > request.answered_at)
                if not run.is_harmless and not is_behind:
                    self.add(f"{code} says not sent, and it was sent", request, run)
        if code in TOLD and not request.is_replayed:
            told = TOLD[code]
            is_told = any(run.behaviour in told for run in overlapping)
            if code == "outcome_unknown":
                known = [run for run in self.changes if run.owner and run.begin <= request.end
                         and self.shares_alert(run.owner, request)]
                # The sidecar stopped it, or ended before its reply.
                is_told |= any(run.is_cut_off or not run.is_answered for run in [*overlapping, *known])
                was_cut_off = any(life.how in ("kill", "twice") for life in self.server.lives)
                is_told |= was_cut_off and not overlapping
            if not is_told:
                self.add(f"{code} does not tell what the fake did", request, *overlapping)

    @staticmethod
    def shares_alert(owner, request):
        if not owner.delivery or not request.delivery or owner.delivery[0] != request.delivery[0]:
            return False
        if owner.delivery[0] == "id":
            return owner.delivery == request.delivery and owner.key == request.key
        same = {alert[0] for alert in owner.delivery[1]} & {alert[0] for alert in request.delivery[1]}
        return bool(same) and owner.key == request.key and owner.command == request.command

    def check_statuses(self):
        """Invariant 2, for statuses."""
        # The latest effect of the changes that were answered until then.
        of_request = {id(run.owner): run for run in self.changes if run.owner and run.effect is not None}
        answered = sorted((request.end, of_request[id(request)].effect) for request in self.server.requests
                          if request.status and id(request) in of_request)
        times, effects, latest = [], [], -1
        for at, effect in answered:
            latest = max(latest, effect)
            times.append(at)
            effects.append(latest)
        begins = [run.begin for run in self.reads]
        for request in self.server.requests:
            if request.path != "/power/status" or request.status != 200:
                continue
            state = request.reply.get("power_state")
            place = bisect.bisect_right(times, request.start) - 1
            floor = effects[place] if place >= 0 else -1
            low = bisect.bisect_left(begins, request.start - STATUS_AGE)
            high = bisect.bisect_right(begins, request.end)
            runs = [run for run in self.reads[low:high] if run.life is request.life]
            if request.reply.get("raw_output") != f"Chassis Power is {state}" or not any(
                    run.state == state and run.prints and run.prints <= request.end and run.read > floor
                    for run in runs):
                self.add("a status is none that the fake gave since the last answered change, whose place in "
                         f"the journal is {floor}", request, *runs)


def main():
    parser = argparse.ArgumentParser(description="See scripts/soak.")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--fake", required=True)
    parser.add_argument("--folder", required=True)
    sys.setswitchinterval(0.001)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))
    return Soak(parser.parse_args()).run()


if __name__ == "__main__":
    sys.exit(main())
