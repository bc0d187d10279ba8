"""A service that knows HTTP alone: it receives events, misbehaves as their data asks for, and publishes what it is sent."""
import http.server
import json
import os
import signal
import sqlite3
import sys
import threading
import time
import urllib.error
import urllib.request

seen, lock = [], threading.Lock()


class Service(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        with lock:
            self.answer(200, {"instance": os.environ["ATOLL_INSTANCE"], "seen": seen})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if self.path.startswith("/publish/"):
            self.publish(self.path.removeprefix("/publish"), headers, body)
        elif self.path.startswith("/write"):
            self.write(json.loads(body))
        else:
            self.receive(headers, body)

    def receive(self, headers, body):
        data = json.loads(body or b"null")
        wish = data if isinstance(data, dict) else {}
        with lock:
            earlier = sum(1 for one in seen if one["id"] == headers.get("ce-id"))
            status = wish.get("status", 500) if earlier < wish.get("fail", 0) else 204
            seen.append({"id": headers.get("ce-id"), "path": self.path, "headers": headers, "data": data,
                         "status": status, "at": time.monotonic_ns()})
        if status == 204:
            self.answer(204, None)
        else:
            self.answer(status, {"why": "told so"})

    def publish(self, path, headers, body):
        passed = {name: value for name, value in headers.items()
                  if name.startswith("ce-") or name in ("content-type", "traceparent", "idempotency-key")}
        request = urllib.request.Request(os.environ["EVENTS_URL"] + path, data=body, headers=passed, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                self.answer(response.status, json.load(response))
        except urllib.error.HTTPError as error:
            text = error.read().decode()
            self.answer(error.code, {"problem": text, "retry-after": error.headers.get("retry-after")})

    def write(self, rows):
        with sqlite3.connect(os.environ["DATABASE_URL"].removeprefix("sqlite://"), timeout=20) as database:
            for row in rows:
                database.execute("INSERT INTO outbox (topic, data) VALUES (?, ?)", (row["topic"], json.dumps(row["data"])))
        self.answer(200, {"written": len(rows)})

    def answer(self, status, value):
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, pattern, *values):
        pass


server = http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Service)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
server.serve_forever()
