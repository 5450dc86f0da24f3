from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

from recbole_sid import cli, datasets, run_folder
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.items.atomic_vectors import write_atomic_vectors
from recbole_sid.items.vectors import save_item_vectors, stored_vectors
from tests.runs import write_data

TOKENS = ("a", "b", "c", "d")
VECTORS = np.array([[0.1, -1.5], [1 / 3, 2.0], [1e-8, 3.0], [0.0, 4.0]], dtype=np.float32)


@pytest.fixture
def data(tmp_path):
    rows = [("u1", item, n) for n, item in enumerate("dbca")] + [("u2", "b", 9)]
    return write_data(tmp_path, rows)


def test_recbole_hands_a_row_an_item_to_its_models(tmp_path, data, capsys):
    save_item_vectors(tmp_path / "item_embeddings.safetensors", VECTORS, TOKENS)
    file = tmp_path / "made" / "made.unisid"
    assert cli.main(["vectors", f"--run={tmp_path}", f"--output={file}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"4 vectors of 2 dimensions in {file}"
    settings = yaml.safe_load("\n".join(lines[2:]))
    settings["load_col"] |= {"inter": ["user_id", "item_id", "timestamp"]}
    config = Config("SASRec", "made", config_dict={**data, **settings})
    dataset = datasets.create_dataset(config)
    weights = dataset.get_preload_weight("vector_id")
    without = datasets.create_dataset(Config("SASRec", "made", config_dict=data))
    assert dataset.item_num == without.item_num == 5
    assert weights.shape == (5, 2)
    for token, vector in zip(TOKENS, VECTORS, strict=True):
        np.testing.assert_array_equal(
            weights[dataset.token2id("item_id", token)].astype(np.float32), vector
        )
    layer = torch.nn.Embedding.from_pretrained(torch.from_numpy(weights))
    assert layer(torch.tensor(dataset.token2id("item_id", "d")))[1] == 4.0


def test_a_file_is_not_replaced_unasked(tmp_path, data):
    file = tmp_path / "made" / "made.vec"
    write_atomic_vectors(file, VECTORS, list(TOKENS))
    with pytest.raises(InputError, match="exists: name another file, or replace it by --overwrite"):
        write_atomic_vectors(file, VECTORS, list(TOKENS))
    write_atomic_vectors(file, VECTORS[:1], ["a"], overwrite=True)
    assert file.read_text() == "vector_id:token\tvector:float_seq\na\t0.1 -1.5\n"


@pytest.mark.parametrize(
    ("name", "tokens", "message"),
    [
        ("made/made", TOKENS, "with an ending of its own: '.*/made/made.vectors'"),
        ("made/made.item", TOKENS, "with an ending of its own"),
        ("made/other.vec", TOKENS, "must be named as the data set's files"),
        ("made/made.v.2", TOKENS, "must be named as the data set's files"),
        ("nowhere/nowhere.vec", TOKENS, "there is no folder"),
        ("made/made.vec", ("a\tb", *TOKENS[1:]), "item id 'a\\\\tb' does not fit in"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, data, name, tokens, message):
    before = sorted((tmp_path / "made").iterdir())
    with pytest.raises(InputError, match=message):
        write_atomic_vectors(tmp_path / name, VECTORS, list(tokens))
    assert sorted((tmp_path / "made").iterdir()) == before


def test_a_run_on_the_data_set_stays_as_it_is(tmp_path, data):
    config = Config("TIGER", "made", config_dict=data)
    before = run_folder.data_hash(config)
    write_atomic_vectors(tmp_path / "made" / "made.vec", VECTORS, list(TOKENS))
    assert run_folder.data_hash(config) == before
    joined = Config("TIGER", "made", config_dict=data | {"additional_feat_suffix": ["vec"]})
    assert run_folder.data_hash(joined) != before


def test_an_id_twice_is_refused(tmp_path):
    save_item_vectors(tmp_path / "item_embeddings.safetensors", VECTORS[:2], ("a", "a"))
    with pytest.raises(InputError, match="appear more than once"):
        stored_vectors(tmp_path / "item_embeddings.safetensors")


def test_a_run_without_vectors_is_refused(tmp_path, data, capsys):
    arguments = ["vectors", f"--run={tmp_path}", f"--output={tmp_path / 'made' / 'made.vec'}"]
    assert cli.main(arguments) == 2
    assert "has no item_embeddings.safetensors: name a folder of run or" in capsys.readouterr().err
