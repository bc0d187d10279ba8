"""A service that asks the broker what it is told to: POST /ask/<subject> publishes the body and answers with what came."""
import http.server
import json
import os
import signal
import socket
import sys
import urllib.parse


def ask(subject, body):
    url = urllib.parse.urlsplit(os.environ["NATS_URL"])
    with socket.create_connection((url.hostname, url.port), timeout=10) as connection:
        stream = connection.makefile("rb")
        connect = {"user": url.username, "pass": url.password, "verbose": False, "headers": True, "no_responders": True}
        inbox = "_INBOX.test." + os.urandom(6).hex()
        head = f"CONNECT {json.dumps(connect)}\r\nSUB {inbox} 1\r\nPUB {subject} {inbox} {len(body)}\r\n"
        connection.sendall(head.encode() + body + b"\r\n")
        while True:
            words = stream.readline().decode().split()
            if not words:
                return {"error": "the broker hung up"}
            if words[0] == "PING":
                connection.sendall(b"PONG\r\n")
            elif words[0] == "-ERR":
                return {"error": " ".join(words[1:])}
            elif words[0] in ("MSG", "HMSG"):
                headers = int(words[-2]) if words[0] == "HMSG" else 0
                content = stream.read(int(words[-1]))
                reply = words[3] if len(words) == (6 if headers else 5) else None
                return {"headers": content[:headers].decode(), "body": content[headers:].decode(), "reply": reply}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer({"url": os.environ.get("NATS_URL")})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            self.answer(ask(urllib.parse.unquote(self.path.split("/ask/", 1)[1]), body))
        except OSError as error:
            self.answer({"error": str(error)})

    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
server.serve_forever()
