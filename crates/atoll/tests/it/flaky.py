"""Answers the status that the file `status` beside it holds, 200 without one: a service that fails when a test wants it to."""
import http.server
import os
import signal
import sys


class Flaky(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        try:
            with open("status") as file:
                status = int(file.read())
        except (OSError, ValueError):
            status = 200
        if "/once/" in self.path:
            # Fails for each path, the first time that any instance is asked for it.
            try:
                open(self.path.replace("/", "_"), "x").close()
                status = 503
            except FileExistsError:
                status = 200
        body = b"ok"
        self.send_response(404 if self.path == "/readyz" else status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, pattern, *values):
        pass


server = http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Flaky)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
server.serve_forever()
