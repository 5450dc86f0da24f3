import dataclasses

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_sid.compat import FixedCollector
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.evaluation import TopKCollector, WeightedEvaluator
from recbole_sid.model.exclusion import distinct_items
from recbole_sid.model.recommender import SIDRecommender, last_items
from recbole_sid.reading import read_data
from recbole_sid.seeds import stage_seed
from recbole_sid.sid.collisions import apply_collision
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.tokenizer.base import Items
from recbole_sid.tokenizer.random_codes import RandomCodes
from tests.runs import SMALL, write_data


def item_column(items: torch.Tensor) -> Interaction:
    return Interaction({"item_id": items})


@pytest.fixture(scope="module", params=["dedup", "none"])
def parts(request, cache):
    settings = {**SMALL, "cache_dir": cache, "collision": request.param, "user_tokens": 50}
    config = Config("TIGER", "ml-100k", config_dict=settings)
    data, loaders = read_data(config)
    torch.manual_seed(0)
    return config, data, loaders, SIDRecommender(config, loaders[0].dataset).eval()


def test_constructing_it_runs_stage_1(parts):
    config, data, _, model = parts
    raw = data.field2id_token["item_id"][1:].tolist()
    tokenizer = RandomCodes(
        config.tokenizer_settings,
        seed=stage_seed(config["seed"], "tokenizer"),
        device=torch.device("cpu"),
        progress=False,
    )
    fitted = tokenizer.fit(Items(tuple(sorted(raw)), None))
    base = SemanticIDs(tuple(sorted(raw)), fitted.codes, fitted.sizes, "none", {})
    expected = apply_collision(base, config["collision"]).aligned(tuple(raw))
    assert model.sids.fingerprint() == expected.fingerprint()
    # Internal id i is row i of the catalogue, and holds the codes of the raw token of i.
    assert torch.equal(model.generator.catalogue.codes[1:], torch.tensor(expected.codes.tolist()))
    assert expected.codes.any()


def test_given_sids_are_aligned_by_raw_token(parts):
    config, _, loaders, model = parts
    order = np.random.default_rng(0).permutation(model.sids.n_items)
    shuffled = dataclasses.replace(
        model.sids,
        tokens=tuple(model.sids.tokens[i] for i in order),
        codes=model.sids.codes[order],
    )
    other = SIDRecommender(config, loaders[0].dataset, shuffled)
    assert torch.equal(other.generator.catalogue.codes, model.generator.catalogue.codes)


def test_sids_of_another_dataset_are_refused(parts):
    config, _, loaders, _ = parts
    foreign = SemanticIDs(("x", "y"), np.array([[0], [1]], dtype=np.int32), (2,), "none", {})
    with pytest.raises(InputError, match="90 of the 90 items in the data have no SID"):
        SIDRecommender(config, loaders[0].dataset, foreign)


def test_predict_is_the_exact_log_likelihood(parts):
    _, _, loaders, model = parts
    interaction = next(iter(loaders[2]))[0]
    items = torch.arange(len(interaction)) % model.generator.catalogue.n_items + 1
    interaction.update(item_column(items))
    with torch.no_grad():
        scores = model.predict(interaction)
        matrix = model.generator.log_likelihood(
            *model.history(interaction), items.expand(len(items), -1)
        )
        ranked = model.rank(interaction, 10)
    assert scores.shape == (len(interaction),)
    assert torch.allclose(scores, matrix.diagonal(), atol=1e-5)
    for row in range(3):  # a beam's score is that item's log-likelihood too
        for item, score in zip(ranked.items[row], ranked.scores[row], strict=True):
            one = interaction[[row]]
            one.update(item_column(item[None]))
            with torch.no_grad():
                assert model.predict(one).item() == pytest.approx(score.item(), abs=1e-4)


def test_full_sort_scores_are_those_of_rank_and_infinite_elsewhere(parts):
    _, _, loaders, model = parts
    interaction = next(iter(loaders[2]))[0]
    with torch.no_grad():
        scores = model.full_sort_predict(interaction).view(len(interaction), -1)
        ranked = model.rank(interaction, model.generator.catalogue.n_items)
    assert scores.shape[1] == model.n_items
    finite = scores > -torch.inf
    held = ranked.items > 0
    assert torch.equal(finite.sum(1), held.sum(1))
    assert (finite.sum(1) >= model.beam_size).all()
    assert not finite[:, 0].any()
    found = scores.gather(1, ranked.items)
    assert torch.equal(found[held], ranked.scores[held])


# With collision: none equal SIDs are credited otherwise, by design: see tests/test_evaluation.py.
@pytest.mark.parametrize("parts", ["dedup"], indirect=True)
def test_recboles_collector_on_full_sort_scores_gives_the_ranked_metrics(parts):
    config, _, loaders, model = parts
    stock, ours = FixedCollector(config), TopKCollector(config, model.generator.catalogue)
    for interaction, _, rows, targets in loaders[2]:
        with torch.no_grad():
            scores = model.full_sort_predict(interaction).view(len(interaction), -1)
            ranked = model.rank(interaction, 10)
        stock.eval_batch_collect(scores, interaction, rows, targets)
        ours.eval_batch_collect(ranked, interaction, rows, targets)
    results = [
        dict(WeightedEvaluator(config).evaluate(collector.get_data_struct()))
        for collector in (stock, ours)
    ]
    assert results[0] == results[1]
    assert results[0]["recall@10"] > 0


def test_excluded_items_are_left_out_whatever_the_batch(parts):
    """The beam covers the whole catalogue: the expected list is a filter of the whole ranking."""
    _, _, loaders, model = parts
    interaction = next(iter(loaders[2]))[0]
    n_items = model.generator.catalogue.n_items
    rng = np.random.default_rng(0)
    n_excluded = rng.integers(0, n_items - 12, len(interaction))
    excluded = distinct_items(
        torch.from_numpy(
            np.stack([
                np.where(np.arange(n_items) < n, rng.permutation(n_items) + 1, 0)
                for n in n_excluded
            ])
        )
    )  # fmt: skip
    asked: list[tuple[int, int]] = []
    rank = model.generator.rank

    def spy(users, history, lengths, k, beam_size):
        asked.append((k, beam_size))
        return rank(users, history, lengths, k, beam_size)

    before = model.beam_size
    model.beam_size = n_items
    model.generator.rank = spy
    try:
        with torch.no_grad():
            whole = model.rank(interaction, n_items)
            lists = model.rank(interaction, 10, excluded)
            alone = [
                model.rank(
                    interaction[torch.tensor([row])], 10, distinct_items(excluded[row][None])
                )
                for row in range(len(interaction))
            ]
    finally:
        model.beam_size = before
        del model.generator.rank
    for row in range(len(interaction)):
        had = set(excluded[row].tolist())
        expected = [item for item in whole.items[row].tolist() if item not in had][:10]
        assert lists.items[row].tolist() == expected
        assert alone[row].items[0].tolist() == expected
        torch.testing.assert_close(lists.scores[row], alone[row].scores[0])
    window = model.max_seq_length
    widths = {min(10 + -(-n // window) * window, n_items) for n in n_excluded.tolist()}
    together = asked[1 : 1 + len(set(-(-n_excluded // window)))]
    assert {k for k, _ in together} == widths
    assert all(beam >= k for k, beam in asked)


def test_training_loss_has_gradients_for_every_weight(parts):
    _, _, loaders, model = parts
    model.train()
    loss = model.calculate_loss(next(iter(loaders[0])))
    loss.backward()
    model.eval()
    without = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert loss.item() > 0
    assert without == []


def test_last_items_by_hand():
    items = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 0, 0, 0], [8, 9, 1, 2, 0]])
    kept, lengths = last_items(items, torch.tensor([5, 2, 4]), 3)
    assert kept.tolist() == [[3, 4, 5], [6, 7, 0], [9, 1, 2]]
    assert lengths.tolist() == [3, 2, 3]
    kept, lengths = last_items(items, torch.tensor([5, 2, 4]), 9)
    assert kept.tolist() == items.tolist()
    kept, _ = last_items(items[1:2], torch.tensor([2]), 3)
    assert kept.tolist() == [[6, 7]]


def test_user_buckets_follow_raw_tokens(tmp_path):
    users = ["ann", "bob", "cid", "dan"]
    buckets, ids = [], []
    for number, order in enumerate([users, users[::-1]]):
        rows = [(user, f"i{i}", i) for user in order for i in range(5)]
        folder = tmp_path / str(number)
        given = SMALL | write_data(folder, rows) | {"cache_dir": str(tmp_path), "topk": [2]}
        for key in ("user_inter_num_interval", "item_inter_num_interval"):
            given.pop(key)
        given["valid_metric"] = "NDCG@2"
        config = Config("TIGER", "made", config_dict=given)
        data, loaders = read_data(config)
        model = SIDRecommender(config, loaders[0].dataset)
        ids.append([data.token2id("user_id", user) for user in users])
        buckets.append(model.generator.user_buckets[ids[-1]].tolist())
    assert ids[0] != ids[1]
    assert buckets[0] == buckets[1]
    assert len(set(buckets[0])) == 4
    assert min(buckets[0]) >= 0
