import json
import math

import numpy as np
import pytest
import torch

import recbole_sid
from recbole_sid.errors import InputError
from recbole_sid.model.recommender import SIDRecommender
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.trainer import SIDTrainer
from recbole_sid.weights import load_weights, save_weights
from tests.runs import SMALL, write_data
from tests.sealing import write_tensors
from tests.small_models import build, uncut

# -- weights --------------------------------------------------------------------------------------


def test_weights_come_back(cache, tmp_path):
    _, _, model = build(cache)
    _, _, other = build(cache)
    torch.nn.init.normal_(other.generator.token_embedding.weight)
    save_weights(model, tmp_path / "w.safetensors", 3)
    load_weights(other, tmp_path / "w.safetensors")
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))


def test_weights_that_do_not_belong_are_refused(cache, tmp_path):
    config, loaders, model = build(cache)
    file = tmp_path / "w.safetensors"
    with pytest.raises(InputError, match="does not exist"):
        load_weights(model, file)
    save_weights(model, file, 3)
    other = SIDRecommender(
        config,
        loaders[0].dataset,
        SemanticIDs(
            model.sids.tokens, model.sids.codes[::-1].copy(), model.sids.sizes, "dedup", {}
        ),
    )
    with pytest.raises(InputError, match="belongs to other items or other SIDs"):
        load_weights(other, file)
    _, _, narrow = build(cache, hidden_size=8)
    with pytest.raises(InputError, match="does not fit the model's settings"):
        load_weights(narrow, file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match="is damaged"):
        load_weights(model, file)
    write_tensors(file, {"a": np.zeros(2)})
    with pytest.raises(InputError, match="was not written by recbole_sid"):
        load_weights(model, file)


# -- training -------------------------------------------------------------------------------------


def test_a_loss_that_is_not_a_number_is_named(cache, tmp_path):
    config, loaders, model = build(cache, output=str(tmp_path / "run"))
    torch.nn.init.constant_(model.generator.heads[0].weight, math.nan)
    with pytest.raises(InputError, match=r"loss is nan in epoch 0, batch 0\. Lower learning_rate"):
        SIDTrainer(config, model).fit(loaders[0], None, verbose=False)


def test_training_lowers_the_loss_and_reports_the_mean_of_a_batch(cache, tmp_path):
    config, loaders, model = build(cache, output=str(tmp_path / "run"), epochs=8)
    trainer = SIDTrainer(config, model)
    trainer.fit(loaders[0], None, verbose=False, saved=False)
    losses = list(trainer.train_loss_dict.values())
    assert len(losses) == 8
    assert losses[-1] < losses[0] - 0.1
    # A uniform guess over 8 codes three times and the digit: about the first epoch's loss.
    uniform = np.mean([math.log(size) for size in model.sids.sizes])
    assert losses[0] == pytest.approx(uniform, rel=0.35)
    assert not list(tmp_path.rglob("model.safetensors"))


def test_an_empty_training_split_is_refused(tmp_path):
    rows = [(f"u{n}", f"i{n}", n) for n in range(4)]
    given = uncut(write_data(tmp_path, rows)) | {"output": str(tmp_path / "run")}
    with pytest.raises(InputError, match="cannot read or split the data"):
        recbole_sid.run("TIGER", "made", config_dict=given)
    assert not (tmp_path / "run").exists()


def test_without_validation_the_last_weights_are_tested(tmp_path, cache):
    settings = {**SMALL, "cache_dir": cache, "output": str(tmp_path / "run"), "eval_step": 0}
    result = recbole_sid.run("TIGER", "ml-100k", config_dict=settings)
    assert (result["best_valid_score"], result["best_valid_result"]) == (None, None)
    assert result["test_result"]["generated@10"] == 1
    assert json.loads((tmp_path / "run" / "result.json").read_text())["best_valid_score"] is None
