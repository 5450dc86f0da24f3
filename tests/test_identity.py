"""Settings as plain data, and the hash that tells runs apart."""

import logging
import re
from pathlib import Path

import pytest
import recbole
import yaml
from recbole.data import transform

import recbole_sid
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from tests.configs import made, tiger
from tests.runs import CUT


@pytest.mark.parametrize("model", ["TIGER", "SASRec", "BPR"])
def test_plain_settings_give_the_same_config_again(tmp_path, model):
    data = made(tmp_path)
    first = Config(
        model,
        "made",
        config_dict={
            "data_path": data,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "topk": 10,
            "epochs": 3,
        },
    )
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(first.to_plain()))
    again = Config(config_file_list=[file])
    assert again.to_plain() == first.to_plain()
    assert again.settings_hash() == first.settings_hash()
    assert again.run_folder == first.run_folder
    assert again["data_path"] == first["data_path"] == str(tmp_path / "made")
    assert again["train_neg_sample_args"] == first["train_neg_sample_args"]


def test_the_hash_sees_what_changes_a_result_and_nothing_else():
    first = tiger().settings_hash()
    same = [{"output": "x"}, {"resume": True}, {"show_progress": False}, {"cache_dir": "/c"},
            {"gpu_id": "1"}, {"state": "DEBUG"}, {"learning_rate": tiger()["learning_rate"]},
            {"generator": "tiger"}]  # fmt: skip
    other = [{"learning_rate": 0.1}, {"seed": 1}, {"tokenizer": "random"}, {"collision": "none"},
             {"topk": [10]}, {"prompt_template": "{movie_title}"}]  # fmt: skip
    assert [tiger(**given).settings_hash() == first for given in same] == [True] * len(same)
    hashes = {tiger(**given).settings_hash() for given in other}
    assert len(hashes | {first}) == len(other) + 1


def test_plain_settings_hold_in_any_folder_and_name_no_start(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    made(tmp_path / "data")
    for name in ("v.npy", "ids.txt", "s.json"):
        (tmp_path / name).write_text("{}")
    loaded = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    own = {"item_embedding_file": "v.npy", "item_embedding_ids": "ids.txt",
           "tokenizer": "file", "sid_file": "s.json"}  # fmt: skip
    start = {"output": "out", "overwrite": True, "resume": False}
    monkeypatch.chdir(tmp_path)
    first = Config("TIGER", "made", None, {"data_path": "data", **loaded, **own, **start})
    plain = first.to_plain()
    assert not start.keys() & plain.keys()
    assert plain["data_path"] == str(tmp_path / "data")
    for key in ("item_embedding_file", "item_embedding_ids", "sid_file"):
        assert plain[key] == str(tmp_path / own[key])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = Config(config_dict=plain)
    assert again.settings_hash() == first.settings_hash()
    assert not again.run.overwrite
    (tmp_path / "s.json").unlink()
    with pytest.raises(InputError, match=r"'sid_file' is .* no such file"):
        Config(config_dict=plain)
    assert Config(config_dict=plain, stage_1=False).settings_hash() == first.settings_hash()


def test_one_number_in_two_spellings_has_one_hash():
    assert tiger(weight_decay=1).settings_hash() == tiger(weight_decay=1.0).settings_hash()


def test_what_recbole_adds_while_it_reads_the_data_is_no_setting():
    added = set()
    folder = Path(recbole.__file__).parent
    for part in ("data", "model", "trainer", "sampler", "evaluator"):
        for file in (folder / part).rglob("*.py"):
            added |= set(re.findall(r"""\bconfig\[["'](\w+)["']\] = """, file.read_text("utf-8")))
    assert {"MASK_ITEM_SEQ", "CROP_ITEM_SEQ_LEN", "feature_num"} <= added
    config = Config("SASRec", "ml-100k", config_dict={"train_neg_sample_args": None})
    plain, first = config.to_plain(), config.settings_hash()
    for name in added:
        config[name] = "added"
    assert config.to_plain() == plain
    assert config.settings_hash() == first


@pytest.mark.parametrize("name", ["mask_itemseq", "inverse_itemseq", "crop_itemseq"])
def test_a_transform_of_recbole_changes_no_hash(name):
    given = {"transform": name, "mask_ratio": 0.2, "ft_ratio": 0.5, "crop_eta": 0.6}
    config = Config("SASRec", "ml-100k", config_dict={"train_neg_sample_args": None, **given})
    first = config.settings_hash()
    before = set(config.final_config_dict)
    transform.construct_transform(config)
    assert set(config.final_config_dict) > before
    assert config.settings_hash() == first


def test_a_finished_bert4rec_is_known_again(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    settings = {**CUT, "train_neg_sample_args": None, "hidden_size": 16, "inner_size": 16}
    first = recbole_sid.run("BERT4Rec", "ml-100k", config_dict=settings)
    with caplog.at_level(logging.WARNING, "recbole_sid"):
        again = recbole_sid.run("BERT4Rec", "ml-100k", config_dict=settings)
    assert "This run is finished already" in caplog.text
    assert again == first
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == [
        f"ml-100k-BERT4Rec-{first['settings_hash'][:10]}"
    ]
