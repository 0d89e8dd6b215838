"""http.client of Python's standard library.

Reads lines "METHOD PATH KEY BYTES FLAGS" from standard input. Prints the status, a space and the body for each.
"""

import http.client
import os
import sys
from urllib.parse import urlsplit

base = urlsplit(os.environ["BASE"])

for line in sys.stdin:
    method, path, key, size, _ = line.split()
    connection = http.client.HTTPConnection(base.hostname, base.port, timeout=10)
    body = b"x" * int(size) if method == "POST" else None
    try:
        connection.request(method, path, body=body, headers={"X-API-Key": key})
        reply = connection.getresponse()
        print(reply.status, reply.read().decode(), flush=True)
    except OSError as error:
        print(repr(error), flush=True)
    connection.close()
