"""The routes: events in, recommendations out. What an event must be is checked here, whole, before anything is kept."""

from __future__ import annotations

import json
import pathlib
import sqlite3
import time
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, unquote_to_bytes

import log
from database import Change, Full, Writer
from model import BOUGHT, IN_CART, SEEN, Model, Product
from serving import Problem, Request, Response

DOCUMENT = (pathlib.Path(__file__).parent.parent / "openapi.json").read_bytes()
COUNT_DEFAULT, COUNT_MAX = 6, 24
TEXT_MAX = 200
PRODUCTS_PER_ORDER_MAX = 100
# What SQLite can hold.
INTEGER_MAX = 2**63 - 1


class Api:
    """The whole service over its database."""

    def __init__(self, reader: sqlite3.Connection, writer: Writer):
        self._model = Model(reader)
        self._writer = writer
        self._events = {
            "/events/views": view,
            "/events/carts": cart_line,
            "/events/orders": order,
            "/events/products": product,
        }

    async def serve(self, request: Request) -> Response:
        path, method = request.path, request.method
        if path in self._events:
            allow(request, "POST")
            return await self._take(request)
        if method == "HEAD":
            method = "GET"
        if path.startswith("/recommendations/"):
            allow(request, "GET", "HEAD")
            return self._recommend(request, path[len("/recommendations/") :])
        answers = {"/readyz": self._readyz, "/livez": self._livez, "/openapi.json": lambda: Response(200, DOCUMENT)}
        if path not in answers:
            raise Problem(404, "there is nothing at this path")
        allow(request, "GET", "HEAD")
        return answers[path]()

    async def _take(self, request: Request) -> Response:
        """Takes in one event: 204 once it is on disk. What will never be right is 400, so that it is tried no more."""
        source, event = attribute(request, "ce-source"), attribute(request, "ce-id")
        now = time.time()
        change = self._events[request.path](attribute(request, "ce-type"), data(request), time_of(request, now), now)

        def change_once(model: Model) -> None:
            if model.is_new(source, event):
                change(model)

        try:
            await self._writer.write(change_once)
        except Full:
            raise Problem(503, "too many events wait", retry_after="1") from None
        except sqlite3.Error as error:
            log.write("error", "an event was not taken in", error=str(error))
            raise Problem(503, "the database does not take it at the moment", retry_after="1") from None
        return Response(204)

    def _recommend(self, request: Request, product: str) -> Response:
        query = parse_qs(request.query, keep_blank_values=True, max_num_fields=10, errors="replace")
        session = query.get("session", [""])[-1][:TEXT_MAX] or None
        count = query.get("n", [str(COUNT_DEFAULT)])[-1]
        if not count.isascii() or not count.isdigit() or not 1 <= int(count[:9]) <= COUNT_MAX:
            raise Problem(400, f"n is a number from 1 to {COUNT_MAX}")
        if not product or len(product) > TEXT_MAX or "\0" in product:
            raise Problem(404, "there is no such product")
        items = self._model.recommend(product, session, int(count), time.time())
        body = {"items": [{"product": other, "why": why} for other, why in items]}
        return Response(200, json.dumps(body).encode(), headers={"cache-control": "no-store"})

    def _readyz(self) -> Response:
        try:
            self._model.connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            log.write("error", "not ready", error=str(error))
            raise Problem(503, "the database does not answer") from None
        return Response(200, b"ready\n", "text/plain")

    @staticmethod
    def _livez() -> Response:
        return Response(200, b"alive\n", "text/plain")


def view(kind: str, data: dict[str, Any], at: float, now: float) -> Change:
    session, product = text(data, "session"), text(data, "product")
    return lambda model: model.note(session, product, SEEN, at, now)


def cart_line(kind: str, data: dict[str, Any], at: float, now: float) -> Change:
    session, product = text(data, "session"), text(data, "product")
    if kind == "cart.line.removed":
        return lambda model: model.take_back(session, product, at, now)
    return lambda model: model.note(session, product, IN_CART, at, now)


def order(kind: str, data: dict[str, Any], at: float, now: float) -> Change:
    """`lines` are objects with a `product` each; of very many the first ones teach."""
    session, lines = text(data, "session"), data.get("lines")
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        raise Problem(400, "`lines` must be a list of objects")
    products = [text(line, "product") for line in lines[:PRODUCTS_PER_ORDER_MAX]]

    def change(model: Model) -> None:
        for product in products:
            model.note(session, product, BOUGHT, at, now)

    return change


def product(kind: str, data: dict[str, Any], at: float, now: float) -> Change:
    removed = kind == "catalog.product.removed"
    told = Product(
        text(data, "id"),
        # What is removed may be told of by its id alone: the last word on it.
        integer(data, "version") if "version" in data or not removed else INTEGER_MAX,
        text(data, "category") if "category" in data or not removed else None,
        integer(data, "price") if "price" in data or not removed else None,
        removed,
    )
    return lambda model: model.learn(told)


def allow(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise Problem(405, "this path does not take this method", allow=", ".join(methods))


def attribute(request: Request, name: str) -> str:
    """A CloudEvents attribute: percent-encoded UTF-8 (CloudEvents HTTP binding §3.1.3.2)."""
    value = request.headers.get(name, "")
    if not value:
        raise Problem(400, f"{name} is missing: this is no CloudEvent in binary mode")
    try:
        return unquote_to_bytes(value.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise Problem(400, f"{name} is not UTF-8") from None


def time_of(request: Request, now: float) -> float:
    """When an event happened, in Unix seconds; one that does not say it in a way that is understood happens now."""
    # Python before 3.11 knows neither `Z` nor more than six digits.
    value = request.headers.get("ce-time", "").strip().upper().replace("Z", "+00:00")
    head, dot, rest = value.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    try:
        moment = datetime.fromisoformat(head + rest[digits:])
        return moment.timestamp() if moment.tzinfo else now
    except (ValueError, OverflowError, OSError):
        return now


def data(request: Request) -> dict[str, Any]:
    """The object that an event is about."""
    try:
        value = json.loads(request.body, parse_constant=refuse_constant, parse_int=whole_number)
    except (ValueError, RecursionError):
        raise Problem(400, "the data is not JSON") from None
    if not isinstance(value, dict):
        raise Problem(400, "the data is not an object")
    return value


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def whole_number(digits: str) -> int:
    # Thousands of digits take Python a while.
    if len(digits) > 20:
        raise ValueError("no number here is as long")
    return int(digits)


def text(data: dict[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= TEXT_MAX or not is_storable(value):
        raise Problem(400, f"`{name}` must be a text of 1 to {TEXT_MAX} characters")
    return value


def integer(data: dict[str, Any], name: str) -> int:
    value = data.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= INTEGER_MAX:
        raise Problem(400, f"`{name}` must be a whole number")
    return value


def is_storable(value: str) -> bool:
    """Whether it is text in UTF-8 too: JSON can write half of a character (RFC 8259 §8.2)."""
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
