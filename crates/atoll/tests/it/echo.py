"""Answers every request with what it saw: the stand-in for a service in the end-to-end tests."""
import http.server
import json
import os
import signal
import sys
import urllib.request


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        length = int(self.headers.get("content-length", 0))
        seen = {
            "instance": os.environ.get("ATOLL_INSTANCE"),
            "method": self.command,
            "path": self.path,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body": self.rfile.read(length).decode(),
            "environment": dict(os.environ),
        }
        if self.path.startswith("/call/"):
            _, _, name, path = self.path.split("/", 3)
            with urllib.request.urlopen(os.environ[name] + "/" + path) as response:
                seen["answer"] = json.load(response)
        body = json.dumps(seen).encode()
        self.send_response(404 if self.path == "/readyz" else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = answer

    def log_message(self, pattern, *values):
        print(pattern % values, flush=True)


server = http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Echo)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("listening on", os.environ["PORT"], flush=True)
server.serve_forever()
