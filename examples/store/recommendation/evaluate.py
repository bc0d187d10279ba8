#!/usr/bin/env python3
"""How often a recommendation is right: simulated shoppers teach the model, others are foreseen.

    python3 examples/store/recommendation/evaluate.py [--shop http://127.0.0.1:8080]

Of each held-out session every product but the first is foreseen, from the one before it and what was seen till then. It
is a hit when it is among six. Beside the model stand what is popular, and what is popular in the category of the product
that is looked at. Without a shop the products are made up, in the shop's own categories.
"""

from __future__ import annotations

import argparse
import pathlib
import random
import sqlite3
import sys
from collections import Counter

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER / "src"), str(FOLDER.parent)]

from model import IN_CART, SEEN, Model, Product  # noqa: E402
from shopper import Shoppers, Step, fetch_products  # noqa: E402

COUNT = 6
NOW = 1_790_000_000.0
CATEGORIES = ("lamps", "chairs", "vases", "mugs", "teapots", "cookware", "bags", "bottles", "headphones", "speakers",
              "notebooks", "clocks")
COLOURS = ("white", "black", "oak", "green", "blue", "clay")


def made_up(per_category: int, seed: int) -> list[dict]:
    """Products in the shape of the catalog's API."""
    chance = random.Random(seed)
    return [
        {
            "id": f"{category}-{number:03}",
            "category": category,
            "price": chance.randrange(10, 400) * 100,
            "attributes": {"color": chance.choice(COLOURS)},
        }
        for category in CATEGORIES
        for number in range(per_category)
    ]


class Popularity:
    """What it must be better than: counts, and nothing of what goes with what."""

    def __init__(self, products: list[dict]):
        self._category = {product["id"]: product["category"] for product in products}
        self._counts: Counter = Counter()

    def note(self, steps: list[Step]) -> None:
        self._counts.update({step.product for step in steps})

    def popular(self, seen: list[str]) -> list[str]:
        return self._best(seen, lambda product: True)

    def of_category(self, seen: list[str]) -> list[str]:
        category = self._category[seen[-1]]
        return self._best(seen, lambda product: self._category[product] == category)

    def _best(self, seen: list[str], fits) -> list[str]:
        found = []
        for product, _ in self._counts.most_common():
            if product not in seen and fits(product):
                found.append(product)
                if len(found) == COUNT:
                    break
        return found


def evaluate(products: list[dict], train: int, held_out: int, seed: int) -> dict[str, float]:
    """Hit rate at six of each way to recommend."""
    shoppers, popularity = Shoppers(products, seed), Popularity(products)
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for path in sorted((FOLDER / "migrations").glob("*.sql")):
        connection.executescript(path.read_text())
    model = Model(connection)
    connection.execute("BEGIN")
    for product in products:
        model.learn(Product(product["id"], 1, product["category"], product["price"]))
    for number in range(train):
        steps = shoppers.session(number)
        popularity.note(steps)
        for step in steps:
            teach(model, f"train {number}", step)
    hits: Counter = Counter()
    tries = 0
    for number in range(train, train + held_out):
        session, seen = f"held out {number}", []
        # What it does is known until then, as it is in the shop, and teaches nobody else: it is rolled back.
        connection.execute("SAVEPOINT session")
        for step in shoppers.session(number):
            if step.does == "view" and seen:
                tries += 1
                for way, foreseen in ways(model, popularity, session, seen).items():
                    hits[way] += step.product in foreseen
            if step.does == "view":
                seen.append(step.product)
            teach(model, session, step)
        connection.execute("ROLLBACK TO session")
    connection.close()
    return {way: hits[way] / tries for way in WAYS}


WAYS = ("popular", "popular in the category", "item to item", "item to item, with the session")


def ways(model: Model, popularity: Popularity, session: str, seen: list[str]) -> dict[str, list[str]]:
    """Six products by each way; what has just been seen is shown by none."""

    def items(of: str | None) -> list[str]:
        found = model.recommend(seen[-1], of, COUNT + len(seen), NOW)
        return [product for product, _ in found if product not in seen][:COUNT]

    found = (popularity.popular(seen), popularity.of_category(seen), items(None), items(session))
    return dict(zip(WAYS, found))


def teach(model: Model, session: str, step: Step) -> None:
    if step.does == "remove":
        model.take_back(session, step.product, NOW, NOW)
    else:
        model.note(session, step.product, IN_CART if step.does == "add" else SEEN, NOW, NOW)


def main() -> int:
    parser = argparse.ArgumentParser(description="Hit rate of what is recommended to simulated shoppers.")
    parser.add_argument("--shop", help="take the products of the running shop at this address")
    parser.add_argument("--train", type=int, default=3000, help="sessions that teach (%(default)s)")
    parser.add_argument("--held-out", type=int, default=500, help="sessions that are foreseen (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(%(default)s)")
    asked = parser.parse_args()
    products = fetch_products(asked.shop) if asked.shop else made_up(60, asked.seed)
    rates = evaluate(products, asked.train, asked.held_out, asked.seed)
    print(f"{len(products)} products, {asked.train} sessions teach, {asked.held_out} are foreseen, seed {asked.seed}\n")
    print(f"{'':32} {'hit rate@6':>10} {'x popular':>10}")
    for way, rate in rates.items():
        print(f"{way:32} {rate:10.3f} {rate / max(rates['popular'], 1e-9):10.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
