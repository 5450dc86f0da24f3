from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from recbole_sid import settings
from recbole_sid.errors import InputError
from recbole_sid.resources import resource_dir
from recbole_sid.sid.collisions import apply_collision
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.tokenizer.base import Items, Tokenizer
from recbole_sid.tokenizer.blocks import BLOCK_ROWS
from recbole_sid.tokenizer.opq import OPQ, OPQSettings

YAML = resource_dir("properties") / "tokenizer" / "opq.yaml"
SMALL = {"levels": 4, "codebook_size": 8, "reduce_dim": 12, "rotation_steps": 10}


def tokenizer(seed: int = 0, **changes: Any) -> OPQ:
    values = yaml.safe_load(YAML.read_text(encoding="utf-8"))
    values |= {f"tokenizer_{name}": value for name, value in {**SMALL, **changes}.items()}
    built = settings.build(OPQSettings, values, "tokenizer_")
    return OPQ(built, seed=seed, device=torch.device("cpu"), progress=False)


def catalogue(n: int = 200, dim: int = 20) -> Items:
    rng = np.random.RandomState(0)
    mixing = rng.randn(dim, dim) * np.linspace(2, 0.1, dim)[:, None]
    vectors = 5 + rng.randn(n, dim) @ mixing
    return Items(tuple(f"item{row:04}" for row in range(n)), vectors.astype(np.float32))


def array(*rows: Any) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def test_two_independent_parts_by_hand():
    # 4 x 3 grid, one axis a principal component; every pair of codes stands for one point.
    points = array(*([100 * x, 7 * y] for x in range(4) for y in range(3)))
    items = Items(tuple("abcdefghijkl"), points)
    plain = {"whiten": False, "normalize": False, "rotation_steps": 0}
    fitted = tokenizer(levels=2, codebook_size=[4, 3], reduce_dim=None, **plain).fit(items)
    first, second = fitted.codes.reshape(4, 3, 2).transpose(2, 0, 1)
    assert (first == first[:, :1]).all()
    assert (second == second[:1]).all()
    assert sorted(first[:, 0]) == [0, 1, 2, 3]
    assert sorted(second[0]) == [0, 1, 2]
    assert fitted.report["error"] == pytest.approx(0, abs=1e-3)
    assert fitted.report["collision_rate"] == 0
    assert fitted.codes.dtype == np.int32


def test_new_items_by_hand():
    # The mean off, the axes changed: parts (y, x) of two dimensions, one a level.
    weights = {
        "projection": array([0, 1], [1, 0]),
        "mean": np.array([1, 2], np.float32),
        "codebook_1": array([-1], [1]),
        "codebook_2": array([-5], [0], [5]),
    }
    points = array([1, 4], [-3, 1], [6, 2.5])  # parts (2, 0), (-1, -4), (0.5, 5)
    learner = tokenizer(levels=2, codebook_size=[2, 3], reduce_dim=None, normalize=False)
    found = learner.assign(Items(("a", "b", "c"), points), weights)
    assert found.codes.tolist() == [[1, 1], [0, 0], [1, 2]]
    assert found.report["error"] == pytest.approx((1 + 0 + 0 + 1 + 0.25 + 0) / 3)
    assert found.space is not None
    rows = np.arange(3)
    # Squared distances of each part to each centroid.
    assert found.space.costs(0, rows, found.codes).tolist() == [[9, 1], [0, 4], [2.25, 0.25]]
    assert found.space.costs(1, rows, found.codes)[0].tolist() == [25, 0, 25]
    assert found.space.prefix_costs(rows, found.codes).tolist() == [1, 1, 0.25]


def test_the_space_is_what_the_codes_were_chosen_by():
    fitted = tokenizer().fit(catalogue())
    assert fitted.space is not None
    assert (fitted.space.residual, fitted.space.sizes) == (False, (8,) * 4)
    rows = np.arange(200)
    for level in range(4):
        costs = fitted.space.costs(level, rows, fitted.codes)
        assert costs.min() > -1e-3
        chosen = np.take_along_axis(costs, fitted.codes[:, level, None], axis=1)
        assert np.allclose(chosen[:, 0], costs.min(axis=1), atol=1e-4)
    paid = fitted.space.prefix_costs(rows, fitted.codes)
    assert paid.mean() == pytest.approx(fitted.report["error"], rel=1e-4)


def test_directions_by_hand():
    # Two items a direction, near and far; the mean is 0 and the axes are the components.
    points = array([1, 0], [12, 0], [-1, 0], [-12, 0], [0, 1], [0, 9], [0, -1], [0, -9])
    items = Items(tuple("abcdefgh"), 50 + points)
    options = {"reduce_dim": None, "whiten": False, "rotation_steps": 0, "codebook_size": 3}
    fitted = tokenizer(levels=2, **options).fit(items)
    assert fitted.report["error"] == pytest.approx(0, abs=1e-6)
    first, second = fitted.codes[::2], fitted.codes[1::2]
    assert np.array_equal(first, second)
    assert len(np.unique(first, axis=0)) == 4
    # Where lengths are kept, the near ones of an axis have the code of the other axis' items.
    kept = tokenizer(levels=2, normalize=False, **options).fit(items)
    assert kept.report["error"] == pytest.approx(2 * (1 + 1) / 8, abs=1e-4)


def test_new_items_directions_by_hand():
    weights = {
        "projection": array([0, 1], [1, 0]),
        "mean": np.array([1, 2], np.float32),
        "shortest": np.array([0.5], np.float32),
        "codebook_1": array([-1], [0], [0.8]),
        "codebook_2": array([0.6], [0], [1]),
    }
    # Parts (y, x) off the mean: (4, 3), (0, 10), (-2, 0), and what is nearer than 0.5: (0.25, 0).
    points = array([4, 6], [11, 2], [1, 0], [1, 2.25], [1, 2])
    learner = tokenizer(levels=2, codebook_size=3, reduce_dim=None)
    found = learner.assign(Items(tuple("abcde"), points), weights)
    assert found.codes.tolist() == [[2, 0], [1, 2], [0, 1], [2, 1], [1, 1]]
    assert found.report["error"] == pytest.approx((0.8 - 0.5) ** 2 / 5, abs=1e-6)
    assert found.space is not None
    costs = found.space.costs(0, np.arange(5), found.codes)
    assert costs[0] == pytest.approx([1.8**2, 0.8**2, 0], abs=1e-6)
    assert costs[3] == pytest.approx([1.5**2, 0.5**2, 0.3**2], abs=1e-6)


@pytest.mark.parametrize("whiten", [True, False])
@pytest.mark.parametrize("steps", [0, 3])
def test_directions_have_length_one_whatever_the_scale(whiten, steps):
    items = catalogue()
    assert items.vectors is not None
    learner = tokenizer(whiten=whiten, rotation_steps=steps)
    fitted = learner.fit(items)
    assert fitted.space is not None
    parts = fitted.space.latents[..., :-2] / 2
    assert np.square(parts).sum(axis=(1, 2)) == pytest.approx(np.ones(200), abs=1e-5)
    assert fitted.weights is not None
    mean = fitted.weights["mean"]
    further = Items(items.tokens, mean + 3 * (items.vectors - mean))
    assert (learner.assign(further, fitted.weights).codes == fitted.codes).mean() > 0.99


def test_what_is_at_the_mean_but_for_rounding_has_no_direction():
    items = catalogue(300)
    fitted = tokenizer().fit(items)
    assert fitted.weights is not None
    mean = fitted.weights["mean"]
    near = Items(("a", "b", "c"), np.stack([mean, np.nextafter(mean, 9), np.nextafter(mean, -9)]))
    found = tokenizer().assign(near, fitted.weights)
    assert (found.codes == found.codes[0]).all()


@pytest.mark.parametrize("rule", ["reassign_last", "nearest_free", "dedup"])
def test_collision_rules_make_its_codes_unique(rule):
    items = catalogue()
    fitted = tokenizer(levels=3, codebook_size=8).fit(items)
    assert fitted.report["collision_rate"] > 0
    base = SemanticIDs(items.tokens, fitted.codes, fitted.sizes, "none", {})
    sids = apply_collision(base, rule, fitted.space)
    assert len(np.unique(sids.codes, axis=0)) == 200


def test_the_rotation_lowers_the_error_where_nothing_is_whitened():
    items = catalogue(400)
    options = {"whiten": False, "normalize": False, "codebook_size": 16}
    without = tokenizer(rotation_steps=0, **options).fit(items).report
    learned = tokenizer(rotation_steps=40, **options).fit(items).report
    assert without["rotation"] == []
    assert len(learned["rotation"]) == 40
    assert learned["error"] < without["error"]
    # The codes are those of the rotation that was learned, not of any other.
    assert learned["error"] < 1.05 * learned["rotation"][-1]
    assert (
        learned["error"] < 0.9 * tokenizer(rotation_steps=1, **options).fit(items).report["error"]
    )


def test_whitened_components_vary_alike():
    items = catalogue()
    fitted = tokenizer(rotation_steps=3).fit(items)
    assert fitted.weights is not None
    assert items.vectors is not None
    points = (items.vectors - fitted.weights["mean"]) @ fitted.weights["projection"].T
    assert points.T @ points / 200 == pytest.approx(np.eye(12), abs=1e-3)


def test_without_whitening_distances_stay():
    items = catalogue()
    fitted = tokenizer(rotation_steps=3, whiten=False, reduce_dim=None).fit(items)
    assert fitted.weights is not None
    projection = fitted.weights["projection"]
    assert projection @ projection.T == pytest.approx(np.eye(20), abs=1e-4)


@pytest.mark.parametrize(("levels", "dim"), [(3, 10), (64, 20), (5, 2)])
def test_levels_need_not_divide_the_dimensions(levels, dim):
    items = catalogue(60, dim)
    learner = tokenizer(levels=levels, codebook_size=4, reduce_dim=None)
    fitted = learner.fit(items)
    assert fitted.codes.shape == (60, levels)
    assert fitted.weights is not None
    assert fitted.weights["projection"].shape == (dim + -dim % levels, dim)
    assert np.array_equal(learner.assign(items, fitted.weights).codes, fitted.codes)


def test_deterministic_whatever_the_order_of_rows_and_the_global_state():
    items = catalogue()
    np.random.seed(1)  # noqa: NPY002 (this state must not matter)
    first = tokenizer(seed=3).fit(items)
    order = np.random.RandomState(2).permutation(200)
    again = tokenizer(seed=3).fit(items.take(order.tolist()))
    assert np.array_equal(first.codes[order], again.codes)
    assert first.report == again.report
    assert first.space is not None
    assert again.space is not None
    assert np.array_equal(first.space.latents[order], again.space.latents)
    assert not np.array_equal(first.codes, tokenizer(seed=4).fit(items).codes)


def test_an_item_gets_its_code_in_any_company():
    items = catalogue(BLOCK_ROWS + 30)
    learner = tokenizer(reduce_dim=None)
    fitted = learner.fit(items)
    assert fitted.weights is not None
    for rows in ([5], list(range(1000, 1050)), [BLOCK_ROWS + 29, 0]):
        found = learner.assign(items.take(rows), fitted.weights)
        assert np.array_equal(found.codes, fitted.codes[rows])
        assert found.weights is None


@pytest.mark.parametrize("n_items", [2, 5])
def test_fewer_items_than_codes(n_items):
    items = catalogue(n_items)
    learner = tokenizer()
    fitted = learner.fit(items)
    assert fitted.codes.shape == (n_items, 4)
    assert fitted.space is not None
    assert fitted.space.sizes == (8,) * 4
    assert fitted.weights is not None
    assert np.array_equal(learner.assign(items, fitted.weights).codes, fitted.codes)


def test_equal_vectors_are_called_a_collapse(caplog):
    items = Items(tuple(f"i{row}" for row in range(40)), np.ones((40, 6), np.float32))
    with caplog.at_level(logging.WARNING, "recbole_sid"):
        fitted = tokenizer(collapse_below=0.3).fit(items)
    assert len(np.unique(fitted.codes, axis=0)) == 1
    assert any("LEVEL 1 HAS COLLAPSED" in record.getMessage() for record in caplog.records)


def test_only_a_sample_trains_the_rotation():
    items = catalogue()
    part, whole = tokenizer(rotation_sample=50).fit(items), tokenizer().fit(items)
    assert part.codes.shape == (200, 4)
    assert part.report["rotation"] != whole.report["rotation"]


def test_the_report_is_plain_data():
    report = tokenizer().fit(catalogue()).report
    assert json.loads(json.dumps(report)) == report
    assert report["error"] > 0


def test_weights_that_do_not_fit_are_refused():
    items = catalogue()
    weights = dict(tokenizer().fit(items).weights or {})
    with pytest.raises(InputError, match="20 dimensions, but the tokenizer was fitted on"):
        tokenizer().assign(items, weights | {"projection": np.zeros((12, 9), np.float32)})
    with pytest.raises(InputError, match="'codebook_2' has the shape"):
        tokenizer().assign(items, weights | {"codebook_2": np.zeros((8, 9), np.float32)})
    with pytest.raises(InputError, match="'codebook_5' is missing"):
        tokenizer(levels=6).assign(items, weights)
    with pytest.raises(InputError, match="'shortest' is not known"):
        tokenizer(normalize=False).assign(items, weights)
    with pytest.raises(InputError, match="'shortest' is missing"):
        tokenizer().assign(items, tokenizer(normalize=False).fit(items).weights or {})


def test_only_its_codes_are_parallel():
    assert OPQ.parallel
    assert not Tokenizer.parallel


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("levels", 65),
        ("rotation_steps", -1),
        ("rotation_sample", 0),
        ("restarts", 0),
        ("iterations", 0),
        ("minibatch_above", 0),
        ("whiten", 1),
        ("normalize", 1),
    ],
)
def test_bounds(name, value):
    with pytest.raises(InputError, match=f"tokenizer_{name}"):
        tokenizer(**{name: value})


def test_the_yaml_file_holds_each_setting_once():
    text = YAML.read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    assert sorted(values) == sorted(settings.keys(OPQSettings, "tokenizer_"))
    assert all(line.startswith("# ") or "# (" in line for line in text.splitlines())
    assert settings.build(OPQSettings, values, "tokenizer_").sizes == (256,) * 4
