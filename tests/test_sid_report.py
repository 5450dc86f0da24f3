"""``sids`` on eight items, whose figures are worked out by hand.

Users and their items in order; the last but one is validation, the last is test:

    u0: i0 i1 | i2 | i3      u2: i4 i5 | i6 | i7
    u1: i2 i3 | i0 | i1      u3: i6 i7 | i4 | i5

So training has the pairs 0-1, 2-3, 4-5 and 6-7. Items i0 to i3 are of one category, the others of
another; by vectors, i0 is near to i2, i1 to i3, i4 to i6 and i5 to i7.
"""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import recbole_sid
from recbole_sid import cli
from recbole_sid.errors import InputError
from recbole_sid.run_folder import read_json
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.sid_report_scores import Related, correlated
from recbole_sid.sid_report_table import score_notes
from tests.runs import snapshot, write_data
from tests.sealing import write_json, write_yaml

TOKENS = tuple(f"i{n}" for n in range(8))
ORDERS = {"u0": [0, 1, 2, 3], "u1": [2, 3, 0, 1], "u2": [4, 5, 6, 7], "u3": [6, 7, 4, 5]}
ANGLES = [0, 40, 5, 45, 180, 220, 185, 225]
# A pair of items that go together shares its whole SID.
PAIRED = {f"i{n}": [n // 4, n // 2 % 2] for n in range(8)}
# All differ, and no code says anything on the training pairs: they differ in both.
APART = {f"i{n}": [n % 2, n // 2 + 4 * (n % 2)] for n in range(8)}


@pytest.fixture
def base(tmp_path, monkeypatch) -> dict:
    """Settings that read the eight items; the working directory is the test's own."""
    rows = [(u, f"i{n}", time) for u, items in ORDERS.items() for time, n in enumerate(items)]
    given = write_data(tmp_path / "data", rows)
    lines = [f"i{n}\tThing | {n}\t{'AB'[n // 4]}" for n in range(8)]
    header = "item_id:token\ttitle:token\tkind:token"
    (tmp_path / "data" / "made" / "made.item").write_text("\n".join([header, *lines]) + "\n")
    radians = np.deg2rad(ANGLES)
    np.save(tmp_path / "v.npy", np.stack([np.cos(radians), np.sin(radians)], axis=1))
    (tmp_path / "ids.txt").write_text("\n".join(TOKENS) + "\n")
    (tmp_path / "paired.json").write_text(json.dumps(PAIRED))
    (tmp_path / "apart.json").write_text(json.dumps(APART))
    monkeypatch.chdir(tmp_path)
    return given | {
        "model": "TIGER",
        "dataset": "made",
        "item_category_field": "kind",
        "item_embedding_file": str(tmp_path / "v.npy"),
        "item_embedding_ids": str(tmp_path / "ids.txt"),
        "pair_source": "cooccurrence",
        "report_neighbours": 1,
        "topk": [5],
        "valid_metric": "NDCG@5",
        "show_progress": False,
        "cache_dir": str(tmp_path / "cache"),
    }


def report(base: dict, *sids: str, **own) -> dict:
    return recbole_sid.compare_sids(list(sids), config_dict=base, **own)


def test_figures_by_hand(base):
    result = report(base, "paired.json", "apart.json", output="r")
    paired, apart = result["sets"]
    assert (paired["label"], apart["label"]) == ("paired", "apart")
    use = paired["codes"]
    assert (use["collision_rate"], use["unique_items"], use["largest_group"]) == (1.0, 0, 2)
    assert use["entropy"] == pytest.approx(np.log(4))
    assert use["entropy_ceiling"] == pytest.approx(np.log(8))
    assert (use["dead_codes_1"], use["dead_codes_2"]) == (0, 0)
    assert (apart["codes"]["unique_items"], apart["codes"]["collision_rate"]) == (8, 0.0)
    # A published file says nothing of a rule.
    assert (paired["before"], paired["after"]) == (None, None)
    # The first code is the category.
    assert paired["v_measure"]["v_measure_1"] == pytest.approx(1.0)
    assert apart["v_measure"]["adjusted_mutual_information_1"] <= 0
    # Copies are found for sure. In APART a partner shares no code: the nearest one is one of
    # three others with the same first code.
    assert (paired["hit_rate"]["hit_rate"], apart["hit_rate"]["hit_rate"]) == (1.0, 0.0)
    assert paired["hit_rate"]["chance"] == pytest.approx(1 / 7, abs=1e-8)
    assert result["item_vectors"]["hit_rate"]["hit_rate"] == 0.0
    # By vectors i0 has i2, of the same category and of no equal SID.
    assert paired["neighbourhood"]["near_1"] == 1.0
    assert paired["neighbourhood"]["random_1"] == pytest.approx(3 / 7, abs=1e-8)
    assert paired["neighbourhood"]["near_2"] == 0.0
    groups = paired["largest_groups"]
    assert groups[0] == {"sid": [0, 0], "size": 2, "items": ["Thing | 0", "Thing | 1"]}
    assert (len(groups), apart["largest_groups"], result["left_out"]) == (4, [], [])


def test_before_and_after_the_rule(base):
    codes = np.array([[n // 2, n % 2] for n in range(8)], np.int32)
    dedup = SemanticIDs(TOKENS, codes, (5, 2), "dedup", {})
    Path("run").mkdir()
    dedup.save("run/sids.json")
    moved = {"collision": {"collision_rate_before": 0.25}}
    replace(dedup, collision="reassign_last", provenance=moved).save("moved.safetensors")
    first, second = report(base, "run", "moved.safetensors", output="r")["sets"]
    assert (first["label"], second["label"]) == ("run", "moved")
    assert first["codes"] == first["before"]
    assert (first["before"]["collision_rate"], first["after"]["collision_rate"]) == (1.0, 0.0)
    assert (first["codes"]["dead_codes_1"], first["after"]["unique_items"]) == (1, 8)
    assert "dead_codes_2" not in first["codes"]
    assert (second["before"], second["after"]["collision_rate"]) == ({"collision_rate": 0.25}, 0.0)
    # The dedup digit takes no part: partners share all the codes that are left.
    assert first["hit_rate"]["hit_rate"] == 1.0
    assert set(first["neighbourhood"]) == {"near_1", "random_1"}


def test_the_files_hold_the_result_and_the_same_bytes_again(base):
    result = report(base, "paired.json", "apart.json", labels=["a|b", "c"], output="r")
    folder = Path(result.pop("folder"))
    assert read_json(folder / "sid_report.json", "") == result
    text = (folder / "sid_report.md").read_text()
    assert "|  | a\\|b | c |" in text
    assert "| Hit rate | 1.0000 | 0.0000 |" in text
    assert "- 2 items, 0-0: Thing \\| 0; Thing \\| 1\n" in text
    assert "random order 0.1429" in text
    assert "report_neighbours 1" in text
    assert str(folder.parent.resolve()) not in text
    first, second, vectors = csv.DictReader((folder / "sid_report.csv").open())
    assert [row["label"] for row in (first, second, vectors)] == ["a|b", "c", "item vectors"]
    assert float(first["codes.collision_rate"]) == 1.0
    assert (first["hit_rate.hit_rate"], vectors["hit_rate.hit_rate"]) == ("1.0", "0.0")
    before = snapshot(folder)
    with pytest.raises(InputError, match="exists: name another --output"):
        report(base, "paired.json", output="r")
    assert snapshot(folder) == before
    # Rows of the data in another order change nothing but the hash of the files.
    files = [Path(f"data/made/made.{kind}") for kind in ("inter", "item")]
    stored = [file.read_text() for file in files]
    for file, text in zip(files, stored, strict=True):
        header, *lines = text.splitlines()
        file.write_text("\n".join([header, *lines[1:], lines[0]]) + "\n")
    again = report(base, "paired.json", "apart.json", labels=["a|b", "c"], output="s")
    assert again.pop("data_hash") != result.pop("data_hash")
    again.pop("folder")
    assert again == result
    for file, text in zip(files, stored, strict=True):
        file.write_text(text)
    report(base, "paired.json", "apart.json", labels=["a|b", "c"], output="r", overwrite=True)
    assert snapshot(folder) == before


def test_what_cannot_be_measured_is_left_out_with_a_line(base):
    del base["item_category_field"]
    result = report(base | {"report_vectors": False}, "paired.json")
    assert result["folder"] == "runs/made-sids"
    (entry,) = result["sets"]
    assert (entry["v_measure"], entry["neighbourhood"], result["item_vectors"]) == (None,) * 3
    assert entry["hit_rate"]["hit_rate"] == 1.0
    text = Path("runs/made-sids/sid_report.md").read_text()
    assert "- Agreement with categories: no item_category_field is set" in text
    assert "report_vectors is false" in text
    assert "Near 1" not in text


def test_no_pairs_and_no_titles(base):
    base |= {"item_text_fields": ["name"], "prompt_template": "{name}", "pair_max_items": 2}
    # Each user has three items in training, and none of them counts.
    rows = [(u, f"i{n}", t) for u in ("u0", "u1") for t, n in enumerate([0, 1, 2, 3, 4])]
    rows += [("u2", f"i{n}", t) for t, n in enumerate([5, 6, 7, 0, 1])]
    lines = ["\t".join(map(str, row)) for row in rows]
    Path("data/made/made.inter").write_text(
        "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines]) + "\n"
    )
    result = report(base, "paired.json", output="r")
    (entry,) = result["sets"]
    assert (entry["hit_rate"], result["item_vectors"]) == (None, None)
    assert entry["largest_groups"][0]["items"] == ["i0", "i1"]
    titles, hits = result["left_out"]
    assert titles.startswith("Titles, items are shown by their ids: ")
    assert hits.startswith("Hit rate: none of the 8 items has a neighbour")


def test_items_that_only_some_sets_have(base):
    Path("part.json").write_text(json.dumps({"x": [5, 5]} | {t: PAIRED[t] for t in TOKENS[2:]}))
    with pytest.raises(InputError, match=r"'part': 2 of the 8 items .* 1 of the 7 items"):
        report(base, "paired.json", "part.json", output="r")
    assert not Path("r").exists()
    result = report(base, "paired.json", "part.json", output="r", unknown="ignore")
    paired, part = result["sets"]
    assert (result["items"], result["items_in_data"]) == (6, 8)
    assert (part["items_missing"], part["items_unknown"], part["items_in_file"]) == (2, 1, 7)
    assert (paired["items_missing"], paired["items_unknown"]) == (0, 0)
    # Both are measured on the six items that both have, so all but the sizes agree.
    for key in ("hit_rate", "neighbourhood", "v_measure", "largest_groups"):
        assert paired[key] == part[key]
    assert paired["hit_rate"]["items"] == 6
    Path("other.json").write_text(json.dumps({"x": [0], "y": [1]}))
    with pytest.raises(InputError, match="no item in common"):
        report(base, "other.json", output="s", unknown="ignore")


BAD = {
    "no such file": ({"sids": ["none.json"]}, "there is no SID file 'none.json'"),
    "a folder without SIDs": ({"sids": ["data"]}, "there is no SID file 'data/sids.json'"),
    "no set": ({"sids": []}, "must list one file"),
    "one file and no list": ({"sids": "paired.json"}, "must list one file"),
    "a label twice": ({"sids": ["paired.json"] * 2}, "give each its own"),
    "too few labels": ({"labels": ["a", "b"]}, "1 sets of SIDs have the labels 'a', 'b'"),
    "an unknown rule": ({"unknown": "drop"}, "must be 'refuse' or 'ignore'"),
    "an output that is a file": ({"output": "v.npy"}, "is not a folder"),
    "k of 0": ({"report_neighbours": 0}, "'report_neighbours' is 0, but must be at least 1"),
    "k of all": ({"report_neighbours": 7}, "'report_neighbours' is 7, but must be from 1 to 6"),
    "an unknown source of pairs": ({"pair_source": "luck"}, "'pair_source' is 'luck'"),
    "k in words": ({"report_neighbours": "few"}, "must be a whole number"),
    "a misspelled setting": ({"report_neighbors": 3}, "Did you mean 'report_neighbours'"),
    "a setting of tokenize": ({"held_out_share": 0.5}, "belongs to the command tokenize"),
    "a model of RecBole": ({"model": "Pop"}, "'Pop' is RecBole's"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, base):
    given, message = BAD[name]
    own = {"sids": ["paired.json"], "output": "r"}
    own |= {key: given[key] for key in ("sids", "labels", "unknown", "output") if key in given}
    values = {key: value for key, value in given.items() if key not in own}
    if "model" in values:
        base = {key: base[key] for key in ("data_path", "dataset", "load_col")}
    with pytest.raises(InputError) as caught:
        recbole_sid.compare_sids(config_dict=base | values, **own)
    assert message in str(caught.value)
    assert not Path("r").exists()


def test_the_command_prints_what_it_writes(base, capsys):
    Path("base.yaml").write_text(yaml.safe_dump(base))
    line = ["sids", "--dataset=made", "--config_files=base.yaml", "--output=r"]
    assert cli.main([*line, "--sids=paired.json,apart.json", "--labels=one,two"]) == 0
    shown = capsys.readouterr().out
    assert shown == Path("r/sid_report.md").read_text() + "\nfolder: r\n"
    assert "|  | one | two |" in shown
    assert cli.main([*line, "--sids=paired.json"]) == 2
    assert "exists: name another --output" in capsys.readouterr().err
    assert cli.main([*line, "--sids=paired.json", "--overwrite"]) == 0
    assert cli.main(line) == 2
    assert "sids needs --sids" in capsys.readouterr().err


def test_its_settings_are_refused_elsewhere(base):
    with pytest.raises(InputError, match="'report_neighbours' belongs to the command sids"):
        recbole_sid.Config(config_dict=base)


def four_sets(tmp_path: Path) -> dict[str, str]:
    """More and more items share a SID; the last code is what the pairs have in common."""
    made = {}
    for number, label in enumerate(("apart", "one", "two", "three")):
        codes = {t: list(code) for t, code in APART.items()}
        for n in range(number):
            codes[f"i{2 * n + 1}"] = codes[f"i{2 * n}"]
        made[label] = str(tmp_path / f"{label}.json")
        Path(made[label]).write_text(json.dumps(codes))
    return made


def test_figures_are_held_against_scores(base, tmp_path):
    sets = four_sets(tmp_path)
    # The more items share a SID, the better; the mean of the seeds counts.
    Path("s.yaml").write_text("apart: [.1, .3]\none: .3\ntwo: .4\nthree: .5\n")
    result = report(base, *sets.values(), labels=list(sets), scores="s.yaml")
    assert [entry["score"] for entry in result["sets"]] == [0.2, 0.3, 0.4, 0.5]
    by_name = {row["figure"]: row for row in result["correlations"]}
    rate = by_name["codes.collision_rate"]
    assert (rate["rho"], rate["sets"]) == (1.0, 4)
    assert rate["p"] == pytest.approx(2 / 24)
    assert by_name["codes.distinct_ratio"]["rho"] == -1
    assert by_name["hit_rate"]["rho"] == 1
    assert not {"codes.entropy_ceiling", "label", "items_in_file"} & set(by_name)
    assert result["scores_from"] == "s.yaml"
    text = Path(result["folder"], "sid_report.md").read_text()
    assert "Scores (s.yaml): apart 0.2000, one 0.3000, two 0.4000, three 0.5000." in text
    assert "| codes.collision_rate | +1.00 | 0.0833 |" in text


def scored_runs(tmp_path: Path, config: dict) -> list[str]:
    """Folders of runs of the four sets; the first one validated nothing."""
    folders = []
    for number, (label, path) in enumerate(four_sets(tmp_path).items()):
        folder = tmp_path / f"run-{label}"
        folder.mkdir()
        recbole_sid.read_sids(path).save(folder / "sids.json")
        valid = {"ndcg@10": number / 10} if number else None
        write_json(folder / "result.json", {"best_valid_result": valid})
        write_yaml(folder / "config.yaml", config | {"seed": number})
        folders.append(str(folder))
    return folders


def test_scores_of_runs_and_too_few_of_them(base, tmp_path):
    folders = scored_runs(tmp_path, {"generator": "tiger"})
    result = report(base, *folders)
    assert [entry["score"] for entry in result["sets"]] == [None, 0.1, 0.2, 0.3]
    assert (result["correlations"], result["scored_as_one"], result["least_p"]) == (None, [], None)
    assert result["left_out"] == [
        "Correlation with a recommender's scores: 3 sets have a score, and at least 4 are needed"
    ]
    write_json(tmp_path / "run-apart" / "result.json", {"best_valid_result": {"ndcg@10": 0.05}})
    result = report(base, *folders, overwrite=True)
    assert result["scores_from"] == "NDCG@10 on validation, from the runs"
    assert result["correlations"][0]["p"] == pytest.approx(2 / 24)
    (tmp_path / "run-apart" / "result.json").write_text("[")
    with pytest.raises(InputError, match=r"result\.json' has no checksum"):
        report(base, *folders, overwrite=True)


def test_runs_of_several_generators_are_refused(base, tmp_path):
    config = {"generator": "tiger", "layers": 2, "tokenizer_levels": 3, "topk": [5]}
    folders = scored_runs(tmp_path, config)
    write_json(tmp_path / "run-apart" / "result.json", {"best_valid_result": {"ndcg@10": 0.05}})
    third = tmp_path / "run-two" / "config.yaml"
    # Settings of the tokenizer and of the tables are not the generator's.
    write_yaml(third, config | {"tokenizer_levels": 4, "topk": [10]})
    assert report(base, *folders, output="same")["correlations"]
    write_yaml(third, config | {"epochs": 7, "layers": 4})
    with pytest.raises(InputError) as caught:
        report(base, *folders, output="r")
    first = "tiger with epochs None, layers 2: 'run-apart', 'run-one', 'run-three'"
    assert f"{first}; tiger with epochs 7, layers 4: 'run-two'" in str(caught.value)
    write_yaml(third, {"generator": "intrr"})
    with pytest.raises(InputError) as caught:
        report(base, *folders, output="r")
    assert (
        "but these runs are of several: tiger: 'run-apart', 'run-one', 'run-three'; intrr: "
        "'run-two'. Give runs that differ in their SIDs and seeds alone, or the scores by hand, "
        "--scores FILE (LABEL: score)" in str(caught.value)
    )
    third.unlink()
    with pytest.raises(InputError, match=r"config\.yaml' cannot be read"):
        report(base, *folders, output="r")
    assert not Path("r").exists()
    write_yaml(third, {"generator": "intrr"})
    # So few that nothing is held against their scores; and scores by hand.
    assert report(base, *folders[1:], output="few")["correlations"] is None
    Path("s.yaml").write_text("run-apart: 1\nrun-one: 2\nrun-two: 3\nrun-three: 4\n")
    assert report(base, *folders, output="hand", scores="s.yaml")["correlations"]


def test_equal_sets_count_once_with_the_mean_of_their_scores(base, tmp_path):
    sets = four_sets(tmp_path) | {"again|": str(tmp_path / "three.json")}
    Path("s.yaml").write_text("apart: .1\none: .2\ntwo: .4\nthree: .5\nagain|: .1\n")
    result = report(base, *sets.values(), labels=list(sets), scores="s.yaml")
    # The scores are .1 .2 .4 and, of both together, .3: ranks 1 2 4 3 against 1 2 3 4, so that
    # rho = 1 - 6 * (1 + 1) / (4 * 15) = .8; 8 of 24 orders are as far from 0.
    rate = {row["figure"]: row for row in result["correlations"]}["codes.collision_rate"]
    assert (rate["rho"], rate["sets"]) == (pytest.approx(0.8), 4)
    assert rate["p"] == pytest.approx(8 / 24)
    assert result["scored_as_one"] == [["three", "again|"]]
    assert [entry["score"] for entry in result["sets"]] == [0.1, 0.2, 0.4, 0.5, 0.1]
    text = Path(result["folder"], "sid_report.md").read_text()
    assert "Spearman's rank correlation over these 4 sets" in text
    assert "three, again\\| have the same SIDs: they count as one set" in text
    few = {label: sets[label] for label in ("one", "two", "three", "again|")}
    Path("s.yaml").write_text("one: .2\ntwo: .4\nthree: .5\nagain|: .1\n")
    result = report(base, *few.values(), labels=list(few), scores="s.yaml", overwrite=True)
    assert result["left_out"][-1].endswith(
        "4 sets have a score, 3 of them different, and at least 4 are needed"
    )


def entries(figures: dict[str, list[float | None]]) -> list[dict]:
    """Sets as a report holds them, a figure a list; the labels are 0, 1 …"""
    columns = zip(*figures.values(), strict=True)
    parts = dict.fromkeys(("v_measure", "hit_rate", "neighbourhood"))
    return [
        {
            "label": str(number),
            "fingerprint": str(number),
            "codes": {k: v for k, v in zip(figures, column, strict=True) if v is not None},
            **parts,
        }
        for number, column in enumerate(columns)
    ]


def test_figures_that_all_sets_have_come_first():
    # On the last four sets the deep figure has rho -1, on all five the wide ones have
    # 1 - 6 * (4 + 1 + 1 + 1 + 1) / (5 * 24) = .6 and 1 - 6 * (1 + 1) / (5 * 24) = .9.
    figures = {"deep": [None, 4, 3, 2, 1], "wide": [3, 1, 2, 5, 4], "near": [2, 1, 3, 4, 5]}
    found = correlated(entries(figures), {str(n): n / 10 for n in range(5)}, seed=0)
    assert isinstance(found, Related)
    shown = [(row["figure"], row["sets"], round(row["rho"], 6)) for row in found.rows]
    assert shown == [("codes.near", 5, 0.9), ("codes.wide", 5, 0.6), ("codes.deep", 4, -1.0)]


@pytest.mark.parametrize(
    ("scores", "n_figures", "least"),
    [
        ([1, 2, 3, 4], 1, 2 / 24),
        ([1, 2, 3, 4], 20, 1.0),
        ([1, 2, 3, 4, 5], 2, 2 * 2 / 120),
        ([1, 2, 3, 4, 5], 4, 4 * 2 / 120),
        # Two orders of equal scores are one; no order of these turns the ranks round.
        ([1, 1, 2, 3, 4], 2, 2 * 2 / 120),
        # Here one does, which makes 2 * (2 * 2) of 24.
        ([1, 1, 2, 2], 1, 8 / 24),
    ],
)
def test_the_smallest_p_that_can_be_reached(scores, n_figures, least):
    n = len(scores)
    figures = {f"f{k}": [float((k + place) % n) for place in range(n)] for k in range(n_figures)}
    given = {str(place): score for place, score in enumerate(scores)}
    found = correlated(entries(figures), given, seed=0)
    assert isinstance(found, Related)
    assert found.least_p == pytest.approx(least)
    result = {
        "sets": [{"score": score} for score in scores],
        "correlations": found.rows,
        **{"scored_as_one": found.as_one, "least_p": found.least_p},
    }
    notes = score_notes(result, str)
    assert bool(notes) == (least > 0.05)
    said = f"With {n} sets and {n_figures} figures the smallest p after correction that could be"
    assert all(note.startswith(f"{said} reached is {least:.4f}: ") for note in notes)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ("pair: 1", "there is no set 'pair'. Did you mean 'paired'"),
        ("paired: good", "'paired' is 'good', but must be a number or a list of numbers"),
        ("paired: []", "must be a number or a list of numbers"),
        ("paired: [1, true]", "must be a number or a list of numbers"),
    ],
)
def test_bad_scores(scores, message, base):
    Path("s.yaml").write_text(scores)
    with pytest.raises(InputError, match=re.escape(message)):
        report(base, "paired.json", scores="s.yaml")
    assert not Path("runs").exists()
