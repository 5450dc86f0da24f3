from __future__ import annotations

import logging

import numpy as np

from recbole_sid.tokenizer.base import Items
from recbole_sid.tokenizer.largest_groups import largest_groups


def test_the_larger_come_first_and_titles_go_before_ids(caplog):
    codes = np.array([[2, 7], [1, 1], [2, 7], [0, 5], [1, 1], [9, 9], [2, 7]] + [[2, 7]] * 4)
    tokens = tuple("abcdefghijk")
    titles = tuple("" if token == "c" else f"title {token}" for token in tokens)
    with caplog.at_level(logging.INFO, "recbole_sid"):
        groups = largest_groups(codes, Items(tokens, None, titles=titles))
    assert groups == [
        {"sid": [2, 7], "size": 7, "items": ["title a", "c", "title g", "title h", "title i"]},
        {"sid": [1, 1], "size": 2, "items": ["title b", "title e"]},
    ]
    assert [record.getMessage() for record in caplog.records] == [
        "7 items share the SID 2-7: 'title a', 'c', 'title g', 'title h', 'title i'",
        "2 items share the SID 1-1: 'title b', 'title e'",
    ]
    assert largest_groups(codes, Items(tokens, None))[1]["items"] == ["b", "e"]


def test_ten_at_most_and_none_without_collisions():
    codes = np.repeat(np.arange(12), 2).reshape(-1, 1)
    tokens = tuple(f"item{row:02}" for row in range(24))
    groups = largest_groups(codes, Items(tokens, None))
    assert [entry["sid"] for entry in groups] == [[code] for code in range(10)]
    assert largest_groups(codes[::2], Items(tokens[::2], None)) == []


def test_a_title_is_cut_after_100_characters():
    items = Items(("a", "b"), None, titles=("x" * 100, "y" * 101))
    (only,) = largest_groups(np.zeros((2, 3), dtype=int), items)
    assert only["items"] == ["x" * 100, "y" * 100 + "…"]
