"""httpx.

Reads lines "METHOD PATH KEY BYTES FLAGS" from standard input. Prints the status, a space and the body for each.
"""

import os
import sys

import httpx

with httpx.Client(base_url=os.environ["BASE"], timeout=10, trust_env=False) as client:
    for line in sys.stdin:
        method, path, key, size, _ = line.split()
        body = b"x" * int(size) if method == "POST" else None
        try:
            reply = client.request(method, path, content=body, headers={"X-API-Key": key})
            print(reply.status_code, reply.text, flush=True)
        except httpx.HTTPError as error:
            print(repr(error), flush=True)
