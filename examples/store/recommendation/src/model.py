"""Item-to-item collaborative filtering in a SQLite database: what sessions showed an interest in together.

A product is a vector with one number a session, the interest shown there; two products go together as far as the cosine
of their vectors says. Dot products and lengths are kept and changed by each event, so that nothing is computed anew.
A session counts for more the later it began, by forward decay (Cormode et al., 2009): what is new is scaled up rather than
what is old down. Its scale stays with the session, so that an interest is taken back exactly.

Time is a value here. The caller begins and commits transactions.
"""

from __future__ import annotations

import hashlib
import math
import sqlite3
from dataclasses import dataclass
from typing import Iterable

SEEN, IN_CART, BOUGHT = 1, 3, 5

# Seconds after which a session counts for half.
HALF_LIFE = 30 * 24 * 3600.0
# 2026-01-01. In units of HALF_LIFE from here the exponent of a float holds for eighty years.
LANDMARK = 1_767_225_600.0
# Nothing counts for less than a session of this age, in seconds.
AGE_MAX = 400 * 24 * 3600.0
# What is added to the lengths of two vectors, in units of a fresh session's interest: one session alone proves little.
SHRINKAGE = 8.0
# How much a product that the session has seen says beside the one that is being looked at, the latest first.
TRAIL = (0.35, 0.25, 0.2, 0.15, 0.1)

WHY_TOGETHER, WHY_CATEGORY, WHY_POPULAR = "bought together", "same category", "popular"


@dataclass(frozen=True)
class Limits:
    """Bounds of what is kept. Beyond each, the oldest or the least goes."""

    interests_per_session: int = 40
    sessions: int = 50_000
    pairs_per_product: int = 80
    products: int = 50_000
    events: int = 200_000
    # Changes between two sweeps; by so much may the other bounds be exceeded meanwhile.
    sweep_interval: int = 256


@dataclass(frozen=True)
class Product:
    """What the catalog says."""

    id: str
    version: int
    category: str | None = None
    price: int | None = None
    removed: bool = False


class Model:
    """The tables, and what is done with them. Not for two threads at a time."""

    def __init__(self, connection: sqlite3.Connection, limits: Limits = Limits()):
        self.connection = connection
        self.limits = limits
        self._changes = 0
        self._touched: set[str] = set()

    def is_new(self, source: str, event: str) -> bool:
        """Whether an event has not been taken in yet; from now on it has."""
        name = f"{len(source)}:{source} {event}".encode()
        digest = hashlib.sha256(name).digest()[:16]
        cursor = self.connection.execute("INSERT OR IGNORE INTO seen (event) VALUES (?)", (digest,))
        return cursor.rowcount == 1

    def note(self, session: str, product: str, interest: int, at: float, now: float) -> None:
        """A session shows an interest; a weaker one than it has shown already says nothing."""
        self._change(session, product, at, now, lambda former: max(former, interest))

    def take_back(self, session: str, product: str, at: float, now: float) -> None:
        """A product is taken out of the cart; it was looked at all the same."""
        self._change(session, product, at, now, lambda former: SEEN if former < BOUGHT else former)

    def learn(self, product: Product) -> None:
        """Takes what the catalog says, unless it has said something later already."""
        self.connection.execute(
            "INSERT INTO products (id, category, price, version, removed) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET category = coalesce(excluded.category, category),"
            " price = coalesce(excluded.price, price), version = excluded.version, removed = excluded.removed"
            " WHERE excluded.version > version OR (excluded.version = version AND excluded.removed > removed)",
            (product.id, product.category, product.price, product.version, product.removed),
        )
        self._swept()

    def recommend(self, product: str, session: str | None, count: int, now: float) -> list[tuple[str, str]]:
        """Products that go with one, best first, each with why; of those in the session's cart, none."""
        trail, owned = self._trail(session)
        left_out = owned | {product}
        chosen: list[tuple[str, str]] = []
        scores: dict[str, float] = {}
        anchors = [(product, 1.0)] + list(zip((seen for seen in trail if seen != product), TRAIL))
        for anchor, share in anchors:
            for other, similarity in self._neighbours(anchor, now):
                scores[other] = scores.get(other, 0.0) + share * similarity
        ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
        for reason, candidates in (
            (WHY_TOGETHER, (other for other, _ in ranked)),
            (WHY_CATEGORY, self._same_category(product, count + len(left_out))),
            (WHY_POPULAR, self._popular(count + len(left_out))),
        ):
            if len(chosen) >= count:
                break
            for other in candidates:
                if len(chosen) < count and other not in left_out:
                    left_out.add(other)
                    chosen.append((other, reason))
        return chosen

    def _change(self, session: str, product: str, at: float, now: float, next_of) -> None:
        number, scale = self._session(session, at, now)
        row = self.connection.execute(
            "SELECT interest FROM interests WHERE session = ? AND product = ?", (number, product)
        ).fetchone()
        former = row[0] if row else 0
        interest = next_of(former)
        self.connection.execute(
            "INSERT INTO interests (session, product, interest, touched)"
            " SELECT number, ?, ?, touched FROM sessions WHERE number = ?"
            " ON CONFLICT (session, product) DO UPDATE SET interest = excluded.interest, touched = excluded.touched",
            (product, interest, number),
        )
        if interest != former:
            self._weigh(number, product, scale, former, interest)
        if former == 0:
            self._forget_oldest_interest(number)
        self._swept()

    def _session(self, session: str, at: float, now: float) -> tuple[int, float]:
        """Finds or begins a session, and makes it the one that was last touched."""
        began = scale_of(min(max(at, now - AGE_MAX), now))
        self.connection.execute(
            "INSERT INTO sessions (id, scale, touched)"
            " VALUES (?, ?, 1 + coalesce((SELECT max(touched) FROM sessions), 0))"
            " ON CONFLICT (id) DO UPDATE SET touched = excluded.touched",
            (session, began),
        )
        return self.connection.execute("SELECT number, scale FROM sessions WHERE id = ?", (session,)).fetchone()

    def _weigh(self, session: int, product: str, scale: float, former: int, interest: int) -> None:
        self.connection.execute(
            "INSERT INTO products (id, weight) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET"
            " weight = max(0, weight + excluded.weight)",
            (product, scale * (interest * interest - former * former)),
        )
        others = self.connection.execute(
            "SELECT product, interest FROM interests WHERE session = ? AND product <> ?", (session, product)
        ).fetchall()
        step = scale * (interest - former)
        changes = [(product, other, step * theirs) for other, theirs in others]
        changes += [(other, product, change) for product, other, change in changes]
        self.connection.executemany(
            "INSERT INTO pairs (product, other, weight) VALUES (?, ?, ?) ON CONFLICT (product, other) DO UPDATE SET"
            " weight = max(0, weight + excluded.weight)",
            changes,
        )
        self._touched.update(first for first, _, _ in changes)

    def _forget_oldest_interest(self, session: int) -> None:
        """What it has taught stays learnt."""
        self.connection.execute(
            "DELETE FROM interests WHERE session = ? AND product IN (SELECT product FROM interests WHERE session = ?"
            " ORDER BY touched DESC LIMIT -1 OFFSET ?)",
            (session, session, self.limits.interests_per_session),
        )

    def _swept(self) -> None:
        self._changes += 1
        if self._changes >= self.limits.sweep_interval:
            self.sweep()

    def sweep(self) -> None:
        """Brings every table back to its bound."""
        limits, execute = self.limits, self.connection.execute
        self._changes = 0
        # Of the least, it does not matter which; of equals those that were met last stay in the order of their names.
        self.connection.executemany(
            "DELETE FROM pairs WHERE product = ? AND other IN (SELECT other FROM pairs WHERE product = ?"
            " ORDER BY weight DESC, other LIMIT -1 OFFSET ?)",
            [(product, product, limits.pairs_per_product) for product in self._touched],
        )
        self._touched.clear()
        execute("DELETE FROM seen WHERE number <= (SELECT max(number) FROM seen) - ?", (limits.events,))
        old = "SELECT number FROM sessions ORDER BY touched DESC LIMIT -1 OFFSET ?"
        execute(f"DELETE FROM interests WHERE session IN ({old})", (limits.sessions,))
        execute(f"DELETE FROM sessions WHERE number IN ({old})", (limits.sessions,))
        # Those that the catalog does not know go first.
        least = "SELECT id FROM products ORDER BY version > 0 AND NOT removed DESC, weight DESC LIMIT -1 OFFSET ?"
        (count,) = execute("SELECT count(*) FROM products").fetchone()
        if count > limits.products:
            execute(f"DELETE FROM pairs WHERE product IN ({least})", (limits.products,))
            execute(f"DELETE FROM products WHERE id IN ({least})", (limits.products,))

    def _trail(self, session: str | None) -> tuple[list[str], set[str]]:
        """What a session has shown an interest in, the latest first, and which of it is in its cart or bought."""
        rows: Iterable[tuple[str, int]] = ()
        if session is not None:
            rows = self.connection.execute(
                "SELECT product, interest FROM interests WHERE session = (SELECT number FROM sessions WHERE id = ?)"
                " ORDER BY touched DESC",
                (session,),
            ).fetchall()
        return [product for product, _ in rows], {product for product, interest in rows if interest >= IN_CART}

    def _neighbours(self, product: str, now: float) -> list[tuple[str, float]]:
        row = self.connection.execute("SELECT weight FROM products WHERE id = ?", (product,)).fetchone()
        if row is None:
            return []
        rows = self.connection.execute(
            "SELECT pairs.other, pairs.weight, products.weight FROM pairs JOIN products ON products.id = pairs.other"
            " WHERE pairs.product = ? AND pairs.weight > 0 AND NOT products.removed",
            (product,),
        ).fetchall()
        shrinkage = SHRINKAGE * scale_of(now)
        return [(other, dot / (math.sqrt(row[0] * weight) + shrinkage)) for other, dot, weight in rows]

    def _same_category(self, product: str, count: int) -> list[str]:
        """The popular ones of a product's category; among those that nobody knows, the ones of a like price."""
        rows = self.connection.execute(
            "SELECT other.id FROM products AS one JOIN products AS other USING (category)"
            " WHERE one.id = ? AND NOT other.removed"
            " ORDER BY other.weight DESC, abs(coalesce(other.price, 0) - coalesce(one.price, 0)), other.id LIMIT ?",
            (product, count),
        )
        return [other for (other,) in rows]

    def _popular(self, count: int) -> list[str]:
        rows = self.connection.execute(
            "SELECT id FROM products WHERE NOT removed ORDER BY weight DESC, id LIMIT ?", (count,)
        )
        return [product for (product,) in rows]


def scale_of(at: float) -> float:
    """What a session that begins at a time, in Unix seconds, counts for."""
    return 2.0 ** ((at - LANDMARK) / HALF_LIFE)
