"""hello-service: listens on $HOST:$PORT, answers JSON, logs JSON lines, and finishes what has begun on SIGTERM.

Only the standard library. What the platform gives is read from the environment; nothing of the platform is imported.
"""

import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODY_BYTES_MAX = 64 * 1024
ANSWER_BYTES_MAX = 1024 * 1024
CALL_SECONDS_MAX = 2.0
# Shorter than the platform's grace of ten seconds.
STOP_SECONDS_MAX = 9.0
PASSED_ON = ("traceparent", "tracestate", "x-request-id")


def log(level, message, **fields):
    print(json.dumps({"level": level, "message": message, **fields}), flush=True)


class Problem(Exception):
    """A refusal, answered as a problem document (RFC 9457)."""

    def __init__(self, status, detail):
        super().__init__(detail)
        self.status, self.detail = status, detail


class Context:
    """What a request brought along for the calls that are made for it: its trace, its id, and the time left."""

    def __init__(self, headers):
        self.passed_on = {name: headers[name] for name in PASSED_ON if headers.get(name)}
        left = headers.get("atoll-deadline") or ""
        is_number = left.isascii() and left.isdigit() and len(left) < 10
        self.deadline = time.monotonic() + int(left) / 1000 if is_number else None

    def seconds_for_call(self):
        """A tenth of what is left is kept, to answer with when the call fails."""
        if self.deadline is None:
            return CALL_SECONDS_MAX
        return min(CALL_SECONDS_MAX, max(0.0, self.deadline - time.monotonic()) * 0.9)


# Addresses of upstreams are local: a proxy that the environment names is not asked.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(context, url, method="GET", body=None):
    """Calls an upstream, such as os.environ["OTHER_URL"] + "/path", and gives its JSON; a Problem if that fails."""
    seconds = context.seconds_for_call()
    if seconds < 0.001:
        raise Problem(504, "no time is left for the call")
    headers = {**context.passed_on, "atoll-deadline": str(int(seconds * 1000)), "accept": "application/json"}
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        headers["content-type"] = "application/json"
    try:
        request = urllib.request.Request(url, data=data, headers=headers, method=method)
        with OPENER.open(request, timeout=seconds) as answer:
            return json.loads(answer.read(ANSWER_BYTES_MAX))
    except TimeoutError as error:
        raise Problem(504, "an upstream did not answer in time") from error
    except urllib.error.HTTPError as error:
        error.close()
        raise Problem(502, f"an upstream answered {error.code}") from error
    except (OSError, ValueError) as error:
        if isinstance(getattr(error, "reason", None), TimeoutError):
            raise Problem(504, "an upstream did not answer in time") from error
        raise Problem(502, "an upstream cannot be called") from error


def hello(context, query, body):
    name = query.get("name", ["world"])[0]
    if len(name) > 100:
        raise Problem(400, "`name` is longer than 100 characters")
    return {"message": f"Hello, {name}!"}


def readyz(context, query, body):
    return {"status": "ready"}


# Method by path: add yours here.
ROUTES = {
    "/hello": {"GET": hello},
    "/readyz": {"GET": readyz},
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # For a connection that says nothing; longer than proxies keep theirs.
    timeout = 120
    wbufsize = -1
    disable_nagle_algorithm = True

    def handle_request(self):
        with self.server.busy:
            begun = time.monotonic()
            path, _, query = self.path.partition("?")
            try:
                status, answer, kind = 200, self.answer(path, urllib.parse.parse_qs(query)), "application/json"
            except Problem as problem:
                status, answer = problem.status, {"status": problem.status, "detail": problem.detail}
                kind = "application/problem+json"
            except Exception as error:
                log("error", "request failed", path=path, error=repr(error))
                status, kind = 500, "application/problem+json"
                answer = {"status": 500, "detail": "this service failed; its log says why"}
            self.send(status, answer, kind)
            if path != "/readyz" or status >= 400:
                milliseconds = round((time.monotonic() - begun) * 1000, 2)
                request_id = self.headers.get("x-request-id")
                log("info", "request", method=self.command, path=path, status=status, ms=milliseconds, request_id=request_id)

    def answer(self, path, query):
        body = self.read_body()
        methods = ROUTES.get(path)
        if methods is None:
            raise Problem(404, "there is nothing at this path")
        handler = methods.get("GET" if self.command == "HEAD" else self.command)
        if handler is None:
            raise Problem(405, f"this path takes {', '.join(methods)}")
        return handler(Context(self.headers), query, body)

    def read_body(self):
        length = self.headers.get("content-length", "0")
        if self.headers.get("transfer-encoding") or not (length.isascii() and length.isdigit()):
            self.close_connection = True
            raise Problem(411, "a body needs a content-length")
        if len(length) > 9 or int(length) > BODY_BYTES_MAX:
            self.close_connection = True
            raise Problem(413, f"a body may have {BODY_BYTES_MAX} bytes")
        return self.rfile.read(int(length))

    def send(self, status, answer, kind):
        body = json.dumps(answer).encode()
        self.close_connection = self.close_connection or self.server.stopping.is_set()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_request

    def log_message(self, pattern, *values):
        """The lines above are the log."""


class Busy:
    """Counts the requests that are being served."""

    def __init__(self):
        self.condition, self.count = threading.Condition(), 0

    def __enter__(self):
        with self.condition:
            self.count += 1

    def __exit__(self, *_):
        with self.condition:
            self.count -= 1
            self.condition.notify_all()

    def wait(self, seconds):
        with self.condition:
            return self.condition.wait_for(lambda: self.count == 0, seconds)


class Server(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, address):
        self.busy, self.stopping = Busy(), threading.Event()
        super().__init__(address, Handler)

    def handle_error(self, request, client_address):
        log("info", "a connection broke", error=repr(sys.exc_info()[1]))

    def stop(self):
        """Takes no more connections; `serve_forever` returns. Not from the thread that serves."""
        self.stopping.set()
        self.shutdown()


def main():
    address = (os.environ["HOST"], int(os.environ["PORT"]))
    server = Server(address)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.stop).start())
    log("info", "listening", address=f"{address[0]}:{address[1]}")
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    if not server.busy.wait(STOP_SECONDS_MAX):
        log("error", "stopped before every request had finished")
    log("info", "stopped")


if __name__ == "__main__":
    main()
