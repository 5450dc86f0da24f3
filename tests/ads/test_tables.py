"""The retrieval of near-duplicates in the benchmark's tables, by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from recbole_sid.errors import InputError

PRODUCTS = np.array([0, 0, 1, 2, 2])


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "ads_tables.py"
    spec = importlib.util.spec_from_file_location("ads_tables", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_queries_find_another_ad_of_their_product(tables: ModuleType) -> None:
    queries, positives = tables.near_duplicates(PRODUCTS, 10, np.random.default_rng(0))
    assert queries.tolist() == [0, 1, 3, 4]
    assert positives.tolist() == [1, 0, 4, 3]
    few, _ = tables.near_duplicates(PRODUCTS, 2, np.random.default_rng(0))
    assert len(few) == 2
    with pytest.raises(InputError, match="no product of these ads has two"):
        tables.near_duplicates(np.arange(3), 10, np.random.default_rng(0))


def test_recall_by_codes_with_ties(tables: ModuleType) -> None:
    codes = np.array([[1, 1], [1, 2], [1, 3], [2, 1], [2, 1]])
    queries, positives = np.array([0, 3]), np.array([1, 4])
    # From ad 0, ads 1 and 2 share the first code, 3 and 4 the second: one tie with the positive, so
    # it is first in half of the orders. From ad 3, ad 4 is the only one with both codes.
    for count in (0, 3):
        found = tables.recall(tables.by_codes(codes), PRODUCTS, queries, positives, count, 2)
        assert found == {1: 0.75, 5: 1, 10: 1, 20: 1}


def test_recall_by_vectors(tables: ModuleType) -> None:
    vectors = np.array([[1, 0], [1, 1], [1, 0.1], [0, 1], [0.1, 1]], np.float32)
    queries, positives = np.array([0, 3]), np.array([1, 4])
    found = tables.recall(tables.by_vectors(vectors), PRODUCTS, queries, positives, 0, 2)
    assert found == {1: 0.5, 5: 1, 10: 1, 20: 1}  # ad 2 is nearer to ad 0 than ad 1
    with pytest.raises(InputError, match="--negatives is 9, but only 3 ads"):
        tables.recall(tables.by_vectors(vectors), PRODUCTS, queries, positives, 9, 2)
