"""Settings that RecBole's models do not read; those of ours are in test_checks.py."""

import logging
from pathlib import Path

import pytest

from recbole_sid.errors import InputError
from tests.configs import configure, made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return Path(made(tmp_path)) / "made"


def test_recboles_models_warn_of_settings_that_nobody_reads(data, caplog):
    with caplog.at_level(logging.WARNING, "recbole_sid"):
        configure(data, "BPR", learning_rat=0.1)
    assert [record.getMessage().split(" Did")[0] for record in caplog.records] == [
        "unknown setting 'learning_rat': it is in no yaml file of RecBole or recbole_sid."
    ]
    assert "Did you mean 'learning_rate'" in caplog.text


def test_recboles_models_take_what_recbole_or_our_yaml_knows(data, caplog):
    # In turn: BPR's own, SASRec's (and our generator's), read by code alone, of our overall.yaml.
    given = {"embedding_size": 8, "hidden_size": 8, "numerical_features": [], "precision": "auto"}
    with caplog.at_level(logging.WARNING, "recbole_sid"):
        assert configure(data, "BPR", **given)["embedding_size"] == 8
    assert caplog.records == []


@pytest.mark.parametrize(
    ("key", "owner"),
    [("tokenizer_levels", "tokenizer 'rqkmeans'"), ("beam_size", "generator 'tiger'")],
)
def test_recboles_models_have_no_components(data, key, owner):
    with pytest.raises(InputError, match=f"'{key}' belongs to {owner}, but the model is RecBole's"):
        configure(data, "BPR", **{key: 3})
