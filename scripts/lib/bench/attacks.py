#!/usr/bin/env python3
"""Attackers against one server on loopback: bounded in number, and in time.

Usage: attacks.py NAME PORT SECONDS HEALTH-PATH CHANGE-PATH
"""

import contextlib
import resource
import select
import socket
import struct
import sys
import time

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a close leaves nothing behind in the kernel
TURNS = 20  # a second, over which a crowd is spread
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


def besiege(port, until, size, opening, drip=b""):
    """A crowd of which each connects and sends `opening`, then `drip` once a second, never reads, and comes again when
    it is thrown out."""
    crowd = [None] * size
    has_opened = [False] * size
    turn = 0
    while time.monotonic() < until:
        for at in range(size) if turn == 0 else range(turn % TURNS, size, TURNS):
            with contextlib.suppress(OSError):
                if crowd[at] is None:
                    crowd[at], has_opened[at] = connect(port), False
                if not has_opened[at]:
                    has_opened[at] = not opening or crowd[at].send(opening) > 0
                elif drip:
                    crowd[at].send(drip)
        drop_closed(crowd)
        turn += 1
        time.sleep(1 / TURNS)


def drop_closed(crowd):
    poll = select.poll()
    numbers = {}
    for at, connection in enumerate(crowd):
        if connection is not None:
            numbers[connection.fileno()] = at
            poll.register(connection, select.POLLRDHUP)
    for number, _ in poll.poll(0):
        crowd[numbers[number]].close()
        crowd[numbers[number]] = None


def flood(port, until, _head):
    """20,000 connections as fast as they come, the last 1,000 held."""
    ring = [None] * 1000
    for number in range(20_000):
        if time.monotonic() > until:
            break
        with contextlib.suppress(OSError):
            if ring[number % 1000] is not None:
                ring[number % 1000].close()
            ring[number % 1000] = connect(port)


def pour(port, until, opening, chunk):
    """Sends without reading, 100 MB at most to a connection, and comes again."""
    while time.monotonic() < until:
        with contextlib.suppress(OSError), connect(port, blocking=True) as connection:
            connection.sendall(opening)
            for _ in range(100 * MEGABYTE // len(chunk)):
                if time.monotonic() > until:
                    break
                connection.sendall(chunk)
        time.sleep(0.01)


def hit_and_run(port, until, request):
    for _ in range(3_000):
        if time.monotonic() > until:
            break
        with contextlib.suppress(OSError), connect(port, blocking=True) as connection:
            connection.sendall(request)


# A server that is to be attacked like this is started with so few descriptors.
DESCRIPTORS = {"300 idle, 64 descriptors": 64}

ATTACKS = {
    "500 heads, a byte a second": lambda p, u, head: besiege(p, u, 500, head + SLOW, b"x"),
    "1,000 idle connections": lambda p, u, head: besiege(p, u, 1_000, b""),
    "1,000 that never read": lambda p, u, head: besiege(p, u, 1_000, head + b"\r\n"),
    "500 bodies, a byte a second": lambda p, u, head: besiege(p, u, 500, head, b"x"),
    "3,000 times 10^15 bytes announced": lambda p, u, head: hit_and_run(p, u, head + b"Content-Length: 999999999999999\r\n\r\n"),
    "a request line of 100 MB": lambda p, u, _: pour(p, u, b"GET /", b"a" * 65536),
    "a header line of 100 MB": lambda p, u, head: pour(p, u, head + SLOW, b"a" * 65536),
    "100 MB of header lines": lambda p, u, head: pour(p, u, head, (SLOW + b"x\r\n") * 5000),
    "100 MB of empty lines": lambda p, u, _: pour(p, u, b"", b"\r\n" * 32768),
    "requests piped, unread": lambda p, u, head: pour(p, u, head + b"\r\n", (head + b"\r\n") * 1000),
    "3,000 resets": lambda p, u, head: hit_and_run(p, u, head + b"\r\n"),
    "300 idle, 64 descriptors": lambda p, u, _: besiege(p, u, 300, b""),
    "20,000 connections at once": flood,
}

if __name__ == "__main__":
    main()
