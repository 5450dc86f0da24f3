import re
from pathlib import Path

import pytest

from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.registry import recbole_models
from tests.configs import configure

HEADER = "user_id:token\titem_id:token\ttimestamp:float\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A sound dataset of one row, called made."""
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "made.inter").write_text(HEADER + "u\ti\t1\n")
    (folder / "made.item").write_text("item_id:token\ttitle:token\ni\tShoe\n")
    return folder


def test_a_sound_dataset_is_accepted(data):
    assert configure(data)["data_path"] == str(data)
    assert configure(data, "BPR", load_col={"inter": ["user_id", "item_id"]}).model == "BPR"
    assert configure(data, load_col={"inter": "*"}).model == "TIGER"
    assert configure(data, load_col=None).model == "TIGER"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tokenzier": "rqvae"}, "unknown setting 'tokenzier'. Did you mean 'tokenizer'"),
        ({"beam_siz": 50}, "unknown setting 'beam_siz'. Did you mean 'beam_size'"),
        ({"zzz": 1}, "unknown setting 'zzz'."),
        (
            {"tokenizer": "rqkmeans", "tokenizer_epochs": 3},
            "'tokenizer_epochs' belongs to tokenizer 'rqvae' or 'quasid' or 'letter' or 'mmq' or "
            "'unisid', not to 'rqkmeans': remove it, or choose --tokenizer=rqvae",
        ),
        ({"sid_file": "a.json"}, "'sid_file' belongs to tokenizer 'file', not to 'rqvae'"),
        ({"tokenizer": "rqkmean"}, "unknown tokenizer 'rqkmean'"),
        ({"generator": "tigre"}, "'intrr', 'tiger', 'trio'. Did you mean 'tiger'"),
        ({"collision": "drop"}, "'collision' is 'drop', but must be one of 'dedup', 'none'"),
        ({"metrics": ["Recal"]}, "unknown metric 'Recal'. Did you mean 'Recall'"),
        ({"metrics": []}, "'metrics' is [], but must be"),
        ({"valid_metric": "MAP@10"}, "'valid_metric' is 'MAP@10', but must be one of the measured"),
        ({"topk": [20], "beam_size": 50}, "must be one of the measured recall@20"),
        ({"topk": [0]}, "'topk' is [0]"),
        ({"topk": "all"}, "'topk' is 'all'"),
        ({"beam_size": 9}, "'beam_size' is 9, but must be at least max(topk) = 10"),
        ({"beam_size": "many"}, "'beam_size' is 'many', but must be a whole number"),
        ({"beam_size": [20]}, "'beam_size' is [20], but must be a whole number"),
        ({"metrics": ["GAUC"], "valid_metric": "GAUC"}, "'GAUC' needs the score or rank of every"),
        ({"metrics": ["AUC"], "valid_metric": "AUC"}, "'AUC' needs the score or rank of every"),
        ({"metrics": ["Recall", "AUC"], "valid_metric": "AUC", "eval_args": {"mode": "uni9"}},
         "'AUC' cannot be measured together"),
        ({"eval_args": {"order": "RO"}}, "'eval_args: order' is 'RO', but must be TO"),
        ({"eval_args": {"order": "TO", "mode": "half"}}, "RecBole refuses the settings: the mode"),
        ({"repeatable": False}, "RecBole refuses the settings: Sequential models currently only"),
        ({"epochs": "many"}, "'epochs' is 'many', but must be a whole number"),
        ({"learning_rate": 0}, "'learning_rate' is 0.0, but must be above 0"),
        ({"train_batch_size": 0}, "'train_batch_size' is 0, but must be 1 or more"),
        ({"stopping_step": -1}, "'stopping_step' is -1, but must be 0 or more"),
        ({"seed": -1}, "'seed' is -1"),
        ({"resume": "maybe"}, "'resume' is 'maybe', but must be true or false"),
        ({"tokenizer_levels": 0}, "'tokenizer_levels' is 0"),
        ({"tokenizer": "file"}, "Give --sid_file=PATH"),
        ({"tokenizer": "file", "sid_file": "no.json"}, "'no.json', but there is no such file"),
        ({"item_embedding_file": "no.npy"}, "'item_embedding_file' is 'no.npy', but there is no"),
        ({"tokenizer": "unisid", "item_image_file": "no.npy"},
         "'item_image_file' is 'no.npy', but there is no such file"),
        ({"text_encoder_pooling": "max"}, "'text_encoder_pooling' is 'max'"),
        ({"item_text_fields": ["titel"]}, "has no column 'titel'; it has item_id, title. Did you"),
        ({"benchmark_filename": ["a"]}, "'benchmark_filename' is ['a'], but must be a list of thr"),
        ({"benchmark_filename": ["a", "b", "c"]}, "made.a.inter' does not exist"),
        ({"checkpoint_dir": "saved"}, "'checkpoint_dir' is not used"),
        ({"TIME_FIELD": "when"}, "has no column 'when'; it has user_id, item_id, timestamp."),
        ({"load_col": {"inter": ["user_id", "item_id"]}},
         "Set load_col: {inter: [user_id, item_id, timestamp]}"),
    ],
)  # fmt: skip
def test_bad_settings(data, given, message):
    with pytest.raises(InputError, match=re.escape(message)):
        configure(data, **given)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("TIGR", "unknown model 'TIGR'. Did you mean 'TIGER'"),
        ("SASrec", "unknown model 'SASrec'. Did you mean 'SASRec'"),
        (
            "qqqq",
            "unknown model 'qqqq'. Models of recbole_sid: DiffGRM, Duet, H2Rec, IntRR, LETTER, ",
        ),
        ("../BPR", "unknown model '../BPR'"),
    ],
)
def test_unknown_models(data, model, message):
    with pytest.raises(InputError, match=re.escape(message)):
        configure(data, model)


@pytest.mark.parametrize("model", ["TIGER", "BPR"])
@pytest.mark.parametrize(
    "name", ["../made", "a/b", "..", ".", "", "a\\b", "/etc", "..\n", "a\0", 3]
)
def test_a_dataset_name_cannot_leave_the_data_folder(model, name):
    with pytest.raises(InputError, match="dataset name"):
        Config(model, name)


def test_missing_data(data):
    with pytest.raises(InputError, match=r"data folder .*absent' does not exist.*--data_path"):
        configure(data.parent / "absent")
    (data / "made.item").unlink()
    with pytest.raises(InputError, match=r"made\.item' does not exist"):
        configure(data)
    assert configure(data, tokenizer="random").model == "TIGER"
    (data / "made.inter").unlink()
    for model in ("TIGER", "BPR"):
        with pytest.raises(InputError, match=r"made\.inter' does not exist"):
            configure(data, model)


def test_own_vectors_need_no_item_file(data, tmp_path):
    (data / "made.item").unlink()
    vectors = tmp_path / "vectors.npy"
    vectors.write_bytes(b"")
    assert configure(data, item_embedding_file=str(vectors)).model == "TIGER"


def test_a_file_that_is_not_text(data):
    (data / "made.inter").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"made\.inter' cannot be read"):
        configure(data)


def test_headers_with_a_byte_order_mark_and_windows_line_ends(data):
    (data / "made.inter").write_bytes(
        b"\xef\xbb\xbf" + HEADER.strip().encode() + b"\r\nu\ti\t1\r\n"
    )
    assert configure(data).model == "TIGER"


def test_benchmark_files_need_histories_but_no_times(data):
    columns = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    names = ["train", "valid", "test"]
    given = {
        "benchmark_filename": names,
        "load_col": {"inter": ["user_id", "item_id", "item_id_list"]},
        "alias_of_item_id": ["item_id_list"],
    }
    for name in names:
        (data / f"made.{name}.inter").write_text(columns)
    assert configure(data, **given).model == "TIGER"
    (data / "made.valid.inter").write_text("user_id:token\titem_id:token\n")
    with pytest.raises(InputError, match=r"made\.valid\.inter' has no column 'item_id_list'"):
        configure(data, **given)


def test_models_of_other_libraries_ask_for_them(data):
    assert recbole_models()["LightGBM"] == "exlib_recommender"
    with pytest.raises(InputError, match="pip install lightgbm xgboost"):
        configure(data, "LightGBM")
