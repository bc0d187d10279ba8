"""The two ends of the database: a thread that takes in events, many in a transaction, and a connection to ask.

Whoever is told that an event was taken in can rely on it: the transaction has been synced.
"""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

from model import Model

# How long a statement waits for another program's transaction, in seconds.
BUSY_MAX = 5.0
# Events in one transaction.
BATCH_MAX = 256
# Events that wait for theirs. One more is refused: whoever sent it tries again.
WAITING_MAX = 2048

Change = Callable[[Model], None]


class Full(Exception):
    """As many events wait as may."""


def open_database(path: str, synchronous: str) -> sqlite3.Connection:
    """Opens a database that the platform has made and migrated; without it there is an error rather than a new file."""
    uri = f"file:{path.replace('%', '%25').replace('?', '%3f').replace('#', '%23')}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_MAX, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    return connection


class Writer:
    """Puts what comes into the database, as much at a time as has come meanwhile."""

    def __init__(self, path: str):
        self._connection = open_database(path, "FULL")
        self._model = Model(self._connection)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._waiting: list[tuple[Change, asyncio.Future]] = []
        self._run: asyncio.Task | None = None

    async def write(self, change: Change) -> None:
        """Returns when the change is on disk.

        Raises `Full`, or `sqlite3.Error`, and then nothing of it remains.
        """
        if len(self._waiting) >= WAITING_MAX:
            raise Full
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((change, done))
        if self._run is None:
            self._run = asyncio.ensure_future(self._write_all())
        await done

    async def close(self) -> None:
        """Finishes what waits."""
        if self._run is not None:
            await self._run
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
            changes = [change for change, _ in batch]
            failures = await loop.run_in_executor(self._thread, self._commit_all, changes)
            for (_, done), failure in zip(batch, failures):
                if done.cancelled():
                    continue
                if failure is None:
                    done.set_result(None)
                else:
                    done.set_exception(failure)
        self._run = None

    def _commit_all(self, changes: list[Change]) -> list[Exception | None]:
        """Commits changes together, or else each by itself: one that cannot be made costs none of the others."""
        try:
            self._commit(changes)
        except Exception as failure:  # Whatever it was, who waits learns of it.
            if len(changes) == 1:
                return [failure]
            return [self._commit_all([change])[0] for change in changes]
        return [None] * len(changes)

    def _commit(self, changes: list[Change]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for change in changes:
                change(self._model)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
