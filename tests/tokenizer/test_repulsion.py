from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_sid.errors import InputError
from recbole_sid.tokenizer.repulsion import (
    Repulsion,
    RepulsionSettings,
    describe_figures,
    hamming_repulsion,
    share,
    valid_pairs,
)

DEFAULTS = {
    "levels": 3,
    "codebook_size": 256,
    "repulsion": "hamr",
    "repulsion_margin_full": 0.8,
    "repulsion_margin_partial": 0.5,
    "repulsion_weight_full": 0.2,
    "repulsion_weight_partial": 0.1,
    "repulsion_radius": 1,
    "repulsion_masking": True,
    "repulsion_exempt_cosine": None,
    "repulsion_exempt_by": "content",
    "repulsion_severity": 1.0,
    "repulsion_schedule": [1.0, 1.0],
}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Blocks that a handful of samples fills more than once."""
    monkeypatch.setattr("recbole_sid.tokenizer.repulsion.BLOCK", 4)


def configured(**changes) -> RepulsionSettings:
    return RepulsionSettings(**{**DEFAULTS, **{f"repulsion_{k}": v for k, v in changes.items()}})


# Three triggers, items 0, 1, 2, then their targets, items 1, 3, 0. Items 0 and 1 are there twice.
# Samples 0 and 3 are a constructed positive (items 0 and 1) and share all codes.
#
#   sample  0     1     2     3     4     5
#   item    0     1     2     1     3     0
#   codes   123   123   124   123   123   123
#   angle   0°    60°   30°   60°   90°   0°
#
# All lengths differ: only directions count. D = 1 - cos(difference of the angles):
# 30°: 1 - √3/2 = 0.1339746,   60°: 0.5,   90°: 1.
ROWS = torch.tensor([0, 1, 2, 1, 3, 0])
CODES = torch.tensor([[1, 2, 3], [1, 2, 3], [1, 2, 4], [1, 2, 3], [1, 2, 3], [1, 2, 3]])
ANGLES = torch.deg2rad(torch.tensor([0.0, 60, 30, 60, 90, 0]))
LENGTHS = torch.tensor([1.0, 2, 3, 0.5, 4, 5])
LATENTS = LENGTHS.unsqueeze(1) * torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1)
D30 = 1 - math.sqrt(3) / 2


def numbers(terms) -> list[float]:
    return [float(value) for value in terms]


def test_valid_pairs_of_the_six():
    # Invalid: itself; 0-5 (item 0 twice); 1-3 (item 1 twice); the positives 0-3, 1-4 and 2-5.
    assert valid_pairs(ROWS, 3).int().tolist() == [
        [0, 1, 1, 0, 1, 0],
        [1, 0, 1, 0, 0, 1],
        [1, 1, 0, 1, 1, 0],
        [0, 0, 1, 0, 1, 1],
        [1, 0, 1, 1, 0, 1],
        [0, 1, 0, 1, 1, 0],
    ]


def test_rows_that_are_no_pairs_have_no_positives():
    valid = valid_pairs(ROWS, 0)
    assert valid[0, 3]
    assert valid[1, 4]
    assert valid[5, 2]
    assert not valid[0, 5]
    assert not valid.diagonal().any()


def test_terms_of_the_six():
    terms = hamming_repulsion(LATENTS, CODES, valid_pairs(ROWS, 3), configured())
    # H = 0 and valid, with max(0, 0.8 - D):
    #   0-1 60° 0.3     1-5 60° 0.3     3-5 60° 0.3
    #   0-4 90° 0       4-5 90° 0       3-4 30° 0.8 - 0.1339746 = 0.6660254
    # H = 0 and masked: 0-3, 0-5, 1-3, 1-4.
    # H = 1 and valid, with max(0, 0.5 - D):
    #   0-2 30° 0.3660254     1-2 30° 0.3660254     2-3 30° 0.3660254     2-4 60° 0
    # H = 1 and masked: 2-5.
    assert numbers(terms) == pytest.approx(
        [
            (3 * 0.3 + 0.8 - D30) / 6,  # 0.2610042
            3 * (0.5 - D30) / 4,  # 0.2745191
            6,
            4,
            4,
            1,
            0,
            (3 * 0.5 + 2 * 1 + D30) / 6,
            (3 * D30 + 0.5) / 4,
        ],
        abs=1e-6,
    )


def test_without_masking_all_but_the_diagonal_counts():
    terms = hamming_repulsion(LATENTS, CODES, None, configured())
    # Added to H = 0: 0-3 60° 0.3, 0-5 0° 0.8, 1-3 0° 0.8, 1-4 30° 0.6660254; to H = 1: 2-5 30°.
    full = 4 * 0.3 + 2 * 0.8 + 2 * (0.8 - D30)
    assert numbers(terms)[:7] == pytest.approx(
        [full / 10, 4 * (0.5 - D30) / 5, 10, 5, 0, 0, 0], abs=1e-6
    )


def test_the_radius_widens_the_partial_set():
    codes = CODES.clone()
    codes[2] = torch.tensor([9, 2, 4])  # H = 2 to all others
    valid = valid_pairs(ROWS, 3)
    near = hamming_repulsion(LATENTS, codes, valid, configured(radius=1))
    assert (float(near.partial), int(near.n_partial), int(near.masked_partial)) == (0, 0, 0)
    assert float(near.distance_partial) == 0
    wide = hamming_repulsion(LATENTS, codes, valid, configured(radius=2))
    assert float(wide.partial) == pytest.approx(3 * (0.5 - D30) / 4, abs=1e-6)
    none = hamming_repulsion(LATENTS, CODES, valid, configured(radius=0))
    assert int(none.n_partial) == 0
    assert int(none.n_full) == 6


def test_margins_are_settings():
    changed = configured(margin_full=1.2, margin_partial=0.1)
    terms = hamming_repulsion(LATENTS, CODES, valid_pairs(ROWS, 3), changed)
    # Full: 3 x (1.2 - 0.5) + 2 x (1.2 - 1) + 1.2 - 0.1339746; partial: 0.1 - 0.1339746 < 0.
    assert float(terms.full) == pytest.approx((2.1 + 0.4 + 1.2 - D30) / 6, abs=1e-6)
    assert float(terms.partial) == 0


def test_the_gradient_goes_through_the_distance_alone():
    latents = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(3) / 2], [0.0, 1.0]], requires_grad=True)
    codes = torch.tensor([[1, 2, 3], [1, 2, 3], [4, 5, 6]])
    hamming_repulsion(latents, codes, None, configured()).full.backward()
    # The loss is 0.8 - 1 + e_0·e_1. For unit vectors its gradient at z_0 is e_1 without its part
    # along e_0: (0.5, 0.866) - 0.5 (1, 0) = (0, 0.866); at z_1: (1, 0) - 0.5 (0.5, 0.866).
    assert latents.grad is not None
    expected = [[0.0, 0.8660254], [0.75, -0.4330127], [0.0, 0.0]]
    assert torch.allclose(latents.grad, torch.tensor(expected), atol=1e-6)


def test_beyond_the_margin_nothing_pulls():
    latents = LATENTS[[0, 4]].clone().requires_grad_()
    terms = hamming_repulsion(latents, CODES[[0, 4]], None, configured())
    terms.full.backward()
    assert int(terms.n_full) == 1
    assert latents.grad is not None
    assert not latents.grad.any()


def test_items_alike_are_exempt_by_content_or_by_latent():
    thresholds = [0.0, 0.4, 0.6]  # for 1, 2, 3 equal codes
    valid = valid_pairs(ROWS, 3)
    by_latent = hamming_repulsion(
        LATENTS, CODES, valid, configured(exempt_cosine=thresholds, exempt_by="latent")
    )
    # cos 30° = 0.87, 60° = 0.5, 90° = 0. Full, at least 0.6: 3-4. Partial, at least 0.4: all four.
    assert numbers(by_latent)[:7] == pytest.approx([0.9 / 5, 0, 5, 0, 4, 1, 5], abs=1e-6)
    # Content: all at right angles but samples 0 and 1, and 2 and 4.
    content = torch.eye(6)
    content[1], content[4] = content[0], content[2]
    by_content = hamming_repulsion(
        LATENTS, CODES, valid, configured(exempt_cosine=thresholds), content
    )
    # Full without 0-1: 0.6 + 0.6660254 over five; partial without 2-4: three of 0.3660254.
    assert numbers(by_content)[:7] == pytest.approx(
        [(0.6 + 0.8 - D30) / 5, 0.5 - D30, 5, 3, 4, 1, 2], abs=1e-6
    )


def test_content_is_needed_to_exempt_by_it():
    spared = Repulsion(configured(exempt_cosine=[0.1, 0.2, 0.3]))
    with pytest.raises(InputError, match="choose 'latent'"):
        spared(LATENTS, CODES, ROWS)
    assert spared(LATENTS, CODES, ROWS, content=torch.eye(6))


def test_severity_weighs_a_pair_by_the_share_of_its_pattern():
    # Ten conflicts: six with all codes equal, four with the first two.
    terms = hamming_repulsion(LATENTS, CODES, valid_pairs(ROWS, 3), configured(severity=3.0))
    assert float(terms.full) == pytest.approx((1 + 2 * 0.6) * (1.7 - D30) / 6, abs=1e-6)
    assert float(terms.partial) == pytest.approx((1 + 2 * 0.4) * 3 * (0.5 - D30) / 4, abs=1e-6)


def brute_force(latents: Tensor, codes, valid, settings: RepulsionSettings) -> list[float]:
    """All pairs in both orders, one by one, as in the paper."""
    n_levels = len(codes[0])
    losses: dict[str, list[float]] = {"full": [], "partial": []}
    distances: dict[str, list[float]] = {"full": [], "partial": []}
    patterns = []
    found = []
    for i in range(len(codes)):
        for j in range(len(codes)):
            equal = tuple(a == b for a, b in zip(codes[i], codes[j], strict=True))
            differ = n_levels - sum(equal)
            if i == j or not valid[i][j] or differ > settings.repulsion_radius:
                continue
            cosine = torch.cosine_similarity(latents[i], latents[j], dim=0).item()
            found.append((equal, differ, 1 - cosine))
            patterns.append(equal)
    count = Counter(patterns)
    for equal, differ, distance in found:
        kind = "partial" if differ else "full"
        margin = settings.repulsion_margin_partial if differ else settings.repulsion_margin_full
        weight = 1 + (settings.repulsion_severity - 1) * count[equal] / len(found)
        losses[kind].append(weight * max(0.0, margin - distance))
        distances[kind].append(distance)

    def mean(values: list[float]) -> float:
        return sum(values) / max(len(values), 1)

    return [
        mean(losses["full"]),
        mean(losses["partial"]),
        len(losses["full"]) / 2,
        len(losses["partial"]) / 2,
        mean(distances["full"]),
        mean(distances["partial"]),
    ]


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_same_as_all_pairs_one_by_one(data):
    b = data.draw(st.integers(1, 6))
    n_levels = data.draw(st.integers(1, 4))
    dim = data.draw(st.integers(1, 9))
    row = st.integers(0, 4)
    code = st.lists(st.integers(0, 2), min_size=n_levels, max_size=n_levels)
    rows = torch.tensor(data.draw(st.lists(row, min_size=2 * b, max_size=2 * b)))
    codes = data.draw(st.lists(code, min_size=2 * b, max_size=2 * b))
    options = RepulsionSettings(
        **{
            **DEFAULTS,
            "levels": n_levels,
            "repulsion_radius": data.draw(st.integers(0, n_levels - 1)),
            "repulsion_severity": data.draw(st.sampled_from([1.0, 3.0])),
        }
    )
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    latents = torch.randn(2 * b, dim, generator=generator)
    n_pairs = data.draw(st.sampled_from([0, b]))
    valid = [
        [bool(rows[i] != rows[j]) and not (n_pairs and abs(i - j) == b) for j in range(2 * b)]
        for i in range(2 * b)
    ]
    terms = hamming_repulsion(latents, torch.tensor(codes), valid_pairs(rows, n_pairs), options)
    ours = [float(terms[place]) for place in (0, 1, 2, 3, 7, 8)]
    assert ours == pytest.approx(brute_force(latents, codes, valid, options), abs=1e-5)


def test_many_close_pairs_give_the_same_value_and_gradient_as_few():
    # 40 samples with one SID have 780 pairs, and 2 x 780 x 3 > 40 x 40: all cosines at once.
    torch.manual_seed(0)
    latents = torch.randn(40, 3, requires_grad=True)
    codes = torch.ones(40, 3, dtype=torch.int64)
    terms = hamming_repulsion(latents, codes, None, configured())
    assert int(terms.n_full) == 780
    (ours,) = torch.autograd.grad(terms.full, latents)
    cosine = torch.cosine_similarity(latents.unsqueeze(0), latents.unsqueeze(1), dim=2)
    upper = torch.ones(40, 40, dtype=torch.bool).triu(1)
    expected = (cosine - 0.2).clamp(min=0)[upper].mean()
    (theirs,) = torch.autograd.grad(expected, latents)
    assert float(terms.full.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_the_line_for_a_tokenizer_weighs_the_terms_and_counts():
    repulsion = Repulsion(configured())
    for _ in range(2):
        terms = repulsion(LATENTS, CODES, ROWS, n_pairs=3)
    assert float(terms["repulsion_full"]) == pytest.approx(0.2 * (1.7 - D30) / 6, abs=1e-6)
    assert float(terms["repulsion_partial"]) == pytest.approx(0.3 * (0.5 - D30) / 4, abs=1e-6)
    figures = repulsion.figures()
    assert figures == {
        "pairs_full": 12,
        "pairs_partial": 8,
        "masked_full": 8,
        "masked_partial": 2,
        "exempt": 0,
        "distance_full": pytest.approx((3.5 + D30) / 6, abs=1e-6),
        "distance_partial": pytest.approx((3 * D30 + 0.5) / 4, abs=1e-6),
    }
    assert describe_figures(figures) == (
        "pairs full 12 + 8 masked at D 0.61, partial 8 + 2 masked at D 0.23"
    )
    repulsion.begin_epoch(2, 3)
    assert repulsion.figures() == {}


def test_masking_is_a_setting():
    unmasked = Repulsion(configured(masking=False))
    unmasked(LATENTS, CODES, ROWS, n_pairs=3)
    assert unmasked.figures()["pairs_full"] == 10
    # Plain batches, without pairs: the positives 0-3, 1-4 and 2-5 are conflicts.
    plain = Repulsion(configured())
    plain(LATENTS, CODES, ROWS)
    assert plain.figures()["pairs_full"] == 8
    assert plain.figures()["pairs_partial"] == 5


def test_none_adds_nothing():
    # One level leaves no room for the default radius; without repulsion that does not matter.
    repulsion = Repulsion(RepulsionSettings(**{**DEFAULTS, "repulsion": "none", "levels": 1}))
    assert repulsion(LATENTS, CODES, ROWS) == {}
    assert repulsion.figures() == {}


def test_an_epoch_without_conflicts():
    repulsion = Repulsion(configured())
    terms = repulsion(LATENTS[:1].clone().requires_grad_(), CODES[:1], ROWS[:1])
    assert [float(term.detach()) for term in terms.values()] == [0, 0]
    sum(terms.values()).backward()
    figures = repulsion.figures()
    assert figures["distance_full"] is None
    assert describe_figures({**figures, "exempt": 4}) == (
        "pairs full 0 + 0 masked, partial 0 + 0 masked, 4 exempt"
    )


def test_schedules_are_linear_from_the_first_epoch_to_the_last():
    assert [share([1.0, 0.2], epoch, 5) for epoch in range(1, 6)] == pytest.approx(
        [1.0, 0.8, 0.6, 0.4, 0.2]
    )
    assert share([0.5, 1.0], 1, 1) == 0.5
    repulsion = Repulsion(configured(schedule=[1.0, 0.5]))
    repulsion.begin_epoch(3, 3)
    halved = repulsion(LATENTS, CODES, ROWS, 3)
    assert float(halved["repulsion_full"]) == pytest.approx(0.1 * (1.7 - D30) / 6, abs=1e-6)
    assert float(halved["repulsion_partial"]) == pytest.approx(0.15 * (0.5 - D30) / 4, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("margin_partial", -0.1),
        ("margin_full", 0.4),  # below the partial margin
        ("margin_full", 2.1),
        ("weight_full", -1.0),
        ("weight_partial", -1.0),
        ("radius", 3),
        ("radius", -1),
        ("exempt_cosine", [0.1, 0.2]),
        ("exempt_cosine", [0.1, 0.2, 1.5]),
        ("severity", 0.5),
        ("schedule", [1.0]),
        ("schedule", [1.0, -0.5]),
    ],
)
def test_bounds(name, value):
    with pytest.raises(InputError, match=f"tokenizer_repulsion_{name}"):
        configured(**{name: value})
