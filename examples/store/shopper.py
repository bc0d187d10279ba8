#!/usr/bin/env python3
"""Simulated shoppers with tastes: they go through the running shop as a browser would, look at products and fill carts.

    python3 examples/store/shopper.py --shop http://127.0.0.1:8080 --sessions 200

The same seed makes the same shoppers for the same products. `recommendation/evaluate.py` has them shop without a shop.
Python 3.9 and newer; nothing to install.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import random
import sys
import threading
import time
from dataclasses import dataclass
from itertools import accumulate
from urllib.parse import quote, urlencode, urlsplit

# Whom the shop is for: what they look for, how often each compared with the others, and where in the prices.
PERSONAS = (
    ("tea drinker", {"teapots": 5, "mugs": 4, "cookware": 1}, 0.4),
    ("commuter", {"bags": 5, "bottles": 3, "headphones": 3}, 0.6),
    ("reader", {"lamps": 4, "chairs": 3, "notebooks": 2}, 0.7),
    ("listener", {"speakers": 5, "headphones": 4, "clocks": 1}, 0.9),
    ("writer", {"notebooks": 5, "clocks": 2, "lamps": 2}, 0.2),
    ("host", {"vases": 4, "cookware": 3, "chairs": 2, "mugs": 1}, 0.5),
)
# How likely the next product is one that goes with the last, and how likely it is nothing that one could foresee.
COMPANION, WHIM = 0.35, 0.12
# How likely a product that is looked at is put into the cart, and one in the cart is taken out again.
ADD, REMOVE = 0.18, 0.1
COMPANIONS = 3
# Products of a session: at least two, on average about seven.
LENGTH_MIN, LENGTH_MEAN, LENGTH_MAX = 2, 7.0, 30


@dataclass(frozen=True)
class Step:
    """What a shopper does: `view`, `add` or `remove`."""

    does: str
    product: str


class Shoppers:
    """Tastes over the products of a catalog, which are objects as in its API."""

    def __init__(self, products: list[dict], seed: int):
        self._products = sorted(products, key=lambda product: product["id"])
        self._ids = [product["id"] for product in self._products]
        self._seed = seed
        self._tastes = [list(accumulate(self._taste(*persona) for persona in range_of(self._products, persona)))
                        for persona in PERSONAS]
        self._companions = {product["id"]: self._companions_of(product) for product in self._products}

    def session(self, number: int) -> list[Step]:
        """What the shopper of this number does, who is the same every time."""
        chance = random.Random(f"{self._seed} {number}")
        taste = chance.choice(self._tastes)
        length = min(LENGTH_MIN + int(chance.expovariate(1 / (LENGTH_MEAN - LENGTH_MIN))), LENGTH_MAX, len(self._ids))
        seen: list[str] = []
        steps: list[Step] = []
        for _ in range(3 * length):
            if len(seen) == length:
                break
            product = self._next(chance, taste, seen)
            if product in seen:
                continue
            seen.append(product)
            steps.append(Step("view", product))
            if chance.random() < ADD:
                steps.append(Step("add", product))
                if chance.random() < REMOVE:
                    steps.append(Step("remove", product))
        return steps

    def _next(self, chance: random.Random, taste: list[float], seen: list[str]) -> str:
        throw = chance.random()
        if throw < WHIM or taste[-1] == 0:
            return chance.choice(self._ids)
        if seen and throw < WHIM + COMPANION:
            return chance.choice(self._companions[seen[-1]])
        return chance.choices(self._ids, cum_weights=taste)[0]

    def _taste(self, product: dict, share: float, place: float, level: float, persona: str) -> float:
        """How much a persona is drawn to a product: its category, its price, its colour, and how well known it is."""
        fame = 1 / (1 + 20 * self._fate("fame", product["id"]))
        colour = 0.3 + self._fate("colour", persona, product.get("attributes", {}).get("color", ""))
        return share * fame * colour * max(0.1, 1 - abs(place - level))

    def _companions_of(self, product: dict) -> list[str]:
        """What goes with it: of any category, as somebody with an eye for it would say."""
        here = int(self._fate("companions", product["id"]) * len(self._ids))
        count = len(self._ids)
        return [self._ids[(here + step * step * 37) % count] for step in range(1, COMPANIONS + 1)]

    def _fate(self, *words: str) -> float:
        """A number from 0 to 1 that is always the same for the same words."""
        digest = hashlib.sha256(" ".join((str(self._seed), *words)).encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2**48


def range_of(products: list[dict], persona) -> list[tuple]:
    """Every product with what a persona's taste needs: the share of its category, and where its price is in there."""
    name, wanted, level = persona
    prices: dict[str, list[int]] = {}
    for product in products:
        prices.setdefault(product["category"], []).append(product["price"])
    ranks = {category: sorted(set(all_of)) for category, all_of in prices.items()}
    places = {category: {price: place for place, price in enumerate(ranked)} for category, ranked in ranks.items()}
    found = []
    for product in products:
        category, price = product["category"], product["price"]
        place = places[category][price] / max(1, len(places[category]) - 1)
        found.append((product, wanted.get(category, 0) / len(prices[category]), place, level, name))
    return found


class Visit:
    """One shopper at the shop's gateway, with the cookies of one browser."""

    def __init__(self, shop: str, timeout: float):
        at = urlsplit(shop)
        if at.scheme != "http" or not at.hostname:
            raise ValueError(f"{shop} is no address such as http://127.0.0.1:8080")
        self._connection = http.client.HTTPConnection(at.hostname, at.port or 80, timeout=timeout)
        self._cookies: dict[str, str] = {}

    def request(self, method: str, path: str, form: dict | None = None) -> tuple[int, bytes]:
        headers = {"user-agent": "shopper", "sec-fetch-site": "same-origin"}
        if self._cookies:
            headers["cookie"] = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        if form is not None:
            headers["content-type"] = "application/x-www-form-urlencoded"
        try:
            self._connection.request(method, path, urlencode(form) if form is not None else None, headers)
            answer = self._connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        for cookie in answer.headers.get_all("set-cookie", []):
            name, _, value = cookie.partition(";")[0].partition("=")
            self._cookies[name.strip()] = value.strip()
        return answer.status, body

    def does(self, step: Step) -> int:
        """The status that the shop answers with."""
        product = quote(step.product, safe="")
        if step.does == "view":
            return self.request("GET", f"/product/{product}")[0]
        if step.does == "add":
            return self.request("POST", "/cart/items", {"product_id": step.product, "quantity": 1})[0]
        return self.request("POST", f"/cart/items/{product}", {"quantity": 0})[0]

    def close(self) -> None:
        self._connection.close()


def fetch_products(shop: str, timeout: float = 10.0) -> list[dict]:
    """Every product that the shop has."""
    visit, products = Visit(shop, timeout), []
    try:
        for page in range(1, 1001):
            status, body = visit.request("GET", f"/api/catalog/products?limit=100&sort=name&page={page}")
            if status != 200:
                raise ValueError(f"the catalog answers {status}")
            listing = json.loads(body)
            products += listing["items"]
            if listing["next"] is None or not listing["items"]:
                break
    finally:
        visit.close()
    return products


class Tally:
    """What came of the steps, told by many threads."""

    def __init__(self):
        self._lock = threading.Lock()
        self._times: dict[str, list[float]] = {}
        self._statuses: dict[tuple[str, str], int] = {}

    def note(self, does: str, status: str, seconds: float) -> None:
        with self._lock:
            self._times.setdefault(does, []).append(seconds)
            self._statuses[does, status] = self._statuses.get((does, status), 0) + 1

    def failures(self) -> int:
        return sum(count for (_, status), count in self._statuses.items() if status not in ("200", "303"))

    def table(self) -> str:
        lines = [f"{'step':8} {'count':>7} {'p50 ms':>8} {'p99 ms':>8}  statuses"]
        for does, times in sorted(self._times.items()):
            times = sorted(times)
            p50, p99 = (1000 * times[min(len(times) - 1, int(len(times) * part))] for part in (0.5, 0.99))
            statuses = sorted((status, count) for (what, status), count in self._statuses.items() if what == does)
            seen = ", ".join(f"{status}: {count}" for status, count in statuses)
            lines.append(f"{does:8} {len(times):7} {p50:8.1f} {p99:8.1f}  {seen}")
        return "\n".join(lines)


def shop_for(shop: str, steps: list[Step], pause: float, tally: Tally) -> None:
    """Goes through one session; what fails is counted, and the shopper goes on."""
    visit = Visit(shop, 30.0)
    for step in steps:
        began = time.monotonic()
        try:
            status = str(visit.does(step))
        except (OSError, http.client.HTTPException) as error:
            status = type(error).__name__
        tally.note(step.does, status, time.monotonic() - began)
        time.sleep(pause)
    visit.close()


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulated shoppers at the running shop.")
    parser.add_argument("--shop", default="http://127.0.0.1:8080", help="address of the gateway (%(default)s)")
    parser.add_argument("--sessions", type=int, default=100, help="how many shoppers come (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first; others are others (%(default)s)")
    parser.add_argument("--concurrency", type=int, default=4, help="how many at a time (%(default)s)")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between two steps of one (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="other tastes (%(default)s)")
    asked = parser.parse_args()
    try:
        shoppers = Shoppers(fetch_products(asked.shop), asked.seed)
    except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
        print(f"shopper: the shop at {asked.shop} cannot be read: {error}", file=sys.stderr)
        return 1
    numbers, lock, tally = iter(range(asked.first, asked.first + asked.sessions)), threading.Lock(), Tally()

    def come() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            shop_for(asked.shop, shoppers.session(number), asked.pause, tally)

    threads = [threading.Thread(target=come, daemon=True) for _ in range(max(1, asked.concurrency))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(tally.table())
    return 1 if tally.failures() else 0


if __name__ == "__main__":
    sys.exit(main())
