"""The configuration of a run: RecBole's, with our defaults and checks; values are not evaluated.

Precedence, lowest first: RecBole's overall.yaml; for RecBole's models their yaml; RecBole's yaml
of the dataset; for our models overall.yaml, items.yaml and the yaml of the tokenizer, the generator
and the model; our yaml of the dataset; RecBole's choice by kind of model (sequential.yaml …); the
user's files; the dictionary; the command line. RecBole's yaml of the dataset stands below ours,
since its generic one (sample.yaml) would otherwise set a model's MAX_ITEM_LIST_LENGTH. For our
models of click prediction RecBole's choice by kind, which is a split for ranking, stands below ours
too.
"""

from __future__ import annotations

import copy
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import recbole.config
import torch
from recbole.utils import ModelType

from recbole_sid import checks, defaults, distributed, identity, known_keys, registry, settings
from recbole_sid.compat import get_model
from recbole_sid.errors import InputError
from recbole_sid.evaluation_checks import check_metrics
from recbole_sid.measures.report_settings import ReportSettings
from recbole_sid.measures.retrieval import RetrievalSettings
from recbole_sid.measures.settings import MeasureSettings
from recbole_sid.model.filters import check_filters
from recbole_sid.parsing import YamlLoader, parse_command_line, parse_value, read_yaml
from recbole_sid.run_settings import CONTROL, RunSettings
from recbole_sid.splitting import parse_times, replaced_arguments

# Settings of one command alone: they would change nothing in a run.
_COMMAND_OF = {
    **dict.fromkeys(settings.keys(MeasureSettings) + settings.keys(RetrievalSettings), "tokenize"),
    **dict.fromkeys(settings.keys(ReportSettings), "sids"),
}
_NAME = re.compile(r"(?!\.{1,2}$)[^/\\\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_MOST_NAME = 180  # with the endings of its files it must fit into a file name, 255 bytes


class Config(recbole.config.Config):
    """RecBole's ``Config`` for our models and for RecBole's own.

    For our models every key is known, or refused with the nearest one. RecBole's models see their
    stock defaults, with our ``dataset_configs`` and the settings of the run (``output`` …), so
    that their metrics are those of stock RecBole. Bad input raises :class:`InputError` here, and no
    folder is made.

    Args:
        model: a name of ours or RecBole's, or a RecBole model class.
        dataset: the name of a dataset, a single folder name.
        config_file_list: yaml files; later ones go before earlier ones.
        config_dict: settings; text values are parsed (``"[5, 10]"``), never evaluated.
        command_line: ``--key=value`` arguments, or ``None`` for those of this process. By default
            the command line is not read.
        stage_1: whether stage 1 can still come; False, when there are SIDs already, leaves its
            settings and files unchecked.
        measures: whether measures.yaml, the settings of ``tokenize``, is among ours; without, its
            keys are refused.
        sid_report: the same of sids.yaml, the settings of ``sids``.

    ``checkpoint_dir``, where RecBole's trainers write, is the run folder's name with ``-stock``:
    only :func:`recbole_sid.run` may write into the run folder, and sets it so.
    """

    parameters: dict[str, list[str]]

    def __init__(
        self,
        model: Any = None,
        dataset: str | None = None,
        config_file_list: Sequence[str | Path] | None = None,
        config_dict: Mapping[str, Any] | None = None,
        command_line: Sequence[str] | None = (),
        *,
        stage_1: bool = True,
        measures: bool = False,
        sid_report: bool = False,
    ) -> None:
        if command_line is None:
            notebook = "ipykernel_launcher" in sys.argv[0]
            command_line = [] if notebook else sys.argv[1:]
        self._command_line = list(command_line)
        self._layers: list[defaults.Layer] = []
        self._measures = measures
        self._sid_report = sid_report
        super().__init__(model, dataset, config_file_list, config_dict)
        self._check(stage_1)
        self.final_config_dict["checkpoint_dir"] = f"{self.run_folder}-stock"

    # -- what the run is made of ------------------------------------------------------------------

    @property
    def model_spec(self) -> registry.ModelSpec | None:
        """Our model, or ``None`` for RecBole's."""
        return registry.model(self.model)

    @property
    def tokenizer_spec(self) -> registry.ComponentSpec:
        """The tokenizer of stage 1; only our models have one."""
        return registry.tokenizer(self.final_config_dict["tokenizer"])

    @property
    def generator_spec(self) -> registry.ComponentSpec:
        """The generator of stage 2; our models have one, but for those of click prediction."""
        return registry.generator(self.final_config_dict["generator"])

    @property
    def stage_2_spec(self) -> registry.ComponentSpec:
        """What stage 2 trains: the generator, or the model itself where it has none."""
        spec = self.model_spec
        return self.generator_spec if spec is None or spec.own is None else spec.own

    @property
    def tokenizer_settings(self) -> Any:
        """The tokenizer's ``Settings``, checked."""
        spec = self.tokenizer_spec
        return settings.build(spec.cls.Settings, self.final_config_dict, spec.prefix)

    @property
    def generator_settings(self) -> Any:
        """The generator's ``Settings``, checked."""
        return self.stage_2_settings

    @property
    def stage_2_settings(self) -> Any:
        """The ``Settings`` of ``stage_2_spec``, checked."""
        spec = self.stage_2_spec
        return settings.build(spec.cls.Settings, self.final_config_dict, spec.prefix)

    @property
    def run(self) -> RunSettings:
        """The settings of the run as a whole, checked."""
        return settings.build(RunSettings, self.final_config_dict)

    @property
    def run_folder(self) -> Path:
        """``output``, or ``runs/<dataset>-<model>-<hash>``; it need not exist."""
        output = self.run.output
        name = f"{self.dataset}-{self.model}-{self.settings_hash()[:10]}"
        return Path(output) if output else Path("runs") / name

    def settings_hash(self) -> str:
        """sha256 hex over the settings that can change a result.

        Files count by their names without folders; what is in them counts in ``inputs_hash``.
        """
        return identity.settings_hash(self.to_plain())

    def to_plain(self) -> dict[str, Any]:
        """All settings as plain data: written as yaml and given as a file they make this Config.

        Files are named by absolute paths, so that these settings hold in any working directory.
        Left out is what belongs to one start: ``output``, ``resume``, ``overwrite``, the number of
        processes and their addresses.
        """
        return identity.plain_settings(self.final_config_dict, self._data_root)

    # -- RecBole's steps, in the order in which its constructor takes them ------------------------

    def _init_parameters_category(self) -> None:
        super()._init_parameters_category()
        # RecBole adds the keys of a dataset to its global list (configurator.py:283).
        self.parameters = {kind: list(keys) for kind, keys in self.parameters.items()}

    def _build_yaml_loader(self) -> type:
        return YamlLoader

    def _convert_config_dict(self, config_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Parse text values; RecBole evaluates them as code (configurator.py:124-147)."""
        return {k: parse_value(v) if isinstance(v, str) else v for k, v in config_dict.items()}

    def _load_config_files(self, file_list: Sequence[str | Path] | None) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for file in file_list or ():
            values.update(read_yaml(file))
        return values

    def _load_cmd_line(self) -> dict[str, Any]:
        values, self._alone = parse_command_line(self._command_line)
        return values

    def _get_model_and_dataset(self, model: Any, dataset: str | None) -> tuple[str, Any, str]:
        model = self.external_config_dict.get("model") if model is None else model
        dataset = self.external_config_dict.get("dataset") if dataset is None else dataset
        if model is None:
            raise InputError("no model is given: name one with --model, for example --model=TIGER")
        if dataset is None:
            raise InputError("no dataset is given: name one with --dataset, for example ml-100k")
        # The name becomes part of file names, so it must not lead to another folder.
        if not isinstance(dataset, str) or not _NAME.fullmatch(dataset):
            raise InputError(
                f"dataset name {dataset!r} is not valid: give the name of the folder alone, and "
                "the folder above it as --data_path"
            )
        if len(dataset.encode("utf-8", "surrogatepass")) > _MOST_NAME:
            raise InputError(
                f"dataset name '{dataset[:20]}…' is too long for the names of its files: at most "
                f"{_MOST_NAME} bytes"
            )
        if isinstance(model, str):
            return model, get_model(model), dataset
        if not isinstance(model, type):
            raise InputError(f"model {model!r} is neither a name nor a model class")
        return model.__name__, model, dataset

    def _update_internal_config_dict(self, file: str) -> dict[str, Any]:
        """Keep the layer that RecBole is about to merge; the order is ours to choose."""
        values = read_yaml(file)
        self._layers.append((Path(os.path.normpath(file)), values))
        return values

    def _load_internal_config_dict(self, model: str, model_class: Any, dataset: str) -> None:
        super()._load_internal_config_dict(model, model_class, dataset)
        self.internal_config_dict = defaults.merged(
            self._layers,
            registry.model(model),
            model_class.type,
            dataset,
            self.external_config_dict,
            measures=self._measures,
            sid_report=self._sid_report,
        )

    def _get_final_config_dict(self) -> dict[str, Any]:
        internal, external = self.internal_config_dict, self.external_config_dict
        known = {*internal, *(key for keys in self.parameters.values() for key in keys)}
        spec = self.model_spec
        if spec is None:
            known_keys.check_stock_keys(external, known)
            checks.check_stock_code(self.model, external)
        else:
            for key in external:
                if key in _COMMAND_OF and key not in internal:
                    raise InputError(
                        f"setting '{key}' belongs to the command {_COMMAND_OF[key]}, and changes "
                        "nothing here: remove it"
                    )
                if key in {*defaults.OF_GENERATORS, "generator"} and key not in internal:
                    raise InputError(
                        f"setting '{key}' is one of models that generate, and changes nothing for "
                        f"'{self.model}', which has no generator: remove it"
                    )
            known_keys.check_keys(external, known, defaults.chosen(spec, internal))
        for key in ("data_path", *identity.INPUT_FILES):
            if isinstance(external.get(key), str) and CONTROL.search(external[key]):
                raise InputError(
                    f"setting '{key}' is {external[key]!r}, but a path has no control characters"
                )
        if "checkpoint_dir" in external:
            raise InputError(
                "setting 'checkpoint_dir' is not used: checkpoints lie in the folder of the run, "
                "which --output names"
            )
        for key in self._alone:
            if not isinstance(internal.get(key), bool):
                raise InputError(f"setting '{key}' needs a value: --{key}=VALUE")
        final = copy.deepcopy({**internal, **external})
        if parse_times(final["split_times"]) is not None:
            final["eval_args"] = replaced_arguments(external, final)
        if (
            final["MODEL_TYPE"] == ModelType.SEQUENTIAL
            and final.get("loss_type") == "CE"
            and not hasattr(self.model_class, "input_type")
            and "train_neg_sample_args" not in external
        ):
            # RecBole's own default, one negative, is refused by RecBole here (configurator.py:344).
            final["train_neg_sample_args"] = None
        return final

    def _set_default_parameters(self) -> None:
        final = self.final_config_dict
        spec = self.model_spec
        check_metrics(final, ours=spec is not None and spec.generator is not None)
        self._data_root = final["data_path"]
        with _recbole_complaints():
            super()._set_default_parameters()
        final["data_path"] = os.path.normpath(final["data_path"])

    def _set_train_neg_sample_args(self) -> None:
        with _recbole_complaints():
            super()._set_train_neg_sample_args()

    def _set_eval_neg_sample_args(self, phase: Any) -> None:
        with _recbole_complaints():
            super()._set_eval_neg_sample_args(phase)

    def _init_device(self) -> None:
        """RecBole's choice. Of several processes each has a GPU of its own, and the first alone
        shows progress and keeps records."""
        final = self.final_config_dict
        if "local_rank" in final and (self.model_spec is not None or "nproc" not in final):
            raise InputError(
                "setting 'local_rank' is of RecBole's own way to run in several processes: leave "
                "it out, and start them with torchrun --nproc-per-node=N"
            )
        super()._init_device()
        world = distributed.current()
        if world.alone:
            return
        if final["device"].type == "cuda":
            n_gpus = torch.cuda.device_count()
            if world.local_size > n_gpus:
                raise InputError(
                    f"{world.local_size} processes on a machine with {n_gpus} GPUs: start as many "
                    "as there are GPUs at most, or set gpu_id: '' to work on the processor"
                )
            final["device"] = torch.device("cuda", world.local_rank)
        if not world.leads:
            for key in ("show_progress", "log_wandb", "save_dataset", "save_dataloaders"):
                final[key] = False

    def _check(self, stage_1: bool) -> None:
        """All checks that need the complete settings."""
        final = self.final_config_dict
        final.update(asdict(settings.build(checks.Numbers, final)))
        settings.build(RunSettings, final)
        if self._measures and self.model_spec is not None:
            settings.build(MeasureSettings, final)
            settings.build(RetrievalSettings, final)
        if self._sid_report and self.model_spec is not None:
            settings.build(ReportSettings, final)
        if self.model_spec is not None:
            spec = self.stage_2_spec
            settings.build(spec.cls.Settings, final, spec.prefix)
            if spec.kind == "generator":
                check_filters(final)
        if self.model_spec is not None and stage_1:
            settings.build(self.tokenizer_spec.cls.Settings, final, self.tokenizer_spec.prefix)
            # `tokenize` trains no generator.
            if self.stage_2_spec.kind == "generator" and not self._measures:
                checks.check_pair(self.tokenizer_spec, self.generator_spec)
        checks.check_interactions(final)
        if self.model_spec is None:
            checks.check_stock_files(self.model, final)
        if self.model_spec is not None and stage_1:
            checks.check_items(final, self.tokenizer_spec.cls)


@contextmanager
def _recbole_complaints() -> Iterator[None]:
    """What RecBole says against the settings is about the user's input."""
    try:
        yield
    except (ValueError, TypeError, KeyError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"RecBole refuses the settings: {error}") from error
