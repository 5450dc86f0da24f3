import logging
import os
import pickle
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import recbole.config
import recbole.data
import recbole.trainer
import torch
from recbole.utils import get_model, get_trainer, init_seed

import recbole_sid
from recbole_sid import compat, datasets
from recbole_sid.config import Config
from recbole_sid.errors import InputError

SMALL = {
    "epochs": 1,
    "seed": 7,
    "show_progress": False,
    "MAX_ITEM_LIST_LENGTH": 10,
    "user_inter_num_interval": "[20,24]",  # 107 users of 943
    "train_batch_size": 512,
    "embedding_size": 16,
    "hidden_size": 16,
    "inner_size": 32,
    "n_layers": 1,
    "metrics": ["Recall", "NDCG", "MRR", "Hit"],
    "topk": [5, 20],
    "valid_metric": "NDCG@20",
}
COUNTING = {
    "metrics": ["ItemCoverage", "GiniIndex", "AveragePopularity", "TailPercentage"],
    "topk": [10],
    "valid_metric": "ItemCoverage@10",
}


class Marker:
    """Unpickling an object of this class makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture(autouse=True)
def _empty_place(tmp_path, monkeypatch):
    """RecBole writes into the working directory and reads the arguments of the process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prog"])


def prepare(model, **given):
    """Config, trainer and loaders of a small run, through this package."""
    config = Config(model, "ml-100k", config_dict={**SMALL, "output": "run", **given})
    config["checkpoint_dir"] = "run"
    init_seed(config["seed"], True)
    dataset = datasets.create_dataset(config)
    loaders = datasets.data_preparation(config, dataset)
    init_seed(config["seed"], True)
    network = compat.get_model(model)(config, loaders[0].dataset)
    stock_class = get_trainer(config["MODEL_TYPE"], model)
    return config, compat.adapt_trainer(stock_class)(config, network), loaders


@pytest.fixture
def bpr():
    """A trained BPR: its trainer and its test data."""
    _, trainer, (train, valid, test) = prepare("BPR")
    trainer.fit(train, valid, verbose=False)
    return trainer, test


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "GRU4Rec", "SASRec", "BERT4Rec"])
def test_metrics_of_a_run_equal_those_of_stock_recbole(model):
    # A run is tested with its saved checkpoint, which the stock trainer cannot load.
    ours = recbole_sid.run(model=model, dataset="ml-100k", config_dict=dict(SMALL, output="run"))

    settings = dict(SMALL, checkpoint_dir="stock")
    if model in ("GRU4Rec", "SASRec", "BERT4Rec"):
        settings["train_neg_sample_args"] = None
    config = recbole.config.Config(model, "ml-100k", config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    dataset = recbole.data.create_dataset(config)
    train, valid, test = recbole.data.data_preparation(config, dataset)
    init_seed(config["seed"], config["reproducibility"])
    network = get_model(model)(config, train.dataset)
    stock = get_trainer(config["MODEL_TYPE"], model)(config, network)
    best_score, best_result = stock.fit(train, valid, verbose=False, saved=False)

    assert ours["best_valid_score"] == best_score > 0
    assert ours["best_valid_result"] == best_result
    assert ours["test_result"] == stock.evaluate(test, load_best_model=False)


def test_everything_is_written_into_the_run_folder(bpr, tmp_path):
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    files = [path.name for path in (tmp_path / "run").iterdir() if path.is_file()]
    assert sorted(name.split("-")[0].split(".")[0] for name in files) == ["BPR", "events"]
    assert recbole.trainer.trainer.get_tensorboard is recbole.utils.get_tensorboard


def test_a_checkpoint_is_plain_data_and_gives_the_same_metrics_to_another_trainer(bpr):
    trainer, test = bpr
    expected = trainer.evaluate(test)
    state = torch.load(trainer.saved_model_file, weights_only=True)
    assert state["config"] == {"model": "BPR", "dataset": "ml-100k"}
    _, other, _ = prepare("BPR", seed=8)
    assert other.evaluate(test, model_file=trainer.saved_model_file) == expected


def test_training_goes_on_from_a_checkpoint(bpr):
    trainer, _ = bpr
    weights = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    score = trainer.best_valid_score
    for other in (trainer, prepare("BPR", seed=8, epochs=2)[1]):
        other.resume_checkpoint(trainer.saved_model_file)
        assert other.start_epoch == 1
        assert other.best_valid_score == score > 0
        assert all(torch.equal(v, weights[k]) for k, v in other.model.state_dict().items())


def test_a_checkpoint_with_code_is_read_by_nobody(bpr, tmp_path):
    trainer, test = bpr
    with open(trainer.saved_model_file, "wb") as file:  # in the place of its own file
        pickle.dump(Marker(tmp_path / "ran"), file)
    for read in (
        lambda: trainer.evaluate(test),
        lambda: trainer.evaluate(test, model_file=trainer.saved_model_file),
        lambda: trainer.resume_checkpoint(trainer.saved_model_file),
    ):
        with pytest.raises(InputError, match="has no checksum of recbole_sid"):
            read()
    assert not (tmp_path / "ran").exists()
    with pytest.raises(InputError, match="'absent' cannot be read"):
        trainer.evaluate(test, model_file="absent")


def test_objects_in_a_checkpoint_are_read_by_the_trainer_that_wrote_them():
    _, trainer, (train, valid, test) = prepare("EASE", **COUNTING)
    trainer.fit(train, valid, verbose=False)  # keeps a scipy matrix in its checkpoint
    assert trainer.evaluate(test) == trainer.evaluate(test, load_best_model=False)
    trainer.resume_checkpoint(trainer.saved_model_file)
    _, other, _ = prepare("EASE", **COUNTING)
    with pytest.raises(InputError, match="more than tensors and plain data"):
        other.evaluate(test, model_file=trainer.saved_model_file)


def test_counting_metrics_by_hand():
    config = Config("Pop", "ml-100k", config_dict={**SMALL, **COUNTING, "topk": [2],
                                                   "valid_metric": "ItemCoverage@2"})  # fmt: skip
    collector = compat.FixedCollector(config)
    collector.data_struct.set("data.num_items", 5)  # the padding item is one of them
    collector.data_struct.set("data.count_items", Counter({1: 6, 2: 2, 3: 1, 4: 1}))
    nobody = torch.tensor([], dtype=torch.long)
    evaluator = recbole.evaluator.Evaluator(config)
    for _ in range(2):  # counts stay, lists do not
        scores = torch.tensor([[-9.0, 3, 2, 1, 0], [-9.0, 3, 1, 2, 0]])
        collector.eval_batch_collect(scores, {}, nobody, nobody)  # items 1, 2 and 1, 3
        struct = collector.get_data_struct()
        assert struct.get("rec.items").tolist() == [[1, 2], [1, 3]]
        result = evaluator.evaluate(struct)
        assert result["itemcoverage@2"] == 0.6  # 3 of 5
        assert result["averagepopularity@2"] == 3.75  # (6 + 2 + 6 + 1) / 4
    assert collector.data_struct.get("data.num_items") == 5


def test_counting_metrics_in_a_run():
    _, trainer, (train, valid, test) = prepare("Pop", **COUNTING)
    trainer.fit(train, valid, verbose=False)
    assert 0 < trainer.evaluate(test)["itemcoverage@10"] < 0.1


def test_an_adapted_trainer_keeps_its_name_and_its_base():
    adapted = compat.adapt_trainer(recbole.trainer.RecVAETrainer)
    assert issubclass(adapted, recbole.trainer.RecVAETrainer)
    assert adapted.__name__ == "RecVAETrainer"
    assert adapted is compat.adapt_trainer(recbole.trainer.RecVAETrainer)


@pytest.mark.parametrize("save_path", [None, "named.pth"])
def test_pickles_are_read_only_when_named(tmp_path, caplog, save_path):
    """Files stand where RecBole looks for its caches; each makes a folder when it is read."""
    given = {"output": "run", "dataset_save_path": save_path}
    config = Config("BPR", "ml-100k", config_dict={**SMALL, **given})
    config["checkpoint_dir"] = "run"
    (tmp_path / "run").mkdir()
    for name in ("run/ml-100k-Dataset.pth", "run/ml-100k-for-BPR-dataloader.pth", "named.pth"):
        (tmp_path / name).write_bytes(pickle.dumps(Marker(tmp_path / f"ran-{name[:3]}")))
    if save_path is None:
        dataset = datasets.create_dataset(config)
        datasets.data_preparation(config, dataset)
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    else:
        # What comes back from this pickle is no dataset; by then its code has run.
        with caplog.at_level(logging.WARNING), pytest.raises(AttributeError):
            datasets.create_dataset(config)
        assert "a pickle can run code" in caplog.text
    assert (tmp_path / "ran-nam").exists() is (save_path is not None)
    assert not (tmp_path / "ran-run").exists()
    assert config["checkpoint_dir"] == "run"


def test_saved_data_can_be_named_and_read_again(tmp_path):
    saving = {"save_dataset": True, "save_dataloaders": True}
    _, _, (train, _, _) = prepare("BPR", **saving)
    assert train.generator is not None
    first = next(iter(train))
    naming = {
        "dataset_save_path": "run/ml-100k-Dataset.pth",
        "dataloaders_save_path": "run/ml-100k-for-BPR-dataloader.pth",
    }
    _, _, (again, _, _) = prepare("BPR", **naming)
    assert torch.equal(next(iter(again))["item_id"], first["item_id"])


def test_pretrained_loading_lasts_for_its_block(tmp_path, monkeypatch):
    key = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    monkeypatch.delenv(key, raising=False)
    file = tmp_path / "a.pth"
    torch.save({"counts": Counter("aab"), "config": SMALL, "type": InputError}, file)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file)
    with compat.pretrained_loading():
        assert torch.load(file)["type"] is InputError
    assert key not in os.environ
    monkeypatch.setenv(key, "0")
    with pytest.raises(RuntimeError, match="stop"), compat.pretrained_loading():
        raise RuntimeError("stop")
    assert os.environ[key] == "0"


def test_numpy_has_the_names_that_metrics_use(monkeypatch):
    for name in ("float", "long"):
        monkeypatch.delattr(np, name, raising=False)
    compat.numpy_aliases()
    assert vars(np)["float"] is np.float64
    assert vars(np)["long"] is np.int_


def test_models_by_name():
    from recbole_sid.model.recommender import SIDRecommender

    assert compat.get_model("TIGER") is SIDRecommender
    assert compat.get_model("SASRec").__name__ == "SASRec"
    with pytest.raises(InputError, match="Did you mean 'LightGCN'"):
        compat.get_model("lightgcn")


def test_anomaly_detection_stays_off_in_a_fresh_process():
    code = (
        "from recbole_sid.compat import get_model; import torch; get_model('SASRec'); "
        "import sys; assert 'recbole.model.sequential_recommender.sine' in sys.modules; "
        "print(torch.is_anomaly_enabled())"
    )
    root = os.path.dirname(os.path.dirname(compat.__file__))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"


def test_an_unknown_model_is_named_in_a_fresh_process():
    code = "from recbole_sid.compat import get_model; get_model('SASReq')"
    root = os.path.dirname(os.path.dirname(compat.__file__))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "unknown model 'SASReq'. Did you mean 'SASRec'" in done.stderr
    assert "No module named 'lightgbm'" not in done.stderr
