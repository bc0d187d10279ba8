"""The service as a process, over HTTP: events in, recommendations out, hostile input, and how it ends."""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import unittest

import context
from serving import BODY_BYTES_MAX, FIELDS_MAX, HEAD_BYTES_MAX


class Running(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.service = context.Service()

    @classmethod
    def tearDownClass(cls):
        cls.service.close()

    def setUp(self):
        self.number = 0

    def event(self, path, kind, data, number=None):
        self.number += 1
        return self.service.event(path, kind, data, number or f"{self.id()} {self.number}")

    def view(self, session, product, number=None):
        data = {"session": session, "product": product}
        status, _, body = self.event("/events/views", "storefront.product.viewed", data, number)
        self.assertEqual((status, body), (204, b""))


class Events(Running):
    def test_what_happens_in_the_shop_is_recommended(self):
        for name, category in (("lamp", "lamps"), ("other lamp", "lamps"), ("shade", "shades"), ("mug", "mugs")):
            product = {"id": name, "version": 1, "category": category, "price": 1990, "name": "Name", "attributes": {}}
            self.assertEqual(self.event("/events/products", "catalog.product.created", product)[0], 204)
        self.view("one", "lamp")
        line = {"session": "one", "product": "shade", "quantity": 1}
        self.assertEqual(self.event("/events/carts", "cart.line.added", line)[0], 204)
        order = {"session": "two", "lines": [{"product": "mug"}, {"product": "lamp"}]}
        self.assertEqual(self.event("/events/orders", "orders.placed", order)[0], 204)
        expected = [("mug", "bought together"), ("shade", "bought together"), ("other lamp", "same category")]
        self.assertEqual(self.service.recommended("lamp", "?n=3"), expected)
        self.assertEqual(self.service.recommended("lamp", "?n=1"), expected[:1])
        self.assertEqual(self.service.recommended("lamp", "?session=one&n=2"), [expected[0], expected[2]])
        self.assertEqual(self.event("/events/carts", "cart.line.removed", line)[0], 204)
        self.assertEqual(self.service.recommended("lamp", "?session=one")[1], ("shade", "bought together"))
        self.assertEqual(self.event("/events/products", "catalog.product.removed", {"id": "mug"})[0], 204)
        self.assertNotIn("mug", [item for item, _ in self.service.recommended("lamp")])

    def test_an_event_counts_once(self):
        read = lambda: context.value_of(self.service.path, "SELECT count(*) FROM seen")
        before = read()
        for _ in range(3):
            self.view("twice", "a", "the same")
        self.assertEqual(read(), before + 1)

    def test_what_will_never_be_right_is_refused_for_good(self):
        good = {"session": "s", "product": "p"}
        lone = b'{"session": "s", "product": "\\ud800"}'
        cases = [
            b"", b"{", b"[1]", b'"x"', b"\xff\xfe", b"[" * 100_000, b"NaN", b"1" * 9000, lone,
            {"session": "s"}, {"session": 1, "product": "p"}, {"session": "", "product": "p"},
            {"session": "s", "product": "p" * 201}, {"session": "s", "product": "a\0b"},
        ]
        for data in cases:
            status, head, body = self.event("/events/views", "storefront.product.viewed", data)
            self.assertEqual((status, head["content-type"]), (400, "application/problem+json"), data)
            self.assertEqual(json.loads(body)["status"], 400)
        for data in ({"id": "p"}, {"id": "p", "version": 2**63, "category": "c", "price": 1},
                     {"id": "p", "version": True, "category": "c", "price": 1},
                     {"id": "p", "version": 1, "category": None, "price": 1}):
            self.assertEqual(self.event("/events/products", "catalog.product.changed", data)[0], 400, data)
        for data in ({"session": "s", "lines": 1}, {"session": "s", "lines": [1]}, {"session": "s", "lines": [{}]}):
            self.assertEqual(self.event("/events/orders", "orders.placed", data)[0], 400, data)
        body = json.dumps(good)
        for headers in ({}, {"ce-id": "1"}, {"ce-id": "1", "ce-source": "/s"},
                        {"ce-id": "%ff", "ce-source": "/s", "ce-type": "t"}):
            self.assertEqual(self.service.request("POST", "/events/views", body, headers)[0], 400, headers)

    def test_attributes_may_be_anything_that_the_binding_allows(self):
        headers = {"ce-id": "%E2%82%AC%20%22", "ce-source": "/s", "ce-type": "storefront.product.viewed"}
        for time_of in ("2026-11-21T22:00:00.123456789Z", "soon", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59"):
            sent = {**headers, "ce-time": time_of, "ce-id": f"{time_of}%20"}
            status, _, body = self.service.request("POST", "/events/views", '{"session":"t","product":"p"}', sent)
            self.assertEqual(status, 204, body)

    def test_many_at_once_are_all_kept(self):
        failures = []

        def send(thread):
            for number in range(40):
                data = {"session": f"many {thread} {number % 4}", "product": f"many {number}"}
                if self.service.event("/events/views", "v", data, f"many {thread} {number}")[0] != 204:
                    failures.append(number)

        threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        sql = "SELECT count(*) FROM interests JOIN sessions ON number = session WHERE id LIKE 'many %'"
        self.assertEqual(context.value_of(self.service.path, sql), 320)


class Requests(Running):
    def test_paths_methods_and_parameters(self):
        request = self.service.request
        self.assertEqual(request("GET", "/readyz")[0], 200)
        self.assertEqual(request("GET", "/livez")[0], 200)
        self.assertEqual(json.loads(request("GET", "/openapi.json")[2])["openapi"], "3.1.0")
        self.assertEqual(request("HEAD", "/recommendations/x")[2], b"")
        for path in ("/", "/recommendations", "/events", "/events/views/", "/%2e%2e/x", "/recommendations/"):
            self.assertEqual(request("GET", path)[0], 404, path)
        for method, path, allowed in (("GET", "/events/views", "POST"), ("POST", "/recommendations/x", "GET, HEAD"),
                                      ("DELETE", "/readyz", "GET, HEAD")):
            status, head, _ = request(method, path)
            self.assertEqual((status, head["allow"]), (405, allowed))
        for n in ("0", "25", "-1", "x", "", "1.5", "%D9%A3", "9" * 5000):
            self.assertEqual(request("GET", f"/recommendations/x?n={n}")[0], 400, n)
        for path in ("/recommendations/" + "x" * 201, "/recommendations/%00"):
            self.assertEqual(request("GET", path)[0], 404)
        for product in ("%E2%82%AC", "a%2Fb", "';DROP%20TABLE%20pairs;--", "%25"):
            self.assertEqual(request("GET", f"/recommendations/{product}?session=%ff%00&n=24")[0], 200)

    def test_every_path_is_described(self):
        paths = set(json.loads((context.FOLDER / "openapi.json").read_text())["paths"])
        for path in paths:
            status = self.service.request("OPTIONS", path.replace("{product}", "x"))[0]
            self.assertEqual(status, 405, path)

    def test_what_is_too_large_is_told_so_and_not_read(self):
        size = BODY_BYTES_MAX + 1
        headers = {"ce-id": "1", "ce-source": "/s", "ce-type": "t"}
        self.assertEqual(self.service.request("POST", "/events/views", b" " * size, headers)[0], 413)
        head = b"POST /events/views HTTP/1.1\r\nhost: x\r\n"
        for framing in (b"content-length: 999999999999\r\n\r\n", b"transfer-encoding: chunked\r\n\r\nfffffff\r\n"):
            self.assertTrue(self.service.raw(head + framing).startswith(b"HTTP/1.1 413 "), framing)
        many = b"".join(b"x-%d: y\r\n" % number for number in range(FIELDS_MAX + 1))
        for fields in (many, b"x: " + b"y" * HEAD_BYTES_MAX + b"\r\n"):
            self.assertTrue(self.service.raw(b"GET /livez HTTP/1.1\r\nhost: x\r\n" + fields + b"\r\n").startswith(b"HTTP/1.1 431 "))

    def test_what_has_two_readings_is_refused(self):
        host = b"host: x\r\n"
        for sent in (
            b"GET /livez\r\n\r\n", b"GET  /livez HTTP/1.1\r\n" + host + b"\r\n", b"\x16\x03\x01\x02\r\n\r\n",
            b"GET /livez HTTP/2.0\r\n" + host + b"\r\n", b"GET /livez HTTP/1.1\r\n\r\n",
            b"GET /livez HTTP/1.1\r\n" + host + host + b"\r\n", b"GET /livez HTTP/1.1\r\n" + host + b"x : y\r\n\r\n",
            b"GET /livez HTTP/1.1\r\n" + host + b" folded: y\r\n\r\n", b"GET /livez HTTP/1.1\r\n" + host + b"x: \0\r\n\r\n",
            b"GET http://x/livez HTTP/1.1\r\n" + host + b"\r\n", b"GET /%ff HTTP/1.1\r\n" + host + b"\r\n",
            b"POST /livez HTTP/1.1\r\n" + host + b"content-length: 1\r\ncontent-length: 2\r\n\r\nxx",
            b"POST /livez HTTP/1.1\r\n" + host + b"content-length: +1\r\n\r\nx",
            b"POST /livez HTTP/1.1\r\n" + host + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST /livez HTTP/1.1\r\n" + host + b"transfer-encoding: chunked\r\n\r\nx\r\n",
            b"POST /livez HTTP/1.1\r\n" + host + b"transfer-encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n",
        ):
            answer = self.service.raw(sent)
            self.assertTrue(answer.startswith(b"HTTP/1.1 400 "), (sent, answer[:80]))
            self.assertIn(b"connection: close", answer)
        answer = self.service.raw(b"POST /livez HTTP/1.1\r\n" + host + b"transfer-encoding: gzip, chunked\r\n\r\n")
        self.assertTrue(answer.startswith(b"HTTP/1.1 501 "))

    def test_requests_follow_one_another_on_a_connection(self):
        get = b"\r\nGET /livez HTTP/1.1\r\nhost: x\r\n\r\n"
        chunked = b"POST /events/views HTTP/1.1\r\nhost: x\r\nce-id: c\r\nce-source: /s\r\nce-type: t\r\n" \
            b"transfer-encoding: chunked\r\n\r\n5;x=y\r\n{\"ses\r\n1a\r\nsion\":\"a\",\"product\":\"b\" }\n\r\n0\r\nx: y\r\n\r\n"
        answer = self.service.raw(get + chunked + get + b"GET /livez HTTP/1.0\r\n\r\n" + get)
        self.assertEqual(answer.count(b"HTTP/1.1 200 OK"), 3, answer)
        self.assertEqual(answer.count(b"HTTP/1.1 204 "), 1, answer)

    def test_a_client_that_stops_in_the_middle_hurts_nobody(self):
        sent = b"POST /events/views HTTP/1.1\r\nhost: x\r\nce-id: h\r\ncontent-length: 10\r\n\r\n{}"
        for end in range(1, len(sent)):
            self.assertIn(self.service.raw(sent[:end])[:12], (b"", b"HTTP/1.1 400"))
        self.assertEqual(self.service.request("GET", "/livez")[0], 200)

    def test_answers_come_in_milliseconds_while_events_come_in(self):
        stop = threading.Event()

        def flood():
            number = 0
            while not stop.is_set():
                number += 1
                data = {"session": f"f{number // 10}", "product": f"f{number * 7 % 50}"}
                self.service.event("/events/views", "v", data, f"flood {number}")

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            times = []
            for number in range(200):
                began = time.perf_counter()
                self.service.recommended(f"f{number % 50}", "?session=f1")
                times.append(time.perf_counter() - began)
        finally:
            stop.set()
            thread.join()
        # A wide bound for a busy machine; what it takes is in the message.
        self.assertLess(statistics.median(times), 0.1, sorted(times)[-5:])


class Ending(unittest.TestCase):
    def setUp(self):
        self.service = context.Service()
        self.addCleanup(self.service.close)

    def test_what_was_acknowledged_is_there_after_a_kill(self):
        for number in range(20):
            self.assertEqual(self.service.event("/events/views", "v", {"session": "s", "product": f"p{number}"}, str(number))[0], 204)
        before = self.service.recommended("p0", "?n=24")
        self.assertEqual(len(before), 19)
        self.assertEqual(self.service.end(signal.SIGKILL), -signal.SIGKILL)
        self.service.start()
        self.assertEqual(self.service.recommended("p0", "?n=24"), before)
        self.assertEqual(self.service.event("/events/views", "v", {"session": "s", "product": "p0"}, "0")[0], 204)
        self.assertEqual(self.service.recommended("p0", "?n=24"), before)

    def test_a_stop_finishes_what_has_begun_and_closes_what_idles(self):
        idle = socket.create_connection(("127.0.0.1", self.service.port))
        self.addCleanup(idle.close)
        with socket.create_connection(("127.0.0.1", self.service.port), timeout=context.BOUND) as begun:
            begun.sendall(b"POST /events/views HTTP/1.1\r\nhost: x\r\nce-id: 1\r\nce-source: /s\r\nce-type: t\r\n"
                          b"content-length: 27\r\nexpect: 100-continue\r\n\r\n")
            # Now it waits for the body.
            self.assertTrue(begun.recv(100).startswith(b"HTTP/1.1 100 "))
            self.service.process.send_signal(signal.SIGTERM)
            self.assertEqual(idle.recv(1), b"")
            begun.sendall(b'{"session":"s","product":1}')
            answer = b"".join(iter(lambda: begun.recv(65536), b""))
        self.assertTrue(answer.startswith(b"HTTP/1.1 400 ") and b"connection: close" in answer, answer)
        self.assertEqual(self.service.process.wait(context.BOUND), 0)

    def test_its_log_is_json_and_carries_the_trace_but_no_session(self):
        trace = "0af7651916cd43dd8448eb211c80319c"
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        self.service.request("GET", "/recommendations/p?session=secret", None, headers)
        line = self.service.line("request")
        self.assertEqual((line["trace_id"], line["path"], line["status"]), (trace, "/recommendations/p", 200))
        self.assertNotIn("secret", json.dumps(line))


class Starting(unittest.TestCase):
    def test_a_wrong_environment_is_named(self):
        good = {"PATH": os.environ["PATH"], "HOST": "127.0.0.1", "PORT": "0", "DATABASE_URL": "sqlite:///nowhere/x.db"}
        for change, expected in (
            ({"HOST": None}, "HOST is not set"), ({"HOST": "localhost"}, "HOST is 'localhost'"), ({"PORT": "x"}, "PORT is 'x'"),
            ({"DATABASE_URL": "postgres://x"}, "DATABASE_URL is 'postgres://x'"), ({}, "unable to open database file"),
        ):
            environment = {name: value for name, value in {**good, **change}.items() if value is not None}
            command = [sys.executable, "-B", "src/main.py"]
            ended = subprocess.run(command, cwd=context.FOLDER, env=environment, stdout=subprocess.PIPE, timeout=context.BOUND)
            self.assertEqual(ended.returncode, 1)
            self.assertIn(expected, json.loads(ended.stdout)["error"])


if __name__ == "__main__":
    unittest.main()
