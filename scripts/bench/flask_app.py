"""The usual first solution: the power routes with Flask and subprocess, under Gunicorn."""

import hmac
import json
import os
import subprocess

from flask import Flask, jsonify, request

KEY = os.environ["BENCH_KEY"]
COMMANDS = json.loads(os.environ["BENCH_COMMANDS"])  # words: command line
CHANGES = {
    "on": ("power on", "Chassis Power Control: Up/On"),
    "off": ("power soft", "Chassis Power Control: Soft"),
    "force-off": ("power off", "Chassis Power Control: Down/Off"),
    "cycle": ("power cycle", "Chassis Power Control: Cycle"),
    "reset": ("power reset", "Chassis Power Control: Reset"),
}

app = Flask(__name__)


@app.before_request
def check_key():
    given = request.headers.get("X-API-Key", "")
    if request.path != "/health" and not hmac.compare_digest(given.encode(), KEY.encode()):
        return jsonify(success=False, error="Invalid or missing API key"), 401
    return None


def run(words):
    done = subprocess.run(COMMANDS[words], capture_output=True, text=True, timeout=9, check=False)
    return done.stdout.strip(), done.stderr.strip()


@app.get("/health")
def health():
    return jsonify(status="healthy", service="flask")


@app.get("/power/status")
def status():
    output, error = run("power status")
    if output not in ("Chassis Power is on", "Chassis Power is off"):
        return jsonify(success=False, error=error, power_state="unknown"), 502
    return jsonify(success=True, power_state=output.split()[-1], raw_output=output)


@app.post("/power/<name>")
def change(name):
    if name not in CHANGES:
        return jsonify(success=False, error="Endpoint not found"), 404
    words, line = CHANGES[name]
    output, error = run(words)
    if output != line:
        return jsonify(success=False, error=error, command=words), 502
    return jsonify(success=True, output=output, command=words)
