"""A run in its folder: what stage 1 made is kept there, and a finished run is opened again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from recbole.data.dataset import Dataset
from recbole.utils import init_seed

from recbole_sid import compat, run_folder
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.items.vectors import load_item_vectors, save_item_vectors
from recbole_sid.model.recommender import SIDRecommender
from recbole_sid.ranking.base import ClickModel
from recbole_sid.reading import read_data
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.tokenizer.stored_weights import save_tokenizer_weights
from recbole_sid.weights import load_weights


class LoadedRun(NamedTuple):
    """A trained run, as :func:`load` gives it back."""

    config: Config
    dataset: Dataset
    model: Any


def load(folder: str | Path) -> LoadedRun:
    """A finished run of ours again: config, dataset, and model with its best weights.

    The SIDs are those in the folder, so the files that stage 1 read need not exist any more. The
    dataset must lie where it lay, unchanged.

    Args:
        folder: the folder that :func:`recbole_sid.run` wrote.

    Raises:
        InputError: not a run folder, a built-in RecBole model's, or its dataset has changed.
    """
    config, model, dataset, *_ = load_data_and_model(Path(folder) / run_folder.WEIGHTS)
    return LoadedRun(config, dataset, model)


def load_data_and_model(model_file: str | Path) -> tuple[Any, ...]:
    """RecBole's function of this name, for our checkpoints.

    Args:
        model_file: ``model.safetensors`` in a run folder.

    Returns:
        (config, model, dataset, train_data, valid_data, test_data).

    Raises:
        InputError: as :func:`load`.
    """
    return open_run(model_file, {})


def open_run(model_file: str | Path, changes: Mapping[str, Any]) -> tuple[Any, ...]:
    """``load_data_and_model`` with other settings than the run had; none may need training."""
    folder = require_finished(Path(model_file).parent, Path(model_file).name)
    config = Config(
        config_file_list=[str(folder / run_folder.CONFIG)],
        config_dict={"output": str(folder), **changes},
        stage_1=False,
    )
    if config.model_spec is None:
        raise InputError(f"'{folder}' holds a run of '{config['model']}', which is RecBole's model")
    run_folder.check_data(config)
    compat.numpy_aliases()
    init_seed(config["seed"], config["reproducibility"])
    dataset, loaders = read_data(config)
    if needs_vectors(config):
        require_finished(folder, run_folder.VECTORS)
    model = stored_recommender(config, loaders[0].dataset)
    load_weights(model, model_file)
    model.eval()
    return config, model, dataset, *loaders


def require_finished(folder: Path, weights: str = run_folder.WEIGHTS) -> Path:
    """``folder``; InputError when it is not that of a finished run of ours, or is damaged."""
    for name in (run_folder.CONFIG, run_folder.SIDS, run_folder.RESULT, weights):
        if not (folder / name).is_file():
            raise InputError(
                f"'{folder}' has no {name}: it is not the folder of a finished run of a "
                "recbole_sid model"
            )
    run_folder.check_finished(folder)
    return folder


def item_tokens(config: Config, data: Dataset) -> tuple[str, ...]:
    """The raw tokens of the items, in the order of RecBole's ids."""
    return tuple(data.field2id_token[config["ITEM_ID_FIELD"]][1:].tolist())


def save_stage_1(folder: Path, recommender: Any) -> None:
    """What stage 1 has made, in the files that :func:`stored_recommender` reads."""
    if isinstance(recommender, SIDRecommender) and (vectors := recommender.vectors) is not None:
        save_item_vectors(folder / run_folder.VECTORS, vectors, recommender.sids.tokens)
    if isinstance(recommender, (SIDRecommender, ClickModel)):
        recommender.sids.save(folder / run_folder.SIDS)
        if (made := recommender.embeddings) is not None:
            save_item_vectors(folder / run_folder.EMBEDDINGS, made, recommender.sids.tokens)
        if (weights := recommender.tokenizer_weights) is not None:
            save_tokenizer_weights(folder / run_folder.TOKENIZER, weights)


def stored_recommender(config: Config, training: Dataset) -> Any:
    """The model with the SIDs of its folder, and the vectors where it needs some; not trained."""
    assert config.model_spec is not None
    folder = config.run_folder
    given: dict[str, Any] = {"sids": SemanticIDs.load(folder / run_folder.SIDS)}
    if needs_vectors(config):
        tokens = item_tokens(config, training)
        given["vectors"] = load_item_vectors(folder / run_folder.VECTORS, None, tokens)
    model = config.model_spec.recommender(config, training, **given)
    return model.to(config["device"])


def needs_vectors(config: Config) -> bool:
    """Whether the generator of one of our models reads the items' vectors."""
    assert config.model_spec is not None
    if config.model_spec.generator is None:
        return False
    return bool(config.generator_spec.cls.needs_vectors(config.generator_settings))
