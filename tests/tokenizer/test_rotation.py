from __future__ import annotations

import numpy as np
import pytest

from recbole_sid.tokenizer.rotation import optimised_rotation


def test_codes_that_lie_askew_are_turned_upright():
    # Four centres on a square that stands on its corner: along the axes, two codes a dimension
    # cannot tell them all apart; after an eighth of a turn they can.
    centres = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
    noise = 0.05 * np.random.RandomState(1).randn(80, 2).astype(np.float32)
    points = np.repeat(centres, 20, axis=0) + noise
    # Some starts end in a local optimum.
    found, errors = min(
        (
            optimised_rotation(points, [2, 2], 40, np.random.RandomState(seed), progress=False)
            for seed in range(5)
        ),
        key=lambda result: result[1][-1],
    )
    assert found @ found.T == pytest.approx(np.eye(2), abs=1e-5)
    assert np.abs(found) == pytest.approx(np.full((2, 2), 0.5**0.5), abs=0.05)
    assert errors[0] > 10 * errors[-1]
    assert errors[-1] == pytest.approx(2 * 0.05**2, rel=0.3)


def test_the_error_never_grows():
    points = np.random.RandomState(0).randn(300, 8) @ np.random.RandomState(1).randn(8, 8)
    found, errors = optimised_rotation(
        points.astype(np.float32), [8, 5], 30, np.random.RandomState(0), progress=False
    )
    assert len(errors) == 30
    assert np.diff(errors).max() <= 1e-4 * errors[0]
    assert errors[-1] < 0.9 * errors[0]
    assert found.dtype == np.float32
