"""Exports hold all of a run, replace nothing unasked, and are there whole or not at all."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from recbole_sid.errors import InputError
from recbole_sid.serving import export as export_module
from recbole_sid.serving.bundle import open_bundle
from recbole_sid.serving.export import export, write_export
from recbole_sid.serving.recommender import Recommender
from recbole_sid.tokenizer.stored_weights import save_tokenizer_weights
from tests.runs import snapshot


def test_an_export_is_the_same_each_time_and_names_no_place(made, tmp_path):
    for source in (made.run, made.export):
        again = export(source, tmp_path / source.name)
        assert snapshot(again) == snapshot(made.export)
    head = (made.export / "export.json").read_text()
    assert str(made.run.parent) not in head
    stored = yaml.safe_load((made.run / "config.yaml").read_text())
    settings = json.loads(head)["settings"]
    assert set(stored) - set(settings) == {"data_path", "cache_dir"}
    if stored["item_embedding_file"]:
        assert settings["item_embedding_file"] == "vectors.npy"


def test_a_tokenizers_weights_come_along(made, tmp_path):
    run = Path(shutil.copytree(made.run, tmp_path / "run"))
    weights = run / "tokenizer.safetensors"
    save_tokenizer_weights(weights, {"codebook": np.ones((2, 3), np.float32)})
    found = export(run, tmp_path / "export") / "tokenizer.safetensors"
    assert found.read_bytes() == weights.read_bytes()
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"tokenizer.safetensors' has no checksum|is damaged"):
        export(run, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_only_an_export_is_replaced_and_only_on_demand(made, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    assert export(made.run, output) == output  # an empty folder is no loss
    with pytest.raises(InputError, match=r"out' exists: name another folder, or .* --overwrite"):
        export(made.run, output)
    (output / "items.json").write_text("{}")
    export(made.run, output, overwrite=True)
    assert snapshot(output) == snapshot(made.export)
    (output / "thesis.tex").write_text("years of work")
    before = snapshot(output)
    with pytest.raises(InputError, match=r"holds 'thesis.tex', which is no part of an export"):
        export(made.run, output, overwrite=True)
    assert snapshot(output) == before
    with pytest.raises(InputError, match=r"'config.yaml', .* which is no part of an export"):
        export(made.run, made.run, overwrite=True)
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"file' is no folder: name another"):
            export(made.run, place, overwrite=True)
    assert open_bundle(export(made.run, tmp_path / "new" / "out")).sids.n_items


def test_an_export_that_fails_leaves_what_was_there(made, tmp_path, monkeypatch):
    output = export(made.run, tmp_path / "out")

    def full(*args):
        raise OSError(28, "No space left on device")

    parts = _parts(made)
    monkeypatch.setattr(export_module, "sha256_of", full)
    with pytest.raises(InputError, match=r"cannot be written: .*No space left"):
        export(made.run, tmp_path / "other")
    with pytest.raises(InputError, match=r"cannot be written: .*No space left"):
        write_export(output, {}, *parts, overwrite=True)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert snapshot(output) == snapshot(made.export)


def _parts(made):
    bundle = open_bundle(made.export)
    return bundle.sids, bundle.vectors, made.export / "model.safetensors", None


def test_weights_are_written_as_those_of_other_sids(made, tmp_path):
    """As for a catalogue that has grown: the same weights, one more item."""
    bundle = open_bundle(made.export)
    _, vectors, weights, _ = _parts(made)
    codes = bundle.sids.codes
    free = next(
        code
        for code in np.ndindex(*bundle.sids.sizes)
        if not (codes == np.array(code)).all(axis=1).any()
    )
    grown = replace(
        bundle.sids,
        tokens=(*bundle.sids.tokens, "new"),
        codes=np.concatenate([codes, np.array([free], np.int32)]),
    )
    if vectors is not None:
        vectors = np.concatenate([vectors, vectors[:1]])
    held = {f"generator.{k}": v for k, v in bundle.generator.state_dict().items()}
    for number, given in enumerate((weights, held)):
        output = write_export(tmp_path / str(number), bundle.settings, grown, vectors, given, None)
        recommender = Recommender.load(output)
        assert recommender.n_items == 41
        assert recommender.recommend(["new"], 3).unknown == []
        only = recommender.recommend(["i1"], 3, allowed=recommender.filter(["new"]))
        assert only.items == ["new"]


def test_columns_travel_with_the_items(made, tmp_path):
    columns = {"title": [f"Thing {n}" for n in range(40)], "available_from": [None, 1.5] * 20}
    bundle = open_bundle(made.export)
    output = write_export(tmp_path / "out", bundle.settings, *_parts(made), items=columns)
    assert open_bundle(output).columns == columns
    again = export(output, tmp_path / "again")
    assert snapshot(again) == snapshot(output)
    wrong = {"title": ["one"]}
    output = write_export(tmp_path / "wrong", bundle.settings, *_parts(made), items=wrong)
    with pytest.raises(InputError, match="has 1 values of 'title', but there are 40 items"):
        open_bundle(output)
