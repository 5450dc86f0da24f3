"""A data set by hand that the tests of a comparison share."""

import pytest

from tests.runs import write_data


@pytest.fixture
def made(tmp_path):
    """Settings of a data set by hand: ``u0`` has 3 interactions, the others 5."""
    orders = {"u0": "abc", "u1": "abcde", "u2": "bcdea", "u3": "fabcd"}
    given = [(user, item, n) for user, order in orders.items() for n, item in enumerate(order)]
    values = write_data(tmp_path / "data", given)
    more = {"topk": [2], "valid_metric": "NDCG@2", "dataset": "made"}
    return {**values, **more, "cache_dir": str(tmp_path / "cache"), "output": str(tmp_path / "out")}
