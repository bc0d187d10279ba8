"""What sessions teach, and its bounds: the model over a database in memory."""

import random
import sqlite3
import unittest

import context
from model import BOUGHT, IN_CART, SEEN, HALF_LIFE, Limits, Model, Product

NOW = 1_790_000_000.0


OPENED = []


def tearDownModule():
    for connection in OPENED:
        connection.close()


def model(**limits) -> Model:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    OPENED.append(connection)
    context.migrate(connection)
    return Model(connection, Limits(**limits))


def content(model: Model):
    """All that recommendations depend on."""
    pairs = model.connection.execute("SELECT product, other, weight FROM pairs ORDER BY 1, 2").fetchall()
    products = model.connection.execute("SELECT id, weight FROM products ORDER BY 1").fetchall()
    return pairs, products


class Learning(unittest.TestCase):
    def test_what_sessions_have_in_common_is_recommended_first(self):
        m = model()
        for number in range(5):
            for product in ("lamp", "shade"):
                m.note(f"s{number}", product, SEEN, NOW, NOW)
        m.note("other", "lamp", SEEN, NOW, NOW)
        m.note("other", "mug", SEEN, NOW, NOW)
        self.assertEqual(m.recommend("lamp", None, 2, NOW), [("shade", "bought together"), ("mug", "bought together")])

    def test_a_purchase_says_more_than_a_cart_and_a_cart_more_than_a_look(self):
        m = model()
        for session, product, interest in (("a", "seen", SEEN), ("b", "put in", IN_CART), ("c", "bought", BOUGHT)):
            m.note(session, "lamp", interest, NOW, NOW)
            m.note(session, product, interest, NOW, NOW)
        self.assertEqual([item for item, _ in m.recommend("lamp", None, 3, NOW)], ["bought", "put in", "seen"])

    def test_what_everybody_looks_at_is_not_what_goes_with_something(self):
        m = model()
        for number in range(60):
            m.note(f"s{number}", "bestseller", SEEN, NOW, NOW)
            m.note(f"s{number}", "lamp" if number < 12 else f"p{number}", SEEN, NOW, NOW)
            if number < 10:
                m.note(f"s{number}", "shade", SEEN, NOW, NOW)
        self.assertEqual(m.recommend("lamp", None, 1, NOW), [("shade", "bought together")])

    def test_one_session_proves_less_than_many(self):
        m = model()
        m.note("s", "lamp", SEEN, NOW, NOW)
        m.note("s", "chance", SEEN, NOW, NOW)
        for number in range(20):
            m.note(f"s{number}", "lamp", SEEN, NOW, NOW)
            m.note(f"s{number}", "shade", SEEN, NOW, NOW)
            m.note(f"t{number}", "shade", SEEN, NOW, NOW)
        self.assertEqual(m.recommend("lamp", None, 1, NOW)[0][0], "shade")

    def test_the_past_fades(self):
        m = model()
        for number in range(4):
            for session, product, at in (("old", "was", NOW - 4 * HALF_LIFE), ("new", "is", NOW)):
                m.note(f"{session}{number}", "lamp", SEEN, at, NOW)
                m.note(f"{session}{number}", product, SEEN, at, NOW)
        m.note("old4", "lamp", SEEN, NOW - 4 * HALF_LIFE, NOW)
        m.note("old4", "was", SEEN, NOW - 4 * HALF_LIFE, NOW)
        self.assertEqual([item for item, _ in m.recommend("lamp", None, 2, NOW)], ["is", "was"])

    def test_a_time_in_the_far_future_or_past_is_no_weight_without_bounds(self):
        m = model()
        for number, at in enumerate((1e18, -1e18, NOW)):
            m.note(f"s{number}", "lamp", SEEN, at, NOW)
            m.note(f"s{number}", f"p{number}", SEEN, at, NOW)
        weights = [weight for _, _, weight in content(m)[0]]
        self.assertLessEqual(max(weights), 2.0 ** ((NOW - 1_767_225_600.0) / HALF_LIFE))
        self.assertEqual(len(m.recommend("lamp", None, 3, NOW)), 3)

    def test_what_is_taken_back_is_as_if_it_had_never_been_in_the_cart(self):
        seen, taken_back = model(), model()
        for m in (seen, taken_back):
            m.note("s", "mug", IN_CART, NOW, NOW)
            m.note("s", "lamp", SEEN, NOW, NOW)
        taken_back.note("s", "lamp", IN_CART, NOW + 60, NOW + 60)
        taken_back.take_back("s", "lamp", NOW + 90, NOW + 90)
        self.assertEqual(content(seen), content(taken_back))
        taken_back.note("s", "lamp", BOUGHT, NOW, NOW)
        bought = content(taken_back)
        taken_back.take_back("s", "lamp", NOW, NOW)
        self.assertEqual(content(taken_back), bought, "what is bought stays bought when the cart is emptied")

    def test_the_order_of_events_does_not_matter_and_repeats_add_nothing(self):
        events = [(f"s{s}", f"p{p}", i) for s in range(6) for p, i in ((s % 3, SEEN), (s % 4, IN_CART), (5, BOUGHT))]
        chance = random.Random(1)
        expected = None
        for _ in range(5):
            m = model()
            for session, product, interest in events + chance.sample(events, 8):
                m.note(session, product, interest, NOW, NOW)
            expected = expected or content(m)
            for (mine, theirs) in zip(content(m), expected):
                self.assertEqual([row[:-1] for row in mine], [row[:-1] for row in theirs])
                for a, b in zip(mine, theirs):
                    self.assertAlmostEqual(a[-1] / b[-1], 1.0)
            chance.shuffle(events)

    def test_an_event_is_new_once(self):
        m = model(events=10, sweep_interval=1)
        self.assertTrue(m.is_new("/a", "1"))
        self.assertFalse(m.is_new("/a", "1"))
        self.assertTrue(m.is_new("/a b", "1") and m.is_new("/a", "b 1"), "a source ends where its id begins")


class Recommending(unittest.TestCase):
    def test_the_unknown_is_met_with_its_category_and_then_with_what_is_popular(self):
        m = model()
        for number, category in enumerate(("lamps", "lamps", "mugs", "mugs")):
            m.learn(Product(f"{category}-{number}", 1, category, 1000 * number))
        m.note("s", "mugs-3", SEEN, NOW, NOW)
        self.assertEqual(
            m.recommend("lamps-0", None, 3, NOW),
            [("lamps-1", "same category"), ("mugs-3", "popular"), ("mugs-2", "popular")],
        )
        self.assertEqual(m.recommend("never heard of", None, 1, NOW), [("mugs-3", "popular")])
        self.assertEqual(model().recommend("lamp", None, 6, NOW), [])

    def test_among_those_that_nobody_knows_a_like_price_is_nearer(self):
        m = model()
        for name, price in (("one", 5000), ("dear", 90000), ("near", 5200), ("cheap", 100)):
            m.learn(Product(name, 1, "lamps", price))
        self.assertEqual([item for item, _ in m.recommend("one", None, 3, NOW)], ["near", "cheap", "dear"])

    def test_what_is_removed_is_recommended_no_more_and_what_is_late_does_not_bring_it_back(self):
        m = model()
        for product in ("lamp", "shade"):
            m.learn(Product(product, 1, "lamps", 100))
            m.note("s", product, SEEN, NOW, NOW)
        m.learn(Product("shade", 3, removed=True))
        m.learn(Product("shade", 2, "lamps", 100))
        self.assertEqual(m.recommend("lamp", None, 6, NOW), [])
        m.learn(Product("shade", 4, "lamps", 100))
        self.assertEqual(m.recommend("lamp", None, 6, NOW), [("shade", "bought together")])

    def test_a_session_sees_nothing_that_is_in_its_cart_and_its_way_counts(self):
        m = model()
        for number in range(9):
            m.note(f"a{number}", "lamp", SEEN, NOW, NOW)
            m.note(f"a{number}", "shade", SEEN, NOW, NOW)
            m.note(f"b{number}", "mug", SEEN, NOW, NOW)
            m.note(f"b{number}", "teapot", SEEN, NOW, NOW)
        m.note("me", "mug", SEEN, NOW, NOW)
        self.assertEqual([item for item, _ in m.recommend("lamp", "me", 2, NOW)], ["shade", "teapot"])
        m.note("me", "shade", IN_CART, NOW, NOW)
        self.assertNotIn("shade", [item for item, _ in m.recommend("lamp", "me", 6, NOW)])


class Bounds(unittest.TestCase):
    def test_every_table_is_bounded(self):
        limits = dict(interests_per_session=5, sessions=20, pairs_per_product=4, products=30, events=25, sweep_interval=16)
        m = model(**limits)
        chance = random.Random(2)
        for number in range(3000):
            m.is_new("/test", str(number))
            m.note(f"s{chance.randrange(100)}", f"p{chance.randrange(200)}", chance.choice((1, 3, 5)), NOW + number, NOW + number)
        m.sweep()
        count = lambda sql: m.connection.execute(sql).fetchone()[0]
        self.assertLessEqual(count("SELECT count(*) FROM seen"), 25)
        self.assertLessEqual(count("SELECT count(*) FROM sessions"), 20)
        self.assertLessEqual(count("SELECT count(*) FROM products"), 30)
        self.assertLessEqual(count("SELECT max(n) FROM (SELECT count(*) AS n FROM interests GROUP BY session)"), 5)
        self.assertLessEqual(count("SELECT max(n) FROM (SELECT count(*) AS n FROM pairs GROUP BY product)"), 4)
        self.assertEqual(count("SELECT count(*) FROM interests WHERE session NOT IN (SELECT number FROM sessions)"), 0)

    def test_products_that_the_catalog_does_not_know_go_first(self):
        m = model(products=2, sweep_interval=1)
        m.learn(Product("known", 1, "lamps", 100))
        for number in range(10):
            m.note("s", f"unknown {number}", BOUGHT, NOW, NOW)
        left = {name for (name,) in m.connection.execute("SELECT id FROM products")}
        self.assertEqual(len(left), 2)
        self.assertIn("known", left)


if __name__ == "__main__":
    unittest.main()
