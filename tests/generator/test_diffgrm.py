import itertools
import math

import numpy as np
import pytest
import torch

from recbole_sid.errors import InputError
from recbole_sid.generator import diffgrm as module
from recbole_sid.generator.availability import Availability
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.generator.diffgrm import DiffGRM, DiffGRMSettings
from recbole_sid.model.exclusion import distinct_items
from recbole_sid.model.ranking import rank_histories
from recbole_sid.sid.table import SemanticIDs
from tests.generator.catalogues import random_table, table
from tests.generator.contracts import HISTORY, LENGTHS, USERS, packed_is_prefix_training

SIDS = random_table(np.random.default_rng(4), 25, (4, 5, 3), "dedup")
PLAIN = random_table(np.random.default_rng(4), 25, (4, 5, 3), "none")
BATCH = (USERS, HISTORY, LENGTHS)


def settings(**changes: object) -> DiffGRMSettings:
    values: dict[str, object] = {
        "noising": "guided",
        "views": None,
        "pool": "tokens",
        "decoder_start": "learned",
        "softmax": "legal",
        "window_stride": 1,
        "window_targets": None,
        "beam_size": 10,
        "hidden_size": 16,
        "inner_size": 32,
        "n_heads": 2,
        "head_size": 8,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "embedding_init": 3.0,
        "position_init": 1.0,
        "label_smoothing": 0.0,
    }
    return DiffGRMSettings(**(values | changes))  # type: ignore[arg-type]


def diffgrm(sids: SemanticIDs, window: int = 6, **changes: object) -> DiffGRM:
    """A small DiffGRM in evaluation mode with random weights."""
    torch.manual_seed(0)
    return DiffGRM(settings(**changes), Catalogue(sids), window, torch.arange(50) * 7).eval()


def log_probs(model: DiffGRM, row: int, shown: list[int], softmax: str = "digit") -> torch.Tensor:
    """Of all codes, (n_codes,), for one user of the batch who sees the tokens ``shown``; -inf of
    those that are not legal, with ``softmax`` legal."""
    length = int(LENGTHS[row])
    memory = model._history(HISTORY[row : row + 1, :length], LENGTHS[row : row + 1])
    logits = torch.cat(model._all_logits(memory, torch.tensor([[shown]])), dim=-1)[0, 0]
    if softmax == "legal":
        tokens = model.catalogue.tokens[1:].tolist()
        fits = [row for row in tokens if all(s in (0, t) for s, t in zip(shown, row, strict=True))]
        legal = torch.tensor(sorted({token for row in fits for token in row})) - 1
        logits = torch.full_like(logits, -torch.inf).index_copy(0, legal, logits[legal])
    return torch.cat([torch.log_softmax(one, 0) for one in logits.split(model.catalogue.sizes)])


def of_orders(model: DiffGRM, row: int, item: int) -> dict[tuple[int, ...], float]:
    """The log-probability of an item's digits in every order, one network call a step."""
    tokens = model.catalogue.tokens[item].tolist()
    digits = range(len(tokens))
    subsets = itertools.chain.from_iterable(itertools.combinations(digits, n) for n in digits)
    steps = {
        filled: log_probs(
            model, row, [tokens[d] if d in filled else 0 for d in digits], model.settings.softmax
        )
        for filled in subsets
    }
    return {
        order: sum(
            steps[tuple(sorted(order[:step]))][tokens[digit] - 1].item()
            for step, digit in enumerate(order)
        )
        for order in itertools.permutations(digits)
    }


@pytest.mark.parametrize("collision", ["none", "dedup"])
@pytest.mark.parametrize(
    ("views", "pool", "decoder_start", "together"),
    [(None, "tokens", "learned", None), (2, "views", "history", 2), (None, "views", "history", 1)],
)
def test_packed_and_prefix_training_have_the_same_loss_and_gradients(
    collision, views, pool, decoder_start, together
):
    sids = random_table(np.random.default_rng(1), 25, (4, 5, 3), collision)
    model = diffgrm(sids, views=views, pool=pool, decoder_start=decoder_start)
    packed_is_prefix_training(model, together)


def test_positions_without_a_target_carry_no_loss():
    model = diffgrm(SIDS)
    history, places = torch.tensor([[3, 7, 1, 2]]), torch.tensor([[3, 0, 2]])
    loss = model.packed_loss(USERS[:1], history, places, torch.tensor([[9, 0, 4]]))
    parts = [
        model.prefix_loss(USERS[:1], history, torch.tensor([n]), torch.tensor([target]))
        for n, target in [(3, 4), (4, 9)]
    ]
    assert loss.item() == pytest.approx(torch.stack(parts).mean().item(), abs=1e-5)


@pytest.mark.parametrize(
    ("pool", "views", "expected"),
    [
        # A uniform model is less sure of a digit the more codes it has: 5, then 4, then 3. With
        # three views the digit of 5 is masked three times, that of 4 twice, that of 3 once.
        ("tokens", None, (3 * math.log(5) + 2 * math.log(4) + math.log(3)) / 6),
        ("views", None, (math.log(5) + math.log(20) / 2 + math.log(60) / 3) / 3),
        ("tokens", 2, (2 * math.log(5) + 2 * math.log(4) + math.log(3)) / 5),
        ("views", 2, (math.log(20) / 2 + math.log(60) / 3) / 2),
        ("tokens", 1, math.log(60) / 3),
    ],
)
def test_the_loss_of_a_uniform_model(pool, views, expected):
    model = diffgrm(PLAIN, pool=pool, views=views)
    torch.nn.init.zeros_(model.token_embedding.weight)
    loss = model.prefix_loss(*BATCH, torch.tensor([2, 4, 6]))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_the_loss_is_the_smoothed_cross_entropy_of_the_digits_that_are_masked():
    model = diffgrm(PLAIN, label_smoothing=0.2)
    item, digits = 7, [slice(0, 4), slice(4, 9), slice(9, 12)]
    tokens = model.catalogue.tokens[item].tolist()
    everything_masked = log_probs(model, 0, [0, 0, 0])
    confidence = [everything_masked[digit].max().item() for digit in digits]
    order = sorted(range(3), key=lambda digit: confidence[digit])
    losses = []
    for n_masked in (1, 2, 3):
        masked = order[:n_masked]
        shown = [0 if digit in masked else token for digit, token in enumerate(tokens)]
        predicted = log_probs(model, 0, shown)
        losses += [
            -0.8 * predicted[tokens[digit] - 1].item()
            - 0.2 * predicted[digits[digit]].mean().item()
            for digit in masked
        ]
    loss = model.prefix_loss(USERS[:1], HISTORY[:1], LENGTHS[:1], torch.tensor([item]))
    assert loss.item() == pytest.approx(sum(losses) / 6, abs=1e-5)


def test_confidence_is_measured_without_dropout():
    model = diffgrm(PLAIN, dropout=0.5).train()
    memory = model._history(HISTORY, LENGTHS)
    tokens = model.catalogue.tokens[torch.tensor([[2], [4], [6]])]
    orders = [model._order(memory, tokens).tolist() for _ in range(5)]
    assert all(order == orders[0] for order in orders)
    assert all(part.training for part in model.modules())


def test_random_noising_follows_the_seed():
    model = diffgrm(PLAIN, noising="random", views=2)
    losses = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        losses.append(model.prefix_loss(*BATCH, torch.tensor([2, 4, 6])).item())
    assert losses[0] == losses[2] != losses[1]


@pytest.mark.parametrize("decoder_start", ["learned", "history"])
@pytest.mark.parametrize("softmax", ["legal", "digit"])
@pytest.mark.parametrize("sids", [SIDS, PLAIN])
def test_an_items_score_is_that_of_its_best_order(sids, softmax, decoder_start):
    model = diffgrm(sids, decoder_start=decoder_start, softmax=softmax)
    items = torch.tensor([[1, 9], [25, 3], [4, 4]])
    with torch.no_grad():
        scores = model.log_likelihood(*BATCH, items)
        for row, column in itertools.product(range(3), range(2)):
            best = max(of_orders(model, row, int(items[row, column])).values())
            assert scores[row, column].item() == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("softmax", ["legal", "digit"])
def test_with_too_many_digits_the_best_orders_are_searched_for(softmax, monkeypatch):
    monkeypatch.setattr(module, "_ORDERS_KEPT", 1)
    model = diffgrm(SIDS, softmax=softmax)
    tokens = model.catalogue.tokens[9].tolist()
    with torch.no_grad():
        greedy, shown = 0.0, [0] * len(tokens)
        while 0 in shown:
            predicted = log_probs(model, 0, shown, softmax)
            open_digits = [digit for digit, token in enumerate(shown) if not token]
            surest = max(open_digits, key=lambda digit: predicted[tokens[digit] - 1].item())
            greedy += predicted[tokens[surest] - 1].item()
            shown[surest] = tokens[surest]
        scores = model.log_likelihood(*BATCH, torch.full((3, 1), 9))
    assert scores[0, 0].item() == pytest.approx(greedy, abs=1e-4)


@pytest.mark.parametrize("softmax", ["legal", "digit"])
@pytest.mark.parametrize("sids", [SIDS, PLAIN])
def test_a_wide_beam_ranks_all_items_by_their_scores_and_a_narrow_one_never_above(sids, softmax):
    model = diffgrm(sids, decoder_start="history", softmax=softmax)
    n = sids.n_items
    with torch.no_grad():
        exact = model.log_likelihood(*BATCH, torch.arange(1, n + 1).expand(3, n))
        wide = model.rank(*BATCH, n, 1000)
        narrow = model.rank(*BATCH, 5, 5)
    assert wide.scores.dtype == torch.float32
    for user in range(3):
        order = np.lexsort([np.arange(n), -exact[user].numpy().round(4)])
        assert wide.items[user].tolist() == (order + 1).tolist()
        torch.testing.assert_close(wide.scores[user], exact[user, order], atol=1e-4, rtol=1e-4)
        assert (narrow.scores[user] <= exact[user, narrow.items[user] - 1] + 1e-4).all()
        codes = [tuple(codes) for codes in sids.codes.tolist()]
        sizes = [codes.count(codes[item - 1]) for item in wide.items[user].tolist()]
        assert wide.group_sizes[user].tolist() == sizes


def test_a_list_is_full_even_where_many_states_become_one_sid():
    model = diffgrm(SIDS)
    found = 0
    with torch.no_grad():
        for width in (1, 2, 6, 25, 40):
            ranked = model.rank(*BATCH, width, width)
            held = ranked.items > 0
            assert held.sum(dim=1).tolist() == [min(width, 25)] * 3
            assert all(len(set(row.tolist())) == width for row in ranked.items if width <= 25)
            assert (ranked.scores[:, 1:] <= ranked.scores[:, :-1]).all()
            found += int(held.sum())
    assert found == 3 * (1 + 2 + 6 + 25 + 25)


def test_users_and_candidates_are_searched_for_in_parts(monkeypatch):
    model = diffgrm(SIDS)
    items = torch.tensor([[1, 9, 4], [25, 3, 8], [4, 4, 2]])
    with torch.no_grad():
        ranked, scores = model.rank(*BATCH, 8, 8), model.log_likelihood(*BATCH, items)
        monkeypatch.setattr(module, "_NUMBERS_AT_ONCE", 1)
        parts, part_scores = model.rank(*BATCH, 8, 8), model.log_likelihood(*BATCH, items)
    assert parts.items.tolist() == ranked.items.tolist()
    torch.testing.assert_close(parts.scores, ranked.scores, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(part_scores, scores, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("at_times", [False, True])
@pytest.mark.parametrize("sids", [SIDS, PLAIN])
def test_lists_hold_what_is_available_and_not_excluded(sids, at_times):
    model = diffgrm(sids)
    rng = np.random.default_rng(0)
    allowed = torch.from_numpy(rng.random(26) < 0.7)
    since = torch.from_numpy(rng.integers(0, 3, 26).astype(float))
    times = torch.tensor([0.0, 1.0, 2.0])
    available = Availability(model.catalogue, allowed, since=since).at(times if at_times else None)
    excluded = distinct_items(HISTORY)
    with torch.no_grad():
        everything = model.rank(*BATCH, 25, 1000)
        ranked = rank_histories(model, *BATCH, 10, 10, excluded, available)
    for user in range(3):
        may = {
            item
            for item in range(1, 26)
            if allowed[item]
            and not (at_times and since[item] > times[user])
            and item not in HISTORY[user].tolist()
        }
        items = [item for item in ranked.items[user].tolist() if item]
        assert len(items) == min(10, len(may))
        assert set(items) <= may
        score = dict(
            zip(everything.items[user].tolist(), everything.scores[user].tolist(), strict=True)
        )
        for item, value, size in zip(
            items, ranked.scores[user].tolist(), ranked.group_sizes[user].tolist(), strict=False
        ):
            assert value <= score[item] + 1e-4
            same = (sids.codes == sids.codes[item - 1]).all(axis=1).nonzero()[0] + 1
            assert size == len(may & set(same.tolist()))


def test_padding_and_the_rest_of_the_batch_change_nothing():
    model = diffgrm(SIDS, decoder_start="history")
    items = torch.tensor([[1, 2]] * 3)
    together = model.log_likelihood(*BATCH, items)
    for row in range(3):
        some = slice(row, row + 1)
        alone = model.log_likelihood(
            USERS[some], HISTORY[some, : LENGTHS[row]], LENGTHS[some], items[:1]
        )
        torch.testing.assert_close(together[some], alone, atol=1e-5, rtol=1e-5)


def test_a_digit_is_read_by_the_others_on_either_side():
    model = diffgrm(PLAIN)
    none = log_probs(model, 0, [0, 0, 0])
    last, first = log_probs(model, 0, [0, 0, 10]), log_probs(model, 0, [1, 0, 0])
    assert (last[:4] - none[:4]).abs().max() > 1e-3
    assert (first[9:] - none[9:]).abs().max() > 1e-3


def test_digits_start_from_the_last_item_of_their_history_or_from_nothing():
    learned, history = (diffgrm(PLAIN, decoder_start=start) for start in ("learned", "history"))
    assert not learned._history(HISTORY, LENGTHS).start.any()
    start = history._history(HISTORY, LENGTHS).start
    for row, length in enumerate(LENGTHS.tolist()):
        last = history._encode(HISTORY[row : row + 1, :length])[0, -1]
        torch.testing.assert_close(start[row, 0], last, atol=1e-5, rtol=1e-5)
    difference = log_probs(history, 0, [0, 0, 0]) - log_probs(learned, 0, [0, 0, 0])
    assert difference.abs().max() > 1e-3


def test_one_item_and_one_digit():
    model = diffgrm(table([[1]], (2,)), window=2)
    batch = USERS[:1], torch.tensor([[1]]), torch.tensor([1])
    ranked = model.rank(*batch, 3, 4)
    assert ranked.items.tolist() == [[1, 0, 0]]
    expected = model.log_likelihood(*batch, torch.tensor([[1]]))
    torch.testing.assert_close(ranked.scores[:, :1], expected)
    assert torch.isfinite(model.prefix_loss(*batch, torch.tensor([1])))


def test_training_in_bf16_has_finite_gradients():
    model = diffgrm(SIDS).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.prefix_loss(*BATCH, torch.tensor([2, 4, 6]))
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("views", 0),
        ("decoder_layers", 0),
        ("beam_size", 0),
        ("window_targets", 0),
        ("dropout", 1.0),
        ("label_smoothing", 1.0),
        ("embedding_init", 0.0),
    ],
)
def test_settings_out_of_bounds_are_refused(key, value):
    with pytest.raises(InputError, match=f"'{key}' is"):
        settings(**{key: value})
