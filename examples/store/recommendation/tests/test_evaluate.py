"""Simulated shoppers: the same every time, and foreseen better by the model than by what is popular."""

import sys
import unittest

import context

sys.path.insert(0, str(context.FOLDER))

import evaluate  # noqa: E402
from shopper import Shoppers  # noqa: E402


class Evaluation(unittest.TestCase):
    def test_the_model_beats_popularity_clearly(self):
        rates = evaluate.evaluate(evaluate.made_up(30, 1), train=1500, held_out=150, seed=1)
        popular, category, alone, with_session = (rates[way] for way in evaluate.WAYS)
        self.assertGreater(alone, 1.5 * max(popular, category), rates)
        self.assertGreater(with_session, 1.5 * max(popular, category), rates)

    def test_a_shopper_is_the_same_every_time_and_does_what_can_be_done(self):
        products = evaluate.made_up(5, 1)
        one, other = Shoppers(products, 1), Shoppers(list(reversed(products)), 1)
        self.assertNotEqual(Shoppers(products, 2).session(0), one.session(0))
        for number in range(50):
            steps = one.session(number)
            self.assertEqual(steps, other.session(number))
            in_cart = []
            for place, step in enumerate(steps):
                self.assertTrue(step.does == "view" or steps[place - 1].product == step.product)
                if step.does == "remove":
                    self.assertIn(step.product, in_cart)
                in_cart += [step.product] if step.does == "add" else []

    def test_a_shop_of_one_product_or_of_unknown_categories_is_no_trouble(self):
        product = {"id": "only", "category": "hats", "price": 1, "attributes": {}}
        self.assertEqual([step.product for step in Shoppers([product], 1).session(0) if step.does == "view"], ["only"])


if __name__ == "__main__":
    unittest.main()
