"""New items in a finished run: SIDs, trie and lists, without training and without moving any."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import recbole_sid
from recbole_sid.errors import InputError
from recbole_sid.run_folder import SIDS, TOKENIZER, WEIGHTS, read_json
from recbole_sid.serving import export as export_module
from recbole_sid.serving.append import append
from recbole_sid.serving.bundle import APPENDED, open_bundle
from recbole_sid.serving.bundle import SIDS as EXPORTED_SIDS
from recbole_sid.serving.export import export
from recbole_sid.serving.recommender import Recommender
from recbole_sid.sid.table import SemanticIDs
from tests.runs import SMALL, snapshot, write_data

N_ITEMS, N_NEW, WIDTH = 40, 6, 8
NEW = [f"n{number}" for number in range(N_NEW)]
RQKMEANS = {"tokenizer": "rqkmeans", "tokenizer_codebook_size": 4, "tokenizer_levels": 2}
MMQ = {
    "tokenizer": "mmq",
    "tokenizer_epochs": 2,
    "tokenizer_hidden_sizes": [16],
    "tokenizer_shared_dim": 8,
    "tokenizer_latent_dim": 8,
    "behaviour_hidden_size": 8,
    "behaviour_epochs": 2,
}
INTRR = {"item_embedding": False, "content_vectors": True}


def vector(token: str) -> np.ndarray:
    """Of an old item; new ones lie close to the old one of their number."""
    near = np.random.default_rng(int(token[1:])).normal(size=WIDTH)
    return near.astype(np.float32) + (0.01 if token.startswith("n") else 0)


def write_vectors(path: Path, tokens: list[str]) -> dict[str, str]:
    ids = path.with_suffix(".txt")
    np.save(path, np.stack([vector(token) for token in tokens]))
    ids.write_text("\n".join(tokens) + "\n")
    return {"item_embedding_file": str(path), "item_embedding_ids": str(ids)}


def write_items(path: Path, tokens: list[str], since: str = "") -> Path:
    lines = [f"{token}\tThing {token}\t{since}" for token in tokens]
    path.write_text("\n".join(["item_id:token\ttitle:token\tsince:float", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def train(tmp_path_factory, cache):
    """Gives the folder of a small run, made once, of a model with changed settings."""
    folder = tmp_path_factory.mktemp("append")
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{item}", time)
        for user in range(30)
        for time, item in enumerate(rng.permutation(N_ITEMS)[:8])
    ]
    given: dict[str, Any] = {k: v for k, v in SMALL.items() if not k.endswith("_num_interval")}
    given |= write_data(folder, rows) | RQKMEANS | {"cache_dir": cache, "collision_headroom": 3}
    old = [f"i{item}" for item in range(N_ITEMS)]
    write_items(folder / "made" / "made.item", old)
    given |= write_vectors(folder / "old.npy", old)
    made: dict[str, str] = {}

    def run(name: str, model: str = "TIGER", **changes: Any) -> str:
        if name not in made:
            settings = given | {"output": str(folder / name)} | changes
            if settings["tokenizer"] == "mmq":
                del settings["tokenizer_levels"]
            if model in ("IntRR", "Duet", "Trio"):
                for key in ("encoder_layers", "decoder_layers"):
                    del settings[key]
            made[name] = recbole_sid.run(model, "made", config_dict=settings)["run_folder"]
        return made[name]

    return run


@pytest.fixture
def new(tmp_path):
    """The arguments of an append of the new items."""
    return {
        "items": write_items(tmp_path / "new.item", NEW),
        "output": tmp_path / "out",
        "show_progress": False,
        **write_vectors(tmp_path / "new.npy", NEW),
    }


def images(path: Path, tokens: list[str]) -> dict[str, str]:
    """Image files of the items, which are their vectors."""
    names = {"item_embedding_file": "item_image_file", "item_embedding_ids": "item_image_ids"}
    return {names[key]: value for key, value in write_vectors(path, tokens).items()}


def test_append_to_a_tokenizer_that_reads_images_beside_vectors(train, new, tmp_path):
    old = [f"i{item}" for item in range(N_ITEMS)]
    run = train("mmq", **MMQ, **images(tmp_path / "old-images.npy", old))
    append(run, **new, **images(tmp_path / "new-images.npy", NEW))
    sids = SemanticIDs.load(new["output"] / EXPORTED_SIDS)
    assert sids.n_items == N_ITEMS + N_NEW


def test_append_moves_nothing_and_recommends_at_once(train, new):
    run = train("tiger")
    before = snapshot(Path(run))
    report = append(run, **new)
    assert snapshot(Path(run)) == before
    old = SemanticIDs.load(Path(run) / SIDS)
    sids = SemanticIDs.load(new["output"] / EXPORTED_SIDS)
    assert sids.tokens == (*old.tokens, *NEW)
    assert sids.codes[:N_ITEMS].tobytes() == old.codes.tobytes()
    assert (sids.sizes, sids.collision) == (old.sizes, "dedup")
    assert len(np.unique(sids.codes, axis=0)) == N_ITEMS + N_NEW
    # So near to the old one of their number that they have its codes, up to the digit.
    twins = sids.aligned([f"i{number}" for number in range(N_NEW)], unknown="ignore")
    assert np.array_equal(sids.base_codes[N_ITEMS:], twins.base_codes)
    assert report["collisions"]["met_old"] == report["collisions"]["took_digit"] == N_NEW
    assert (report["items_before"], report["items_after"]) == (N_ITEMS, N_ITEMS + N_NEW)
    assert report["fullness"]["room"] == old.sizes[-1]
    assert set(report["seconds"]) >= {"open", "vectors", "assign", "collisions", "write"}
    assert read_json(new["output"] / APPENDED, "") == report
    found = Recommender.load(new["output"]).recommend(["i3", NEW[0]], k=46, beam_size=46)
    assert sorted(found.items) == sorted(sids.tokens)
    assert (sids.provenance["appended"], report["appended_share"]) == (6, 6 / 46)


def test_the_report_is_there_as_soon_as_the_export_is(train, new, monkeypatch):
    def move(temporary: Path, output: Path) -> None:
        os.replace(temporary, output)
        raise KeyboardInterrupt

    monkeypatch.setattr(export_module, "_move", move)
    with pytest.raises(KeyboardInterrupt):
        append(train("tiger"), **new)
    assert read_json(new["output"] / APPENDED, "")["items_after"] == N_ITEMS + N_NEW


def test_weights_that_know_no_item_are_those_of_the_run(train, new):
    run = train("tiger")
    append(run, **new)
    ours, theirs = (load_file(Path(folder) / WEIGHTS) for folder in (run, new["output"]))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    assert (new["output"] / TOKENIZER).read_bytes() == (Path(run) / TOKENIZER).read_bytes()


def test_an_export_without_the_data_gives_the_same(train, new, tmp_path):
    run = train("tiger")
    append(run, **new)
    export(run, tmp_path / "export")
    append(tmp_path / "export", **new | {"output": tmp_path / "other"})
    left, right = (open_bundle(tmp_path / name).sids for name in ("out", "other"))
    assert left.fingerprint() == right.fingerprint()


def test_two_appends_give_what_one_gives_up_to_the_order_of_digits(train, new, tmp_path):
    run = train("tiger")
    append(run, **new)
    once = open_bundle(new["output"]).sids
    found = []
    for parts in ((NEW[:2], NEW[2:]), (NEW[2:], NEW[:2])):
        place = tmp_path / f"twice-{parts[0][0]}"
        for tokens, source in zip(parts, (run, place), strict=True):
            items = write_items(tmp_path / "part.item", tokens)
            append(source, **new | {"items": items, "output": place, "overwrite": source == place})
        twice = open_bundle(place).sids
        assert twice.provenance == once.provenance
        found.append(twice.aligned(once.tokens))
    # n1 and n2 have one base SID, on which the first that comes has the lower digit.
    assert np.array_equal(once.base_codes[N_ITEMS + 1], once.base_codes[N_ITEMS + 2])
    assert found[0].fingerprint() == once.fingerprint()
    swapped = once.codes.copy()
    swapped[[N_ITEMS + 1, N_ITEMS + 2]] = once.codes[[N_ITEMS + 2, N_ITEMS + 1]]
    assert np.array_equal(found[1].codes, swapped)


def test_known_items(train, new, tmp_path):
    run = train("tiger")
    write_items(new["items"], ["i7", *NEW])
    with pytest.raises(InputError, match=r"1 of the 7 .* known to the run: 'i7'.*--known=skip"):
        append(run, **new)
    report = append(run, **new, known="skip")
    assert (report["known_skipped"], report["items_after"]) == (1, N_ITEMS + N_NEW)
    write_items(new["items"], ["i7"])
    with pytest.raises(InputError, match=r"all 1 items .* are known"):
        append(run, **new | {"output": tmp_path / "none"}, known="skip")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("model", ["IntRR", "Duet", "Trio"])
def test_content_vectors_grow(model, train, new):
    run = train(model.lower(), model, **INTRR)
    append(run, **new)
    bundle = open_bundle(new["output"])
    assert bundle.vectors is not None
    old = open_bundle(run).vectors
    assert np.array_equal(bundle.vectors[:N_ITEMS], old)
    assert np.array_equal(bundle.vectors[N_ITEMS:], [vector(token) for token in NEW])
    found = Recommender.load(new["output"]).recommend([NEW[0]], k=46, beam_size=46)
    assert set(NEW) <= set(found.items)


def test_new_items_bring_the_time_from_which_they_are_there(train, new, tmp_path):
    run = train("timed", available_from_field="since")
    write_items(new["items"], NEW, since="100")
    append(run, **new)
    export(run, tmp_path / "export")
    append(tmp_path / "export", **new | {"output": tmp_path / "again"})
    for folder in (new["output"], tmp_path / "again"):
        recommender = Recommender.load(folder)
        for now, there in ((99, False), (100, True)):
            found = recommender.recommend(["i3"], k=46, beam_size=46, now=now)
            assert set(NEW).isdisjoint(found.items) != there
            assert len(found.items) == N_ITEMS + N_NEW * there


def test_rules_of_the_run_do_not_hold_back_new_items(train, new, tmp_path):
    (tmp_path / "allowed.txt").write_text("i1\ni2\n")
    run = train("allowed", allowed_items=str(tmp_path / "allowed.txt"))
    append(run, **new)
    found = Recommender.load(new["output"]).recommend(["i3"], k=46, beam_size=46)
    assert sorted(found.items) == sorted(["i1", "i2", *NEW])


def test_learned_rows_of_items(train, new):
    run = train("intrr-rows", "IntRR", item_embedding=True, content_vectors=False)
    with pytest.raises(
        InputError,
        match=r"'intrr' learned 'item_embedding.weight' .*item_embedding: False, content_vectors",
    ):
        append(run, **new)
    run = train("tiger-rows", item_embedding=True)
    with pytest.raises(
        InputError, match=r"'tiger' learned .* train it with item_embedding: False$"
    ):
        append(run, **new)
    assert not new["output"].exists()


def test_learned_rows_beside_content_vectors_are_zero_for_new_items(train, new):
    run = train("intrr-both", "IntRR", item_embedding=True, content_vectors=True)
    assert append(run, **new)["without_own_vector"] == N_NEW
    weight = load_file(new["output"] / WEIGHTS)["generator.item_embedding.weight"]
    trained = load_file(Path(run) / WEIGHTS)["generator.item_embedding.weight"]
    assert weight[: N_ITEMS + 1].equal(trained)
    assert weight.shape[0] == N_ITEMS + N_NEW + 1
    assert not weight[N_ITEMS + 1 :].any()
    Recommender.load(new["output"]).recommend([NEW[0]], k=5)


def test_tokenizers_that_cannot(train, new):
    changes = {"tokenizer": "random", "item_embedding_file": None, "item_embedding_ids": None}
    run = train("random", **changes)
    with pytest.raises(InputError, match=r"'random' cannot give codes .* one of rqkmeans, rqvae"):
        append(run, **new)


def test_without_the_tokenizers_weights(train, new, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in snapshot(Path(train("tiger"))).items():
        if content is not None and name != TOKENIZER and "/" not in name:
            (copy / name).write_bytes(content)
    with pytest.raises(InputError, match=r"no tokenizer.safetensors"):
        append(copy, **new)


def test_bad_arguments(train, new, tmp_path):
    run = train("tiger")
    bad = [
        ({"known": "ignore"}, "'known' is 'ignore'"),
        ({"most_moved": 2}, "'most_moved' is 2"),
        ({"most_drift": -1}, "'most_drift' is -1"),
        ({"items": tmp_path / "new.csv"}, "not an .item file"),
        ({"items": tmp_path / "no.item"}, "no item file"),
        ({"item_embedding_file": None}, "trained with setting 'item_embedding_file'"),
        ({"item_image_file": "x.npy"}, "'item_image_file' is 'x.npy', but the run"),
        ({"output": new["items"]}, "is no folder: name another"),
        ({"output": Path(run)}, "which is no part of an export"),
        ({"output": Path(run), "overwrite": True}, "which is no part of an export"),
    ]
    for changes, message in bad:
        with pytest.raises(InputError, match=message):
            append(run, **new | changes)
    with pytest.raises(InputError, match=r"not the folder of a finished run"):
        append(tmp_path, **new)
    np.save(new["item_embedding_file"], np.zeros((N_NEW, WIDTH + 1), np.float32))
    with pytest.raises(InputError, match=r"9 dimensions"):
        append(run, **new)


def test_the_advice_follows_the_limits(train, new):
    run = train("tiger")
    report = append(run, **new)
    assert report["retokenize"] == []
    # New items lie where the old ones do: hardly any drift.
    assert abs(report["drift"]["shift"]) < 0.5
    far = np.stack([vector(token) + 100 for token in NEW])
    np.save(new["item_embedding_file"], far)
    report = append(run, **new, overwrite=True, most_appended=0.1, most_filled=0.01)
    assert report["drift"]["shift"] > 10
    reasons = report["retokenize"]
    assert len(reasons) == 3 + (report["collisions"]["moved"] > 0)
    assert any("13.0% of the items were never trained on" in reason for reason in reasons)


def test_items_without_room_are_refused(train, new):
    run = train("full", collision="nearest_free", collision_headroom=0, tokenizer_codebook_size=7)
    many = [f"n{number}" for number in range(10)]
    write_items(new["items"], many)
    files = write_vectors(Path(new["item_embedding_file"]), many)
    with pytest.raises(InputError, match=r"10 new items do not fit.*49 places, and 40 are taken"):
        append(run, **new | files)
    assert not new["output"].exists()


def test_texts_are_encoded_as_in_training(train, new, monkeypatch):
    """Without vectors of one's own, the prompts of the new items go to the run's encoder."""
    seen: list[list[str]] = []

    def encode(texts, settings, cache, device, progress, world):
        seen.append(list(texts))
        return np.stack([vector(text.split()[-1]) for text in texts])

    monkeypatch.setattr("recbole_sid.tokenizer.pipeline.encode", encode)
    run = train("texts", item_embedding_file=None, item_embedding_ids=None)
    texts = new | {"item_embedding_file": None, "item_embedding_ids": None}
    append(run, **texts)
    assert len(seen[0]) == N_ITEMS
    assert [text.split()[-1] for text in seen[-1]] == NEW
    new["items"].write_text("item_id:token\tname:token\nn1\tThing n1\n")
    with pytest.raises(InputError, match=r"no column 'title'"):
        append(run, **texts | {"output": new["output"].with_name("other")})
