"""What the tests share: the service's modules on the path, a migrated database, and the service as a process."""

import http.client
import json
import os
import pathlib
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time

FOLDER = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(FOLDER / "src"))
sys.dont_write_bytecode = True

# Longer than anything here takes on a busy machine, in seconds.
BOUND = 30


def migrate(connection: sqlite3.Connection) -> None:
    for path in sorted((FOLDER / "migrations").glob("*.sql")):
        connection.executescript(path.read_text())


def value_of(path: str, sql: str):
    """The one value that a query of the service's database gives."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchone()[0]
    finally:
        connection.close()


class Service:
    """The service on a port of its own, with a database of its own."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        # The name has characters that an URL escapes.
        self.path = os.path.join(self._folder.name, "50% of it.db")
        connection = sqlite3.connect(self.path)
        migrate(connection)
        connection.close()
        self.start()

    def start(self) -> None:
        url = "sqlite://" + self.path.replace("%", "%25").replace(" ", "%20")
        environment = {"PATH": os.environ["PATH"], "HOST": "127.0.0.1", "PORT": "0", "DATABASE_URL": url}
        command = [sys.executable, "-B", "src/main.py"]
        self.process = subprocess.Popen(command, cwd=FOLDER, env=environment, stdout=subprocess.PIPE)
        self.port = int(self.line("listening")["address"].rsplit(":", 1)[1])

    def line(self, message: str) -> dict:
        """The next line of the log with this message."""
        until = time.monotonic() + BOUND
        while select.select([self.process.stdout], [], [], max(0, until - time.monotonic()))[0]:
            line = json.loads(self.process.stdout.readline())
            if line["message"] == message:
                return line
        raise AssertionError(f"no line says {message!r}")

    def request(self, method: str, path: str, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=BOUND)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def event(self, path: str, kind: str, data, number: str):
        headers = {"ce-id": number, "ce-source": "/services/test", "ce-type": kind, "ce-specversion": "1.0"}
        headers["content-type"] = "application/json"
        return self.request("POST", path, data if isinstance(data, bytes) else json.dumps(data), headers)

    def recommended(self, product: str, query: str = "") -> list:
        status, _, body = self.request("GET", f"/recommendations/{product}{query}")
        assert status == 200, body
        return [(item["product"], item["why"]) for item in json.loads(body)["items"]]

    def raw(self, sent: bytes) -> bytes:
        """What comes for bytes that no client would send."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=BOUND) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(BOUND)
        self.process.stdout.close()
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGKILL)
        self.process.stdout.close()
        self._folder.cleanup()
