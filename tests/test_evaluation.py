"""Ranked ids into RecBole's metrics: equal where RecBole is right, and right where it is not."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_sid.compat import numpy_aliases
from recbole_sid.errors import InputError
from recbole_sid.evaluation import TopKCollector, WeightedEvaluator, expected_hits
from recbole_sid.generator.beam import Ranked
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.model.exclusion import leave_out
from recbole_sid.model.recommender import SIDRecommender
from recbole_sid.quick_start import checked_config
from recbole_sid.reading import read_data
from recbole_sid.run_folder import inputs_hash
from recbole_sid.trainer import SIDTrainer
from tests.generator.catalogues import table
from tests.runs import SMALL, write_data

RANKING = ["Recall", "NDCG", "MRR", "Hit", "Precision", "MAP"]


class Settings(dict):
    """What RecBole's collector and evaluator read of a Config."""

    def __init__(self, topk: list[int], metrics: list[str]):
        super().__init__(
            topk=topk,
            metrics=metrics,
            device=torch.device("cpu"),
            eval_args={"mode": {"valid": "full", "test": "full"}},
            metric_decimal_place=6,
        )


def evaluate(catalogue: Catalogue, ranked: Ranked, targets: list[int], topk: list[int]) -> dict:
    numpy_aliases()
    config = Settings(topk, RANKING)
    collector = TopKCollector(config, catalogue)
    positives = torch.tensor(targets)
    half = max(1, len(targets) // 2)
    for part in (slice(0, half), slice(half, None)):  # as two batches
        batch = Ranked(*(field[part] for field in ranked))
        if len(batch.items):
            rows = torch.arange(len(batch.items))
            collector.eval_batch_collect(batch, None, rows, positives[part])
    result = WeightedEvaluator(config).evaluate(collector.get_data_struct())
    return dict(result) | collector.sid_metrics()


def ranked_of(catalogue: Catalogue, rows: list[list[int]]) -> Ranked:
    items = torch.tensor(rows)
    leaf = catalogue.leaf_of_item
    sizes = torch.where(items > 0, (leaf[None, None, 1:] == leaf[items][..., None]).sum(-1), 1)
    return Ranked(items, -torch.arange(items.shape[1]).float().expand(items.shape), sizes)


UNIQUE = Catalogue(table([[i // 3, i % 3] for i in range(9)], (3, 3)))
# Items 1, 2, 3 share a SID, so do 4 and 5; 6 and 7 stand alone.
COLLIDED = Catalogue(table([[0, 0]] * 3 + [[0, 1]] * 2 + [[1, 0], [1, 1]], (2, 2)))


def test_metrics_by_hand():
    result = evaluate(UNIQUE, ranked_of(UNIQUE, [[4, 2, 7], [1, 2, 3]]), [2, 9], [1, 3])
    assert result["recall@1"] == 0
    assert result["recall@3"] == 0.5
    assert result["mrr@3"] == 0.25
    assert result["ndcg@3"] == pytest.approx(0.5 / np.log2(3), abs=1e-6)
    assert result["generated@3"] == 1


def test_an_all_wrong_model_scores_exactly_zero_on_every_metric_at_every_k():
    topk = list(range(1, 10))
    for target in range(1, 10):
        others = [item for item in range(1, 10) if item != target]
        for generated in range(0, 9):
            row = others[:generated] + [0] * (9 - generated)
            result = evaluate(UNIQUE, ranked_of(UNIQUE, [row]), [target], topk)
            accuracy = {k: v for k, v in result.items() if not k.startswith("generated")}
            assert set(accuracy.values()) == {0.0}
            assert result["generated@9"] == pytest.approx(generated / 9, abs=1e-6)


def test_a_hit_in_a_group_of_three_is_credited_a_third_at_each_of_its_ranks():
    ranked = ranked_of(COLLIDED, [[6, 1, 2, 3, 7]])
    for target in (1, 2, 3):
        result = evaluate(COLLIDED, ranked, [target], [1, 2, 3, 4, 5])
        recall = [result[f"recall@{k}"] for k in (1, 2, 3, 4, 5)]
        assert recall == pytest.approx([0, 1 / 3, 2 / 3, 1, 1], abs=1e-6)
        assert result["mrr@5"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3, abs=1e-6)
        assert result["sid_recall@2"] == 1


def test_a_group_cut_by_the_end_of_the_list_keeps_its_share():
    ranked = ranked_of(COLLIDED, [[6, 4, 5, 1, 2]])
    result = evaluate(COLLIDED, ranked, [3], [4, 5])
    assert result["recall@4"] == pytest.approx(1 / 3, abs=1e-6)
    assert result["recall@5"] == pytest.approx(2 / 3, abs=1e-6)


def test_expected_hits_by_hand():
    ranked = ranked_of(COLLIDED, [[6, 1, 2, 3], [4, 5, 6, 7], [6, 7, 4, 5]])
    hits, weights = expected_hits(
        ranked.items, ranked.group_sizes, torch.tensor([2, 1, 6]), COLLIDED
    )
    assert hits.tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1, 1])


@settings(max_examples=25, deadline=None)
@given(st.permutations([0, 1, 2, 3]), st.integers(1, 7), st.integers(1, 7))
def test_credit_is_the_mean_metric_over_all_orders_inside_the_groups(groups, target, k):
    members = [[1, 2, 3], [4, 5], [6], [7]]
    orders = itertools.product(*(itertools.permutations(members[g]) for g in groups))
    lists = [list(itertools.chain(*order)) for order in orders]
    codes = [[i] for i in range(7)]
    single = Catalogue(table([[c[0], 0] for c in codes], (7, 1)))  # every item its own SID
    each = [evaluate(single, ranked_of(single, [items]), [target], [k]) for items in lists]
    ours = evaluate(COLLIDED, ranked_of(COLLIDED, [lists[0]]), [target], [k])
    for metric in ("recall", "ndcg", "mrr", "hit", "precision", "map"):
        mean = np.mean([result[f"{metric}@{k}"] for result in each])
        assert ours[f"{metric}@{k}"] == pytest.approx(mean, abs=2e-6)


def test_equal_to_recboles_collector_on_a_score_matrix():
    numpy_aliases()
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.normal(size=(40, 10))).float()
    scores[:, 0] = -torch.inf
    targets = torch.from_numpy(rng.integers(1, 10, 40))
    config = Settings([1, 3, 5], [*RANKING, "ItemCoverage", "GiniIndex", "ShannonEntropy"])
    rows = torch.arange(40)
    results = []
    for batch in (scores, ranked_of(UNIQUE, scores.topk(5).indices.tolist())):
        collector = TopKCollector(config, UNIQUE)
        collector.data_struct.set("data.num_items", 10)
        collector.eval_batch_collect(batch, None, rows, targets)
        results.append(WeightedEvaluator(config).evaluate(collector.get_data_struct()))
    assert results[0] == results[1]


def test_sid_recall_ignores_the_dedup_digit():
    catalogue = Catalogue(table([[0, 0], [0, 0], [1, 1]], (2, 2), "dedup"))
    result = evaluate(catalogue, ranked_of(catalogue, [[1, 3]]), [2], [1, 2])
    assert result["recall@2"] == 0
    assert result["sid_recall@1"] == 1


def test_a_credited_hit_counts_one_in_the_items_of_its_sid():
    # Without a rule: 1, 2 and 3 share a SID, 4 and 5 another; 6 is alone.
    ranked = ranked_of(
        COLLIDED, [[6, 1, 2, 3, 7], [4, 5, 6, 7, 0], [6, 7, 4, 5, 0], [1, 2, 3, 4, 5]]
    )
    result = evaluate(COLLIDED, ranked, [3, 4, 6, 7], [1, 2, 5])
    assert [result[f"sid_recall@{k}"] for k in (1, 2, 5)] == [2 / 4, 3 / 4, 3 / 4]
    credited = [(1 / 2 + 1) / 4, (1 / 3 + 1 / 2 + 1) / 4, (1 / 3 + 1 / 2 + 1) / 4]
    assert [result[f"credited_recall@{k}"] for k in (1, 2, 5)] == pytest.approx(credited, abs=1e-6)


def test_the_credit_counts_items_of_the_catalogue_not_of_the_list():
    # Under dedup items 1 to 3 have one base SID; the list holds one of them, and not the target.
    codes = [[0, 0], [0, 0], [0, 0], [0, 1], [1, 0]]
    catalogue = Catalogue(table(codes, (2, 2), "dedup"))
    result = evaluate(catalogue, ranked_of(catalogue, [[4, 2, 5]]), [1], [1, 2])
    assert [result[f"credited_recall@{k}"] for k in (1, 2)] == pytest.approx([0, 1 / 3], abs=1e-6)
    assert (result["recall@2"], result["sid_recall@2"]) == (0, 1)
    # Two items of one base SID take two places: the target, second by its SID, is out of the list.
    result = evaluate(catalogue, ranked_of(catalogue, [[2, 3, 4]]), [4], [2])
    assert (result["sid_recall@2"], result["credited_recall@2"]) == (0, 0)


def test_where_all_sids_are_unique_all_three_recalls_agree():
    for rule in ("reassign_last", "nearest_free"):
        catalogue = Catalogue(table([[i // 3, i % 3] for i in range(9)], (3, 3), rule))
        result = evaluate(catalogue, ranked_of(catalogue, [[4, 2, 7], [1, 2, 3]]), [2, 9], [2])
        for name in ("recall", "sid_recall", "credited_recall"):
            assert result[f"{name}@2"] == 0.5


def test_a_target_that_was_left_out_hits_nothing():
    # Item 2 was left out of its group; the others of its SID are listed.
    ranked = Ranked(torch.tensor([[1, 3, 6]]), torch.tensor([[-1.0, -1, -2]]),
                    torch.tensor([[2, 2, 1]]))  # fmt: skip
    result = evaluate(COLLIDED, ranked, [0], [1, 3])
    assert {v for k, v in result.items() if not k.startswith("generated")} == {0.0}
    for listed in (1, 3):
        assert evaluate(COLLIDED, ranked, [listed], [1])["recall@1"] == 0.5


@settings(max_examples=30, deadline=None)
@given(
    st.permutations([0, 1, 2, 3]),
    st.sets(st.integers(1, 7), max_size=5),
    st.integers(1, 7),
    st.integers(1, 4),
)
def test_credit_without_excluded_items_is_the_mean_over_all_orders(groups, left_out, target, k):
    members = [[1, 2, 3], [4, 5], [6], [7]]
    lists = [
        [item for item in itertools.chain(*order) if item not in left_out][:k]
        for order in itertools.product(*(itertools.permutations(members[g]) for g in groups))
    ]
    single = Catalogue(table([[c, 0] for c in range(7)], (7, 1)))  # every item its own SID
    each = [
        evaluate(single, ranked_of(single, [items + [0] * (k - len(items))]), [target], [k])
        for items in lists
    ]
    whole = ranked_of(COLLIDED, [list(itertools.chain(*(members[g] for g in groups)))])
    excluded = torch.tensor([[0, *sorted(left_out)]])
    ranked = leave_out(whole, excluded, k, COLLIDED)
    ours = evaluate(COLLIDED, ranked, [0 if target in left_out else target], [k])
    for metric in ("recall", "ndcg", "mrr"):
        mean = np.mean([result[f"{metric}@{k}"] for result in each])
        assert ours[f"{metric}@{k}"] == pytest.approx(mean, abs=2e-6)


def had_before(data_path: str, name: str) -> dict[str, list[str]]:
    """Each user's items in time order, from the file itself."""
    lines = Path(data_path, name, f"{name}.inter").read_text().splitlines()[1:]
    rows = sorted((line.split("\t") for line in lines), key=lambda row: float(row[2]))
    items: dict[str, list[str]] = {}
    for user, item, _ in rows:
        items.setdefault(user, []).append(item)
    return items


@pytest.mark.parametrize("split", [{"LS": "valid_and_test"}, {"RS": [0.4, 0.2, 0.4]}])
@pytest.mark.parametrize("collision", ["dedup", "none"])
def test_excluded_is_all_that_was_had_before_and_nothing_else(split, collision, tmp_path):
    rng = np.random.default_rng(0)
    n_items = 30
    rows = [(f"u{u}", f"i{i}", t) for u in range(9) for t, i in
            enumerate(rng.integers(0, n_items, 10 + u))]  # fmt: skip
    rows += [("all", f"i{i}", t) for t, i in enumerate(range(n_items))]
    given_ = {k: v for k, v in SMALL.items() if not k.endswith("_num_interval")}
    given_ |= write_data(tmp_path, rows) | {
        "MAX_ITEM_LIST_LENGTH": 4, "exclude_history": True, "collision": collision,
        "topk": [2, 6], "valid_metric": "NDCG@2", "cache_dir": str(tmp_path / "cache"),
        "tokenizer_codebook_size": 3, "tokenizer_levels": 2, "eval_batch_size": 5,
        "eval_args": {"split": split, "order": "TO", "group_by": "user", "mode": "full"},
        "output": str(tmp_path / "run"),
    }  # fmt: skip
    config = checked_config("TIGER", "made", config_dict=given_)
    config["checkpoint_dir"] = str(tmp_path / "trainer")
    data, (train, valid, test) = read_data(config)
    model = SIDRecommender(config, train.dataset)
    seen: list[tuple] = []
    trainer = SIDTrainer(config, model)
    with pytest.raises(InputError, match="exclude_history needs the splits before"):
        trainer.evaluate(test, load_best_model=False)
    trainer.splits = (train.dataset, valid.dataset)
    collect = trainer.eval_collector.eval_batch_collect
    trainer.eval_collector.eval_batch_collect = lambda ranked, interaction, rows, targets: (
        seen.append((ranked, interaction, targets)),
        collect(ranked, interaction, rows, targets),
    )
    users, items = data.field2id_token["user_id"], data.field2id_token["item_id"]
    of_user = had_before(str(tmp_path), "made")
    for ranked_split, later in ((valid, [valid, test]), (test, [test])):
        seen.clear()
        result = trainer.evaluate(ranked_split, load_best_model=False)
        to_come = Counter(
            users[user] for part in later for user in part.dataset.inter_feat["user_id"].tolist()
        )
        n_rows = 0
        for ranked, interaction, targets in seen:
            for row in range(len(interaction)):
                user = users[interaction["user_id"][row]]
                mine = of_user[user]
                at = len(mine) - to_come[user]  # the rows of a user come in time order
                to_come[user] -= 1
                before = set(mine[:at])
                listed = [items[item] for item in ranked.items[row].tolist() if item]
                assert not before & set(listed)
                assert len(listed) == min(6, n_items - len(before))
                assert (targets[row] == 0) == (mine[at] in before)
                n_rows += 1
        assert n_rows == len(ranked_split.dataset)
    assert result["recall@6"] > 0
    again = SIDTrainer(config, model)
    again.splits = trainer.splits
    assert again.evaluate(test, load_best_model=False) == result
    assert trainer.evaluate(test, load_best_model=False) == result  # from the first row again


# -- what is not available -------------------------------------------------------------------------

SHORT = {key: value for key, value in SMALL.items() if not key.endswith("_num_interval")}


def campaigns(folder: Path, bounds: dict[str, tuple[object, object]], **more) -> dict:
    """Settings of users who meet six ads at times 0 to 5; an ad is there from … until …."""
    orders = {"u1": "abcdef", "u2": "bcdefa", "u3": "cdefab", "u4": "defabc"}
    rows = [(user, item, time) for user, seq in orders.items() for time, item in enumerate(seq)]
    values = write_data(folder / "data", rows)
    lines = [
        f"{item}\tThing {item}\t{begin}\t{end}"
        for item, (begin, end) in ({item: ("", "") for item in "abcdef"} | bounds).items()
    ]
    header = "item_id:token\ttitle:token\tbegin:float\tend:float"
    (folder / "data" / "made" / "made.item").write_text("\n".join([header, *lines]) + "\n")
    given_ = SHORT | values | {
        "topk": [1, 3, 6], "valid_metric": "NDCG@3", "cache_dir": str(folder / "cache"),
        "tokenizer_codebook_size": 3, "tokenizer_levels": 2, "eval_batch_size": 3,
        "output": str(folder / "run"), "available_from_field": "begin",
        "available_until_field": "end", "filter_unavailable": True,
    }  # fmt: skip
    return given_ | more


def lists_of(given_: dict, generator: str = "TIGER") -> tuple[dict, list[tuple], dict]:
    """What is listed for each row of the test split, what counts as its target, and the metrics."""
    config = checked_config(generator, "made", config_dict=given_)
    config["checkpoint_dir"] = given_["output"] + "-trainer"
    data, (train, valid, test) = read_data(config)
    torch.manual_seed(0)
    model = SIDRecommender(config, train.dataset)
    trainer = SIDTrainer(config, model)
    trainer.splits = (train.dataset, valid.dataset)
    seen: list[tuple] = []
    collect = trainer.eval_collector.eval_batch_collect
    trainer.eval_collector.eval_batch_collect = lambda ranked, interaction, rows, targets: (
        seen.append((ranked, interaction, targets)),
        collect(ranked, interaction, rows, targets),
    )
    result = trainer.evaluate(test, load_best_model=False)
    users, items = data.field2id_token["user_id"], data.field2id_token["item_id"]
    found, targets_of = {}, {}
    for ranked, interaction, targets in seen:
        for row in range(len(interaction)):
            user = users[interaction["user_id"][row]]
            found[user] = [items[item] for item in ranked.items[row].tolist() if item]
            targets_of[user] = items[targets[row]] if targets[row] else None
    return found, targets_of, result


@pytest.mark.parametrize("collision", ["dedup", "none"])
def test_lists_hold_the_ads_of_the_rows_own_time(collision, tmp_path, caplog):
    # Every test row is at time 5: u1's target is f, u2's a, u3's b, u4's c.
    bounds = {"a": ("", 4), "b": (5, 5), "d": (6, ""), "e": (0, 9)}
    given_ = campaigns(tmp_path, bounds, collision=collision)
    with caplog.at_level("INFO"):
        found, targets, result = lists_of(given_)
    assert {user: sorted(items) for user, items in found.items()} == {
        user: ["b", "c", "e", "f"] for user in ("u1", "u2", "u3", "u4")
    }
    assert targets == {"u1": "f", "u2": None, "u3": "b", "u4": "c"}
    assert "1 of 4 targets are not available at their row's own time" in caplog.text
    assert result["generated@6"] == pytest.approx(4 / 6, abs=1e-4)
    assert result["recall@6"] == 3 / 4
    # The order and the scores of what is listed are those of the whole ranking.
    whole, _, _ = lists_of({**given_, "filter_unavailable": False})
    for user, items in whole.items():
        assert [item for item in items if item in "bcef"] == found[user]
        assert len(items) == 6


def test_each_row_goes_by_its_own_time(tmp_path):
    """The test rows of a split in time are at times 4 and 5."""
    bounds = {item: (time, time) for time, item in enumerate("abcdef")}
    given_ = campaigns(tmp_path, bounds, split_times=[2, 4])
    config = checked_config("TIGER", "made", config_dict=given_)
    config["checkpoint_dir"] = given_["output"] + "-trainer"
    data, (train, valid, test) = read_data(config)
    trainer = SIDTrainer(config, SIDRecommender(config, train.dataset))
    trainer.splits = (train.dataset, valid.dataset)
    items = data.field2id_token["item_id"]
    seen: list[tuple[float, list[str]]] = []
    trainer.exclusion.start(test.dataset, trainer.splits)
    trainer.unavailable.start(test.dataset)
    for batch in test:
        interaction, ranked, *_ = trainer._full_sort_batch_eval(batch)
        for time, row in zip(interaction["timestamp"].tolist(), ranked.items, strict=True):
            seen.append((time, [items[item] for item in row.tolist() if item]))
    assert sorted(seen) == [(4.0, ["e"])] * 4 + [(5.0, ["f"])] * 4


@pytest.mark.parametrize("model", ["TIGER", "IntRR"])
def test_business_rules_hold_in_every_list(model, tmp_path, caplog):
    rules = tmp_path / "rules.txt"
    rules.write_text("f\r\nb\n\nc\nno such ad\n", encoding="utf-8-sig")
    given_ = campaigns(tmp_path, {"b": ("", 1)}, allowed_items=str(rules))
    if model == "IntRR":
        given_ = {k: v for k, v in given_.items() if not k.endswith("coder_layers")}
    with caplog.at_level("INFO"):
        found, targets, _ = lists_of({**given_, "filter_unavailable": False}, model)
    assert {user: sorted(items) for user, items in found.items()} == {
        user: ["b", "c", "f"] for user in ("u1", "u2", "u3", "u4")
    }
    assert targets == {"u1": "f", "u2": None, "u3": "b", "u4": "c"}
    assert "1 of 4 items are not in the catalogue: 'no such ad'" in caplog.text
    # With times, and with what was had before: u1 has not had f, u4 not c, at time 5.
    found, targets, result = lists_of({**given_, "exclude_history": True}, model)
    assert found == {"u1": ["f"], "u2": [], "u3": [], "u4": ["c"]}
    assert targets == {"u1": "f", "u2": None, "u3": None, "u4": "c"}
    assert result["recall@1"] == 0.5


REFUSED = {
    "no column": ({"available_from_field": None, "available_until_field": None},
                  "Name one in available_from_field or available_until_field"),
    "an unknown column": ({"available_from_field": "beginn"}, "has no column 'beginn'"),
    "a column of text": ({"available_until_field": "title"},
                         "column 'title': 6 cells are no number"),
    "not a boolean": ({"filter_unavailable": "maybe"}, "'filter_unavailable' is 'maybe'"),
    "a sampled list": ({"eval_args": {"order": "TO", "mode": "uni2"}},
                       "'filter_unavailable' is True, but 'eval_args: mode' is"),
    "scaled times": ({"normalize_all": True}, "which scales 'timestamp'"),
    "no file of rules": ({"allowed_items": "nowhere.txt"}, "'allowed_items' is 'nowhere.txt'"),
    "a column by a number": ({"available_from_field": 3}, "'available_from_field' is 3"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_filters_that_cannot_be_read_are_refused_before_anything_runs(case, tmp_path):
    changes, message = REFUSED[case]
    with pytest.raises(InputError) as error:
        checked_config("TIGER", "made", config_dict=campaigns(tmp_path, {}) | changes)
    assert message in str(error.value)


def test_rules_that_name_nothing_are_refused(tmp_path):
    for text, message in (("\n\n", "names no item"), ("x\ny\n", "none of the 2 items of allowed")):
        rules = tmp_path / "rules.txt"
        rules.write_text(text)
        given_ = campaigns(tmp_path / text.strip().replace("\n", "-"), {}, allowed_items=str(rules))
        with pytest.raises(InputError, match=message):
            lists_of(given_)


@pytest.mark.parametrize("key", ["filter_unavailable", "allowed_items"])
@pytest.mark.parametrize("model", ["SASRec", "Pop"])
def test_recboles_models_are_refused(model, key, tmp_path):
    given_ = campaigns(tmp_path, {})
    kept = {name: given_[name] for name in ("data_path", "load_col", "topk", "valid_metric")}
    value = "rules.txt" if key == "allowed_items" else True
    with pytest.raises(InputError, match=f"'{key}' is .*, but the model is RecBole's"):
        checked_config(model, "made", config_dict=kept | {key: value})


def test_the_content_of_the_rules_belongs_to_a_run(tmp_path):
    rules = tmp_path / "rules.txt"
    rules.write_text("a\n")
    given_ = campaigns(tmp_path, {}, allowed_items=str(rules))
    config = checked_config("TIGER", "made", config_dict=given_)
    assert config.to_plain()["allowed_items"] == str(rules)
    before = inputs_hash(config)
    rules.write_text("b\n")
    assert inputs_hash(config) != before
