"""An HTTP/1.1 server over asyncio, with a bound on everything: the head, the body, time, connections. It knows no
routes: `api` gives it one function from request to response. What has two readings is refused (RFC 9112 §6.3, §11.2).
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Awaitable, Callable
from urllib.parse import unquote_to_bytes

import log

HEAD_BYTES_MAX = 16 * 1024
FIELDS_MAX = 100
BODY_BYTES_MAX = 256 * 1024
CONNECTIONS_MAX = 512
# Seconds. A connection may wait longer for its next request than proxies keep theirs.
IDLE_MAX = 120.0
HEAD_MAX = 10.0
BODY_MAX = 20.0
# Shorter than the platform's grace, so that a stop that cannot be clean is at least told of.
STOP_MAX = 9.0
# For what a client still sends of a request that was refused, so that it can read why.
DISCARD_MAX = 2.0
DISCARD_BYTES_MAX = 1024 * 1024
# How long new connections are still taken after the signal: who sends requests may learn of it a moment later.
LINGER = 0.1

TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/1\.([01])\Z")
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n\Z")
CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
TRACE = re.compile(r"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}\Z")


@dataclass
class Request:
    """What was asked. Names of headers are in lower case; a header that came twice is joined by commas."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Response:
    status: int
    body: bytes = b""
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


class Problem(Exception):
    """A refusal as an RFC 9457 document."""

    def __init__(self, status: int, detail: str, **headers: str):
        super().__init__(detail)
        self.status, self.detail = status, detail
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def response(self) -> Response:
        body = {"title": HTTPStatus(self.status).phrase, "status": self.status, "detail": self.detail}
        return Response(self.status, json.dumps(body).encode(), "application/problem+json", self.headers)


Serve = Callable[[Request], Awaitable[Response]]


class Server:
    """Listens, serves, and drains."""

    def __init__(self, serve: Serve):
        self._serve = serve
        self._connections: dict[asyncio.Task, Connection] = {}
        self._listener: asyncio.base_events.Server | None = None
        self.is_draining = False

    async def listen(self, host: str, port: int) -> int:
        """Opens the socket and returns its port."""
        self._listener = await asyncio.start_server(self._accepted, host, port, limit=HEAD_BYTES_MAX, backlog=1024)
        return self._listener.sockets[0].getsockname()[1]

    async def drain(self) -> None:
        """Takes nothing new after a moment, and waits for the requests that have begun."""
        await asyncio.sleep(LINGER)
        self.is_draining = True
        self._listener.close()
        for connection in list(self._connections.values()):
            connection.end_if_idle()
        if self._connections:
            _, late = await asyncio.wait(list(self._connections), timeout=STOP_MAX)
            if late:
                log.write("error", "stopped before every request had finished", requests=len(late))

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self, reader, writer, self._serve)
        if len(self._connections) >= CONNECTIONS_MAX:
            connection.refuse()
            return
        task = asyncio.current_task()
        self._connections[task] = connection
        try:
            await connection.run()
        finally:
            del self._connections[task]


class Connection:
    """One client, its requests one after the other."""

    def __init__(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, serve: Serve):
        self._server, self._reader, self._writer, self._serve = server, reader, writer, serve
        self._is_idle = True
        self._is_refused = False
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        try:
            while await self._exchange():
                pass
            if self._is_refused:
                await self._discard()
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            # Who broke it off knows.
            pass
        finally:
            self._limit(None)
            self._writer.close()

    def end_if_idle(self) -> None:
        if self._is_idle:
            self._writer.transport.abort()

    def refuse(self) -> None:
        self._write(Problem(503, "too many connections", retry_after="1").response(), is_last=True)
        self._writer.close()

    async def _exchange(self) -> bool:
        """Serves one request; whether there may be another one."""
        self._is_idle = True
        self._limit(IDLE_MAX)
        first = await self._reader.read(1)
        if not first:
            return False
        self._is_idle = False
        began = time.monotonic()
        request, keep = None, False
        try:
            self._limit(HEAD_MAX)
            request, is_kept = parse_head(await self._head(first))
            self._limit(BODY_MAX)
            await self._body(request)
            self._limit(None)
            response = await self._serve(request)
            keep = is_kept and not self._server.is_draining
        except Problem as problem:
            # What is left of a body that was not read cannot be told from a next request.
            self._is_refused = True
            response = problem.response()
        except (ConnectionError, asyncio.IncompleteReadError):
            raise
        except Exception as error:  # A mistake of ours ends the request, and is told.
            log.write("error", "a request failed", error=f"{type(error).__name__}: {error}")
            response = Problem(500, "the service failed").response()
        self._write(response, is_last=not keep, has_body=request is None or request.method != "HEAD")
        self._limit(BODY_MAX)
        await self._writer.drain()
        self._note(request, response, time.monotonic() - began)
        return keep

    async def _discard(self) -> None:
        """Closing with something unread would reset the connection, and take the answer with it."""
        self._limit(DISCARD_MAX)
        self._writer.write_eof()
        left = DISCARD_BYTES_MAX
        while left > 0:
            read = await self._reader.read(left)
            left = left - len(read) if read else 0

    async def _head(self, first: bytes) -> bytes:
        # An empty line before a request is passed over (RFC 9112 §2.2).
        try:
            if first == b"\r":
                await self._reader.readexactly(1)
                first = b""
            return first + await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise Problem(431, f"the head has more than {HEAD_BYTES_MAX} bytes") from None

    async def _body(self, request: Request) -> None:
        headers = request.headers
        is_chunked, length = "transfer-encoding" in headers, int(headers.get("content-length", "0"))
        if length > BODY_BYTES_MAX:
            raise too_large()
        if (is_chunked or length) and headers.get("expect", "").lower() == "100-continue":
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.body = await self._chunks() if is_chunked else await self._reader.readexactly(length)

    async def _chunks(self) -> bytes:
        body = bytearray()
        while True:
            match = CHUNK_SIZE.match(await self._line())
            if match is None:
                raise Problem(400, "a chunk of the body is malformed")
            size = int(match.group(1), 16)
            if len(body) + size > BODY_BYTES_MAX:
                raise too_large()
            if size == 0:
                break
            body += await self._reader.readexactly(size)
            if await self._reader.readexactly(2) != b"\r\n":
                raise Problem(400, "a chunk of the body is malformed")
        for _ in range(FIELDS_MAX):
            if await self._line() == b"\r\n":
                return bytes(body)
        raise Problem(400, "the body has too many trailers")

    async def _line(self) -> bytes:
        try:
            return await self._reader.readuntil(b"\r\n")
        except asyncio.LimitOverrunError:
            raise Problem(400, "a line of the body is too long") from None

    def _limit(self, seconds: float | None) -> None:
        """From now on, so long; then the connection is cut."""
        if self._timer is not None:
            self._timer.cancel()
        transport = self._writer.transport
        self._timer = seconds and asyncio.get_running_loop().call_later(seconds, transport.abort)

    def _write(self, response: Response, is_last: bool, has_body: bool = True) -> None:
        fields = {"content-type": response.kind, "content-length": str(len(response.body)), **response.headers}
        if response.status == 204:
            del fields["content-type"], fields["content-length"]
        if is_last:
            fields["connection"] = "close"
        head = f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"
        self._writer.write(head.encode("latin-1") + (response.body if has_body else b""))

    @staticmethod
    def _note(request: Request | None, response: Response, seconds: float) -> None:
        path = request.path if request else "-"
        if path in ("/readyz", "/livez") and response.status < 400:
            return
        fields = {"method": request.method if request else "-", "path": path[:200], "status": response.status}
        trace = TRACE.match(request.headers.get("traceparent", "")) if request else None
        if trace:
            fields["trace_id"] = trace.group(1)
        log.write("info", "request", **fields, duration_ms=round(seconds * 1000, 2))


def too_large() -> Problem:
    return Problem(413, f"the body has more than {BODY_BYTES_MAX} bytes")


def parse_head(head: bytes) -> tuple[Request, bool]:
    """A request without its body, and whether its connection may be kept."""
    line, *lines = head[:-4].split(b"\r\n")
    match = REQUEST_LINE.match(line)
    if match is None:
        raise Problem(400, "the request line is malformed")
    if len(lines) > FIELDS_MAX:
        raise Problem(431, f"there are more than {FIELDS_MAX} header fields")
    method, target, minor = match.group(1).decode(), match.group(2), match.group(3)
    headers: dict[str, str] = {}
    for name, value in map(parse_field, lines):
        if name in ("content-length", "host", "transfer-encoding") and name in headers:
            raise Problem(400, f"{name} came twice")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    check_framing(headers, minor)
    path, _, query = target.partition(b"?")
    if not path.startswith(b"/"):
        raise Problem(400, "the target is not a path")
    try:
        path = unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        raise Problem(400, "the path is not UTF-8") from None
    options = {option.strip().lower() for option in headers.get("connection", "").split(",")}
    return Request(method, path, query.decode(), headers), minor == b"1" and "close" not in options


def parse_field(line: bytes) -> tuple[str, str]:
    name, colon, value = line.partition(b":")
    value = value.strip(b" \t")
    if not colon or not TOKEN.match(name) or CONTROL.search(value):
        raise Problem(400, "a header field is malformed")
    return name.decode().lower(), value.decode("latin-1")


def check_framing(headers: dict[str, str], minor: bytes) -> None:
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if minor == b"1" and "host" not in headers:
        raise Problem(400, "host is missing")
    if coding is not None and (length is not None or minor == b"0"):
        raise Problem(400, "the body has two lengths")
    if coding is not None and coding.lower() != "chunked":
        raise Problem(501, "the only transfer coding is chunked")
    if length is not None and not re.fullmatch("[0-9]{1,15}", length):
        raise Problem(400, "content-length is not a number")
