# SPDX-License-Identifier: GPL-2.0
"""Tests of check.graph."""

import unittest

from check import graph


def parse(text):
    """Returns the graph of edges written as "ab bc": a to b, b to c."""
    found = {}
    for edge in text.split():
        found.setdefault(edge[0], set()).add(edge[1])
        found.setdefault(edge[1], set())
    return found


class Knots(unittest.TestCase):
    def test_a_tree_has_none(self):
        self.assertEqual(graph.knots(parse("ab ac bd cd")), [])

    def test_two_circles_that_touch_are_one(self):
        self.assertEqual(graph.knots(parse("ab ba bc cb cd")), [set("abc")])

    def test_two_circles_apart_are_two(self):
        found = graph.knots(parse("ab ba bc cd dc"))
        self.assertEqual(sorted(map(sorted, found)), [["a", "b"], ["c", "d"]])

    def test_a_long_chain_needs_no_recursion(self):
        chain = {number: {number + 1} for number in range(5000)}
        chain[5000] = {0}
        self.assertEqual(len(graph.knots(chain)[0]), 5001)


class Circle(unittest.TestCase):
    def test_is_the_shortest_one(self):
        found = parse("ab bc ca ad de ec cb")
        self.assertEqual(graph.circle(found, set("abcde")), ["b", "c", "b"])

    def test_follows_the_edges(self):
        self.assertEqual(graph.circle(parse("ab bc ca"), set("abc")), ["a", "b", "c", "a"])
