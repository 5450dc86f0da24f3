"""Settings as plain data, and the hash that tells runs apart."""

import pytest
import yaml

from recbole_sid.config import Config
from recbole_sid.errors import InputError
from tests.configs import made, tiger


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
