from pathlib import Path

import pytest

from recbole_sid.errors import InputError
from tests.configs import configure, made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return Path(made(tmp_path)) / "made"


def test_sampled_evaluation_may_use_scores(data):
    given = {"metrics": ["GAUC"], "valid_metric": "GAUC"}
    eval_args = {"mode": "uni9", "order": "TO", "split": {"LS": "valid_and_test"}}
    assert configure(data, eval_args=eval_args, **given).model == "TIGER"
    with pytest.raises(InputError, match="needs the score"):
        configure(data, eval_args={**eval_args, "mode": {"valid": "uni9", "test": "full"}}, **given)


@pytest.mark.parametrize("mode", ["uni9", "pop9", {"valid": "uni9", "test": "full"}])
def test_sampled_evaluation_needs_a_sid_for_every_item(data, mode):
    eval_args = {"mode": mode, "order": "TO", "split": {"LS": "valid_and_test"}}
    with pytest.raises(InputError, match="Use full evaluation, or collision: dedup"):
        configure(data, eval_args=eval_args, collision="none")
    for rule in ("nearest_free", "random_free"):
        with pytest.raises(InputError, match=f"full with collision: {rule}"):
            configure(data, eval_args=eval_args, collision=rule, collision_capacity=2)
        assert configure(data, eval_args=eval_args, collision=rule).model == "TIGER"
    assert configure(data, eval_args=eval_args, collision="dedup").model == "TIGER"
    assert configure(data, collision="none").model == "TIGER"
    assert configure(data, "BPR", eval_args=eval_args, collision="none").model == "BPR"


@pytest.mark.parametrize("model", ["SASRec", "BPR", "Pop"])
def test_recboles_models_exclude_the_history_of_whole_lists(data, model):
    given = {"train_neg_sample_args": None} if model == "SASRec" else {}
    assert configure(data, model, **given)["exclude_history"] is False
    hashes = {
        configure(data, model, exclude_history=on, **given).settings_hash() for on in (False, True)
    }
    assert len(hashes) == 2
    sampled = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni100"}
    with pytest.raises(InputError, match="'exclude_history' is True, but 'eval_args: mode'"):
        configure(data, model, exclude_history=True, eval_args=sampled, **given)


def test_sampled_lists_cannot_exclude_the_history(data):
    sampled = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni100"}
    configure(data, eval_args=sampled)
    with pytest.raises(InputError, match="'exclude_history' is True, but 'eval_args: mode'"):
        configure(data, eval_args=sampled, exclude_history=True)
    with pytest.raises(InputError, match="'exclude_history' is 'on', but must be true or false"):
        configure(data, exclude_history="on")
