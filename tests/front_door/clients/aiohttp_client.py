"""aiohttp, the client that Home Assistant uses.

Reads lines "METHOD PATH KEY BYTES FLAGS" from standard input. Prints the status, a space and the body for each.
"""

import asyncio
import os
import sys

import aiohttp


async def main():
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(os.environ["BASE"], timeout=timeout) as session:
        for line in sys.stdin:
            method, path, key, size, flags = line.split()
            body = b"x" * int(size) if method == "POST" else None
            expect = True if "expect" in flags else None
            headers = {"X-API-Key": key}
            try:
                async with session.request(method, path, data=body, headers=headers, expect100=expect) as reply:
                    print(reply.status, await reply.text(), flush=True)
            except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
                print(repr(error), flush=True)


asyncio.run(main())
