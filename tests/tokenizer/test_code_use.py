from __future__ import annotations

import logging

import numpy as np
import pytest

from recbole_sid.tokenizer.code_use import code_use, describe, warn_if_collapsed

CODES = np.array([[0, 0], [0, 0], [0, 1], [1, 2]], dtype=np.int32)


def test_code_use_by_hand():
    use = code_use(CODES, (4, 3))
    assert use["collision_rate"] == 0.5  # the first two of four items
    assert use["coverage"] == [0.5, 1.0]
    # Level 1 has shares 3/4 and 1/4, level 2 has 1/2, 1/4 and 1/4: exp(1.5 ln 2) = 2.8284.
    first = (4 / 3) ** 0.75 * 4**0.25
    assert use["perplexity"] == pytest.approx([first, 2**1.5])


def test_all_items_on_one_code_and_all_apart():
    same = code_use(np.zeros((5, 1), dtype=np.int32), (8,))
    assert (same["collision_rate"], same["coverage"], same["perplexity"]) == (1.0, [1 / 8], [1.0])
    apart = code_use(np.arange(5).reshape(5, 1), (5,))
    assert (apart["collision_rate"], apart["coverage"]) == (0.0, [1.0])
    assert apart["perplexity"] == pytest.approx([5.0])


def test_describe():
    text = describe(
        {"collision_rate": 0.0324, "coverage": [1.0, 0.981], "perplexity": [241.4, 9.6]}
    )
    assert text == "collisions 3.2 %, codes used 100/98 %, perplexity 241/10"


def test_collapse_warning_names_level_bound_and_remedy(caplog):
    use = {"collision_rate": 0.0, "coverage": [1.0, 1.0], "perplexity": [10.0, 9.9]}
    with caplog.at_level(logging.WARNING, "recbole_sid"):
        warn_if_collapsed(use, (100, 100), 1000, 0.1, "do this")
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert "LEVEL 2 HAS COLLAPSED" in message
    assert "9.9 of 100" in message
    assert "10.0" in message
    assert message.endswith("do this")


def test_small_catalogues_are_measured_by_their_items(caplog):
    use = {"collision_rate": 0.0, "coverage": [0.2], "perplexity": [20.0]}
    with caplog.at_level(logging.WARNING, "recbole_sid"):
        warn_if_collapsed(use, (1000,), 20, 0.5, "do this")
    assert not caplog.records
