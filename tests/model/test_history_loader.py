"""RecBole's sequential models without what a user had: by hand, and against sets of raw rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.data.dataloader import FullSortEvalDataLoader

import recbole_sid
from recbole_sid import InputError, compat
from recbole_sid.comparison.outcomes import load_outcomes
from recbole_sid.config import Config
from recbole_sid.model.history_loader import HistoryLeftOut
from recbole_sid.quick_start import trainer_class
from recbole_sid.reading import read_data
from tests.runs import CUT, write_data

STOCK = {k: v for k, v in CUT.items() if not k.endswith("_num_interval")}
CASES = {
    "leave one out": {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO"}},
    "ratios": {"eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "TO", "group_by": "user"}},
    "times": {"split_times": [6, 8]},
}


def drawn(folder) -> tuple[dict, dict[str, list[str]]]:
    """Settings of 9 users of 30 items who come back to items, and each one's items in order."""
    rng = np.random.default_rng(0)
    orders = {f"u{u}": [f"i{i}" for i in rng.integers(0, 30, 10 + u)] for u in range(9)}
    rows = [(user, item, n) for user, order in orders.items() for n, item in enumerate(order)]
    given = {**STOCK, **write_data(folder, rows), "MAX_ITEM_LIST_LENGTH": 4, "eval_batch_size": 5}
    return {**given, "topk": [2, 4], "valid_metric": "NDCG@2"}, orders


@pytest.mark.parametrize("case", CASES)
def test_dropped_is_all_that_was_had_before_and_nothing_else(case, tmp_path):
    settings, orders = drawn(tmp_path)
    settings |= {**CASES[case], "exclude_history": True}
    data, (train, *loaders) = read_data(Config("SASRec", "made", config_dict=settings))
    users, items = data.field2id_token["user_id"], data.field2id_token["item_id"]
    assert type(train) is not HistoryLeftOut
    n_rows = 0
    for loader in loaders:
        assert type(loader) is HistoryLeftOut
        for _ in range(2):  # every epoch validates anew
            for interaction, (rows, dropped), positive_rows, positive in loader:
                assert positive_rows.tolist() == list(range(len(interaction)))
                assert torch.equal(positive, interaction["item_id"])
                for row, user in enumerate(interaction["user_id"].tolist()):
                    order = orders[users[user]]
                    at = round(interaction["timestamp"][row].item())
                    assert order[at] == items[positive[row]]
                    found = [items[item] for item in dropped[rows == row].tolist()]
                    assert sorted(found) == sorted(set(order[:at]))
                    n_rows += 1
    assert n_rows == 2 * sum(len(loader.dataset) for loader in loaders) > 30


class Fixed(torch.nn.Module):
    """Scores items by their id, the last one highest."""

    def full_sort_predict(self, interaction):
        return torch.arange(6.0).repeat(len(interaction), 1)


def test_ranks_by_hand(tmp_path, caplog):
    orders = {"u0": "abcde", "u1": "ecdba", "u2": "badcb"}
    rows = [(user, item, n) for user, order in orders.items() for n, item in enumerate(order)]
    settings = {**STOCK, **write_data(tmp_path, rows), "topk": [1], "valid_metric": "MRR@1"}
    settings |= {"eval_args": CASES["leave one out"]["eval_args"]}
    found = {}
    for exclude in (False, True):
        with caplog.at_level("INFO"):
            config = Config("SASRec", "made", config_dict={**settings, "exclude_history": exclude})
            data, (train, valid, test) = read_data(config)
        config["checkpoint_dir"] = str(tmp_path / str(exclude))
        # Ids in the order in which RecBole meets the items: a 1, b 2, c 3, d 4, e 5.
        assert data.field2id_token["item_id"].tolist() == ["[PAD]", *"abcde"]
        trainer = trainer_class(config)(
            config, compat.get_model(config["model"])(config, train.dataset)
        )
        trainer.eval_collector.data_collect(train)
        trainer.model = Fixed()
        for name, loader in (("valid", valid), ("test", test)):
            result = trainer.evaluate(loader, load_best_model=False)
            found[name, exclude] = round(result["recall@1"] * 3)
    # Highest are e always; without the history: u0 e (of d, e), u1 b of (b, a), u2 e of (c, e).
    assert found["valid", False] == 0
    assert found["valid", True] == 1
    # Then: u0 e, u1 a, u2 e alone; u2's target b was had before.
    assert found["test", False] == 1
    assert found["test", True] == 2
    assert caplog.text.count("1 of 3 targets are items that their users had before") == 1


def test_a_run_lists_nothing_again(tmp_path):
    settings, orders = drawn(tmp_path / "data")
    settings |= {**CASES["leave one out"], "output": str(tmp_path / "run")}
    settings |= {"metric_decimal_place": 9, "exclude_history": True}
    result = recbole_sid.run("SASRec", "made", config_dict=settings)
    outcomes = load_outcomes(tmp_path / "run" / "outcomes.safetensors")
    for user, listed in zip(outcomes.users, outcomes.lists, strict=True):
        names = [outcomes.items[item] for item in listed]
        assert len(names) == 4
        assert not set(names) & {"", *orders[user][:-1]}
    assert round(outcomes.mean("ndcg", 4), 9) == result["test_result"]["ndcg@4"]


def test_general_models_and_switched_off_ones_keep_recboles_loader(tmp_path):
    settings, _ = drawn(tmp_path)
    settings |= CASES["leave one out"]
    for model, exclude in (("SASRec", False), ("Pop", True)):
        config = Config(model, "made", config_dict={**settings, "exclude_history": exclude})
        assert config["exclude_history"] is exclude
        _, (_, valid, test) = read_data(config)
        assert type(valid) is type(test) is FullSortEvalDataLoader


def test_lists_that_nothing_can_fill_are_refused(tmp_path):
    rows = [("u0", item, n) for n, item in enumerate("abcdef")]
    rows += [("u1", item, n) for n, item in enumerate("abc")]
    settings = {**STOCK, **write_data(tmp_path, rows), "topk": [2], "valid_metric": "MRR@2"}
    settings |= {**CASES["leave one out"], "exclude_history": True}
    with pytest.raises(InputError, match=r"leaves a user 1 items, fewer than max\(topk\) = 2"):
        read_data(Config("SASRec", "made", config_dict=settings))
    read_data(
        Config("SASRec", "made", config_dict={**settings, "topk": [1], "valid_metric": "MRR@1"})
    )
