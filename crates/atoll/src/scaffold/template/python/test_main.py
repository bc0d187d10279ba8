"""Tests of hello-service: `python3 -m unittest` in this folder. Each speaks to a real server on a port of its own."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import unittest
from http.server import BaseHTTPRequestHandler, HTTPServer

import main

FOLDER = os.path.dirname(os.path.abspath(__file__))
main.log = lambda *_, **__: None


class Upstream(BaseHTTPRequestHandler):
    """Answers with the headers that it was sent."""

    def do_GET(self):
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200 if self.path == "/" else 500)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class ServiceTest(unittest.TestCase):
    def start(self, server):
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return server.server_address

    def ask(self, method, path, **arguments):
        connection = http.client.HTTPConnection(*self.start(main.Server(("127.0.0.1", 0))), timeout=10)
        self.addCleanup(connection.close)
        connection.request(method, path, **arguments)
        answer = connection.getresponse()
        return answer.status, answer.headers["content-type"], json.loads(answer.read())

    def test_it_says_hello_and_is_ready(self):
        expected = (200, "application/json", {"message": "Hello, Ada!"})
        self.assertEqual(self.ask("GET", "/hello?name=Ada"), expected)
        self.assertEqual(self.ask("GET", "/readyz")[0], 200)

    def test_refusals_are_problem_documents(self):
        for method, path, status in [("GET", "/nothing", 404), ("DELETE", "/hello", 405), ("GET", "/hello?name=" + "x" * 101, 400)]:
            found, kind, problem = self.ask(method, path)
            self.assertEqual((found, kind, problem["status"]), (status, "application/problem+json", status))

    def test_a_body_that_is_too_large_is_refused(self):
        self.assertEqual(self.ask("POST", "/hello", headers={"content-length": "99999999"})[0], 413)

    def test_a_call_passes_on_the_trace_the_id_and_the_time_left(self):
        host, port = self.start(HTTPServer(("127.0.0.1", 0), Upstream))
        brought = {"traceparent": "00-a-b-01", "x-request-id": "r1", "atoll-deadline": "1000", "cookie": "secret"}
        seen = main.call(main.Context(brought), f"http://{host}:{port}/")
        self.assertEqual((seen["traceparent"], seen["x-request-id"]), ("00-a-b-01", "r1"))
        self.assertLessEqual(int(seen["atoll-deadline"]), 900)
        self.assertNotIn("cookie", seen)
        with self.assertRaises(main.Problem) as refused:
            main.call(main.Context({}), f"http://{host}:{port}/fails")
        self.assertEqual(refused.exception.status, 502)

    def test_a_call_without_time_left_is_not_made(self):
        with self.assertRaises(main.Problem) as refused:
            main.call(main.Context({"atoll-deadline": "0"}), "http://127.0.0.1:1/")
        self.assertEqual(refused.exception.status, 504)

    def test_sigterm_ends_it_in_order(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {**os.environ, "HOST": "127.0.0.1", "PORT": str(port)}
        process = subprocess.Popen(
            [sys.executable, "main.py"], cwd=FOLDER, env=environment, stdout=subprocess.PIPE, text=True
        )
        self.assertEqual(json.loads(process.stdout.readline())["message"], "listening")
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=10)
        self.assertEqual((process.returncode, json.loads(rest.splitlines()[-1])["message"]), (0, "stopped"))


if __name__ == "__main__":
    unittest.main()
