"""A small HTTP server that answers as ipmi-sidecar does, for what no simulated BMC can be made to do.

Arguments: a port and a folder. The folder has a file for each path, such as nas/sensors. A file is a JSON object with
the members of the reply; `status` is the status, `location` a redirect, and `takes` are the seconds until the reply.
"""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

KEY = "key-of-the-home-assistant-test"


class Handler(BaseHTTPRequestHandler):
    folder = None

    def do_GET(self):
        if self.headers["X-API-Key"] != KEY:
            return self.answer(401, {"success": False, "error": "Invalid or missing API key", "code": "unauthorized"})
        path = self.path.removeprefix("/servers/").strip("/")
        file = self.folder / path
        if not file.is_file():
            return self.answer(404, {"success": False, "error": "Not known", "code": "unknown_server"})
        members = json.loads(file.read_text())
        time.sleep(members.pop("takes", 0))
        return self.answer(members.pop("status", 200), members, members.pop("location", None))

    def do_POST(self):
        with (self.folder / "journal").open("a") as journal:
            journal.write(self.path + "\n")
        self.answer(200, {"success": True, "output": "", "command": self.path})

    def answer(self, status, members, location=None):
        body = json.dumps(members).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def server(folder, port=0):
    handler = type("Handler", (Handler,), {"folder": Path(folder)})
    return ThreadingHTTPServer(("127.0.0.1", port), handler)


if __name__ == "__main__":
    server(sys.argv[2], int(sys.argv[1])).serve_forever()
