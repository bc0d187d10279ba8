"""The writer: many changes in a transaction, each with its own fate."""

import asyncio
import os
import sqlite3
import tempfile
import unittest

import context
from database import WAITING_MAX, Full, Writer
from model import SEEN


class Writing(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "model.db")
        connection = sqlite3.connect(self.path)
        context.migrate(connection)
        connection.close()

    def written(self, *changes):
        """What became of changes that were asked for at once: None, or the error."""

        async def write():
            writer = Writer(self.path)
            fates = await asyncio.gather(*(writer.write(change) for change in changes), return_exceptions=True)
            await writer.close()
            return fates

        return asyncio.run(write())

    def count(self, table):
        return context.value_of(self.path, f"SELECT count(*) FROM {table}")

    def test_a_change_that_fails_costs_none_of_the_others_and_leaves_nothing(self):
        def fails(model):
            model.note("s", "half", SEEN, 0, 0)
            raise OverflowError

        changes = [lambda model, n=n: model.note("s", f"p{n}", SEEN, 0, 0) for n in range(20)]
        fates = self.written(*changes[:10], fails, *changes[10:])
        self.assertIsInstance(fates.pop(10), OverflowError)
        self.assertEqual(fates, [None] * 20)
        self.assertEqual(self.count("interests"), 20)

    def test_at_the_bound_a_change_is_refused_and_the_others_are_made(self):
        fates = self.written(*[lambda model: model.is_new("/s", "1")] * (WAITING_MAX + 3))
        self.assertEqual(fates.count(None), WAITING_MAX)
        self.assertEqual(sum(isinstance(fate, Full) for fate in fates), 3)
        self.assertEqual(self.count("seen"), 1)


if __name__ == "__main__":
    unittest.main()
