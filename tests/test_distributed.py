"""Several processes give what one does, and end together."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recbole
import torch
from safetensors.torch import load_file
from torch import nn

from recbole_sid import cli, distributed, quick_start
from recbole_sid.errors import InputError
from recbole_sid.inference import evaluate
from recbole_sid.model.recommender import SIDRecommender
from recbole_sid.parsing import read_yaml
from recbole_sid.reading import read_data
from recbole_sid.resources import resource_dir
from recbole_sid.serving.append import append
from recbole_sid.serving.bundle import SIDS as EXPORTED_SIDS
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.tokenizing import tokenize
from recbole_sid.trainer import SIDTrainer
from recbole_sid.training_data import TrainingData
from tests.ranks import ROOT, Ended, Ranks
from tests.runs import SAMPLED, SMALL

SETTINGS: dict[str, Any] = {
    **SMALL,
    "epochs": 2,
    "dropout": 0.0,
    "train_batch_size": 200,
    "window_targets": 4,
    "learning_rate": 0.005,
    "eval_batch_size": 25,  # of 65 users: three batches
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings that read ml-100k, of which only the users that are used are left in the file."""
    whole = Path(recbole.__file__).parent / "dataset_example" / "ml-100k"
    folder = tmp_path_factory.mktemp("data")
    (folder / "few").mkdir()
    shutil.copy(whole / "ml-100k.item", folder / "few" / "few.item")
    header, *rows = (whole / "ml-100k.inter").read_text().splitlines()
    count = Counter(row.split("\t")[0] for row in rows)
    kept = [row for row in rows if 20 <= count[row.split("\t")[0]] <= 30]
    (folder / "few" / "few.inter").write_text("\n".join([header, *kept]) + "\n")
    items = [row.split("\t")[0] for row in (folder / "few" / "few.item").read_text().splitlines()]
    np.save(folder / "few.npy", np.random.default_rng(0).normal(size=(len(items) - 1, 4)))
    (folder / "few.txt").write_text("\n".join(items[1:]))
    fields = read_yaml(resource_dir("dataset_configs") / "ml-100k.yaml")
    fields.pop("generative")
    return {**fields, "model": "TIGER", "dataset": "few", "data_path": str(folder), **SETTINGS}


@pytest.fixture(scope="module")
def ranks(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    folder = tmp_path_factory.mktemp("ranks")
    ranks = Ranks(folder / "log")
    ranks.call(run, {"settings": {**data, "epochs": 0, **within(folder)}}, size=0)
    yield ranks
    ranks.close()


def with_vectors(data: dict[str, Any]) -> dict[str, Any]:
    """Settings of IntRR, whose generator reads vectors of the items."""
    of_tiger = ("encoder_layers", "decoder_layers")
    vectors = {"item_embedding_file": ".npy", "item_embedding_ids": ".txt"}
    files = {key: str(Path(data["data_path"]) / f"few{ending}") for key, ending in vectors.items()}
    return {k: v for k, v in data.items() if k not in of_tiger} | {"model": "IntRR", **files}


def within(folder: Path) -> dict[str, str]:
    return {"output": str(folder / "run"), "cache_dir": str(folder / "cache")}


def values(ended: list[Ended]) -> list[Any]:
    errors = [f"{one.error}\n{one.printed}" for one in ended if one.error]
    assert not errors, "\n\n".join(errors)
    return [one.value for one in ended]


def figures(result: dict[str, Any]) -> dict[str, Any]:
    return {key: result[key] for key in ("best_valid_result", "test_result", "sid")}


# -- what the processes do; each function runs in all of them -------------------------------------


def talk() -> dict[str, Any]:
    with distributed.joined() as world:
        other = distributed.current()
        assert other is world
        rank, last = world.rank, world.size - 1
        told = world.told({"of": rank, "score": 1 / 3})
        made = world.first(lambda: rank + 7)
        time.sleep(0.1 * rank)
        world.meet()
        rows = torch.arange(6, dtype=torch.int16).view(3, 2)[: rank + 1] + 10 * rank
        whole = world.collected(rows)
        flags = world.collected(torch.tensor([True, False]) if rank == 0 else None)
        nothing = world.collected(None)
        used, unused, of_last = (nn.Parameter(torch.zeros(2)) for _ in range(3))
        used.grad = torch.tensor([1.0, rank])
        if rank == last:
            of_last.grad = torch.ones(2)
        total = world.sum_gradients([used, unused, of_last], torch.tensor(0.5))
        agreed = [torch.full((2, 2), float(rank)), torch.tensor([rank + 0.25])]
        world.agree(agreed)
        arrays = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.array([], np.int8)}
        print("printed", file=sys.stderr)
        return {
            "told": told,
            "made": made,
            "whole": whole if whole is None else whole.tolist(),
            "type": whole if whole is None else str(whole.dtype),
            "flags": flags if flags is None else flags.tolist(),
            "nothing": nothing,
            "grads": [p.grad if p.grad is None else p.grad.tolist() for p in (used, of_last)],
            "unused": unused.grad,
            "total": float(total),
            "agreed": [tensor.tolist() for tensor in agreed],
            "arrays": {
                name: [array.dtype.str, array.tolist()]
                for name, array in world.arrays(arrays if rank == 0 else None).items()
            },
            "blocks": [list(world.block(n)) for n in (0, 1, 5)],
            "strided": world.strided(torch.arange(5)).tolist(),
        }


def gradients(settings: list[dict[str, Any]], files: dict[str, str]) -> list[dict[str, Any]]:
    with distributed.joined() as world:
        files["output"] += str(world.rank)
        return [_gradients(one | files) for one in settings]


def _gradients(settings: dict[str, Any]) -> dict[str, Any]:
    """The loss of a batch and of one with two rows, and all gradients."""
    config = quick_start.checked_config(config_dict=settings)
    _, loaders = read_data(config)
    torch.manual_seed(0)
    model = SIDRecommender(config, loaders[0].dataset)
    trainer = SIDTrainer(config, model)
    trainer.save_state = False
    model.train()
    found = {}
    batch = next(TrainingData(loaders[0].dataset, config, model).epoch(0))
    for name, rows in (("batch", batch), ("two rows", [part[:2] for part in batch])):
        model.zero_grad(set_to_none=True)
        loss = trainer._gradients(rows, 0, 0)
        found[name] = {"the loss": float(loss)} | {
            name: None if p.grad is None else p.grad.tolist()
            for name, p in model.named_parameters()
        }
    return found


def run(settings: dict[str, Any], spoil: dict[str, Any] | None = None) -> dict[str, Any]:
    """A run; ``spoil`` says in which process its loss goes wrong, at which call, and how."""
    if spoil is not None and os.environ["RANK"] in spoil["ranks"]:
        _spoil(spoil["call"], spoil["how"])
    result = quick_start.run(config_dict=settings)
    assert distributed.current().alone
    return result


def _spoil(call: int, how: str) -> None:
    loss, calls = SIDTrainer._loss, iter(range(1_000_000))

    def spoiled(self: SIDTrainer, batch: list[torch.Tensor]) -> torch.Tensor:
        if next(calls) < call:
            return loss(self, batch)
        if how == "nan":
            return loss(self, batch) * float("nan")
        if how == "killed":
            os.kill(os.getpid(), 9)
        raise {"bug": KeyError, "input": InputError, "stop": KeyboardInterrupt}[how]("spoilt")

    SIDTrainer._loss = spoiled  # type: ignore[method-assign]


def scores(folder: str, settings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [evaluate(folder, show_progress=False, **one) for one in settings]


def tokenized(settings: dict[str, Any]) -> dict[str, Any]:
    return tokenize(config_dict=settings)


def appended(arguments: dict[str, Any]) -> dict[str, Any]:
    return append(**arguments)


def command(arguments: list[str]) -> int:
    return cli.main(arguments)


# -- the processes among themselves ---------------------------------------------------------------


def test_three_processes_talk_share_and_agree(ranks: Ranks) -> None:
    first, *others = values(ranks.call(talk, {}, 3))
    assert first["whole"] == [[0, 1], [10, 11], [12, 13], [20, 21], [22, 23], [24, 25]]
    assert first["type"] == "torch.int16"
    assert first["flags"] == [True, False]
    assert [other["whole"] for other in others] == [None, None]
    for one in (first, *others):
        assert one["told"] == {"of": 0, "score": 1 / 3}
        assert one["made"] == 7
        assert one["nothing"] is None
        assert one["grads"] == [[3, 0 + 1 + 2], [1, 1]]
        assert one["unused"] is None
        assert one["total"] == 1.5
        assert one["arrays"] == {"a": ["<f8", [[0, 3], [1, 4], [2, 5]]], "b": ["|i1", []]}
        assert one["agreed"] == [[[0, 0], [0, 0]], [0.25]]
    assert [one["blocks"] for one in (first, *others)] == [
        [[], [0], [0, 1]],
        [[], [], [2, 3]],
        [[], [], [4]],
    ]
    assert [one["strided"] for one in (first, *others)] == [[0, 3], [1, 4], [2]]


def test_only_the_first_process_prints(ranks: Ranks) -> None:
    assert [one.printed for one in ranks.call(talk, {}, 2)] == ["printed\n", ""]


def test_alone_everything_is_handed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    rows = torch.arange(3)
    with distributed.joined() as world:
        assert world.alone
        assert world.leads
        assert world.told("it") == world.first(lambda: "it") == "it"
        assert world.collected(rows) is rows
        assert world.strided(rows) is rows
        assert world.block(3) == range(3)
        world.meet()
        world.agree([rows])


# -- training -------------------------------------------------------------------------------------


def test_gradients_of_a_step_are_those_of_one_process(
    ranks: Ranks, data: dict[str, Any], tmp_path: Path
) -> None:
    settings = [data, data | {"training": "prefix"}, with_vectors(data)]
    arguments = {"settings": settings, "files": within(tmp_path)}
    (alone,) = values(ranks.call(gradients, arguments, 1))
    shared = values(ranks.call(gradients, arguments, 3))
    assert shared[0] == shared[1] == shared[2]
    # Of two rows the third process has none.
    assert [expected.keys() for expected in alone] == [{"batch", "two rows"}] * 3
    for expected, found in zip(alone, shared[0], strict=True):
        for rows in expected:
            assert expected[rows].keys() == found[rows].keys()
            for name, gradient in expected[rows].items():
                if gradient is None:
                    assert found[rows][name] is None, name
                else:
                    np.testing.assert_allclose(found[rows][name], gradient, rtol=1e-4, atol=1e-7)


def test_a_run_in_two_processes_is_that_of_one(
    ranks: Ranks, data: dict[str, Any], tmp_path: Path
) -> None:
    texts = {"tokenizer": "rqkmeans", "text_encoder_batch_size": 4}
    runs = {size: {**data, **texts, **within(tmp_path / str(size))} for size in (1, 2)}
    (one,) = values(ranks.call(run, {"settings": runs[1]}, 1))
    two, other = values(ranks.call(run, {"settings": runs[2]}, 2))
    assert two == other
    assert two["processes"] == 2
    assert "processes" not in one
    # The steps differ by rounding alone, which 20 of them leave too small to be seen in a list.
    assert figures(two) == figures(one)
    assert two["best_valid_score"] > 0
    folders = [tmp_path / str(size) for size in (1, 2)]
    weights = [load_file(folder / "run" / "model.safetensors") for folder in folders]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-4)
    # One set of files, and those of stage 1 are the same to the byte, but for seconds.
    names = [sorted(plain(path, folder) for path in folder.rglob("*")) for folder in folders]
    assert names[0] == names[1]
    for path in (p for p in folders[0].rglob("cache/**/*") if p.is_file()):
        if path.name.endswith(".timing.json"):
            continue
        assert path.read_bytes() == (folders[1] / path.relative_to(folders[0])).read_bytes()
    log = (folders[1] / "run" / "run.log").read_text()
    assert log.count("epoch 1 training") == 1


def plain(path: Path, folder: Path) -> str:
    """A name without the numbers that TensorBoard puts into it."""
    name = str(path.relative_to(folder))
    return name if "/17" not in name and "tfevents" not in name else name[:10]


def test_codes_that_two_processes_find_are_those_of_one(
    ranks: Ranks, data: dict[str, Any], tmp_path: Path
) -> None:
    """The items held out of a fit, and new items of a finished run."""
    of_generator = ("hidden_size", "inner_size", "n_heads", "head_size", "encoder_layers")
    given = {k: v for k, v in data.items() if k not in of_generator}
    given |= {"tokenizer": "rqkmeans", "held_out_share": 0.5, "retrieval": False}
    run_of = {**data, "tokenizer": "rqkmeans", "epochs": 0, "collision_headroom": 3}
    run_of |= within(tmp_path)
    values(ranks.call(run, {"settings": run_of}, 1))
    titles = [f"n{number}\tNew thing {number} of {number % 3}" for number in range(7)]
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    rows = [f"{title}\t1995\tDrama" for title in titles]
    (tmp_path / "new.item").write_text("\n".join([header, *rows]) + "\n")
    reports = []
    for size in (1, 2):
        folder = tmp_path / str(size)
        given["output"], given["cache_dir"] = str(folder / "sids"), str(folder / "cache")
        new = {
            "run": str(tmp_path / "run"),
            "items": str(tmp_path / "new.item"),
            "output": str(folder / "export"),
            "cache_dir": str(folder / "cache"),
        }
        made = values(ranks.call(tokenized, {"settings": given}, size))
        report = values(ranks.call(appended, {"arguments": new}, size))
        assert all(one == made[0] for one in made)
        assert all(one == report[0] for one in report)
        reports.append([figures_of(made[0]), figures_of(report[0])])
    assert reports[0] == reports[1]
    assert reports[0][1]["items_after"] == reports[0][1]["items_before"] + 7
    for name in ("sids/sids.json", f"export/{EXPORTED_SIDS}"):
        one, two = (SemanticIDs.load(tmp_path / size / name) for size in ("1", "2"))
        assert one.fingerprint() == two.fingerprint()


def figures_of(result: dict[str, Any]) -> dict[str, Any]:
    """What of a result is not of its time and place."""
    of_its_own = ("timing", "seconds", "items_per_second", "run_folder")
    return {key: value for key, value in result.items() if key not in of_its_own}


def test_a_stopped_run_goes_on_in_two_processes(
    ranks: Ranks, data: dict[str, Any], tmp_path: Path
) -> None:
    settings = {**data, "dropout": 0.3, "epochs": 3}
    whole, stopped = ({**settings, **within(tmp_path / name)} for name in ("whole", "stopped"))
    expected = values(ranks.call(run, {"settings": whole}))[0]
    spoil = {"ranks": ["0", "1"], "call": 20, "how": "stop"}
    ended = ranks.call(run, {"settings": stopped, "spoil": spoil})
    assert all("KeyboardInterrupt" in one.error for one in ended)
    assert (tmp_path / "stopped" / "run" / "training.pt").is_file()
    found = values(ranks.call(run, {"settings": {**stopped, "resume": True}}))[0]
    assert "Resuming from epoch" in (tmp_path / "stopped" / "run" / "run.log").read_text()
    assert figures(found) == figures(expected)
    weights = [load_file(tmp_path / n / "run" / "model.safetensors") for n in ("whole", "stopped")]
    for name, tensor in weights[0].items():
        assert torch.equal(weights[1][name], tensor)


def test_dropout_draws_other_masks_in_every_process(
    ranks: Ranks, data: dict[str, Any], tmp_path: Path
) -> None:
    results = []
    for size in (1, 2):
        settings = {**data, "dropout": 0.5, "epochs": 1, **within(tmp_path / str(size))}
        values(ranks.call(run, {"settings": settings}, size))
        results.append(load_file(tmp_path / str(size) / "run" / "model.safetensors"))
    assert any(not torch.allclose(results[0][n], results[1][n], rtol=0.01) for n in results[0])


# -- evaluation -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(ranks: Ranks, data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a run in one process, whose items share SIDs."""
    folder = tmp_path_factory.mktemp("finished")
    settings = {**data, "collision": "none", "tokenizer_codebook_size": 3, **within(folder)}
    values(ranks.call(run, {"settings": settings}, 1))
    return str(folder / "run")


def test_one_set_of_weights_has_the_same_metrics_to_the_digit(ranks: Ranks, finished: str) -> None:
    settings = [
        {"metrics": ["Recall", "NDCG", "MRR", "ItemCoverage", "GiniIndex"]},
        {"exclude_history": True, "metric_decimal_place": 12},
        {"eval_batch_size": 1000},  # one batch: the others have none
    ]
    arguments = {"folder": finished, "settings": settings}
    (alone,) = values(ranks.call(scores, arguments, 1))
    assert all(one["test_result"]["recall@10"] > 0 for one in alone)
    for shared in values(ranks.call(scores, arguments, 3)):
        assert shared == alone


@pytest.mark.parametrize("sampled", [False, True])
def test_lists_and_sampled_candidates_are_those_of_one_process(
    sampled: bool, ranks: Ranks, data: dict[str, Any], tmp_path: Path
) -> None:
    changes = {**data, "eval_args": SAMPLED} if sampled else with_vectors(data)
    results = []
    for size in (1, 2):
        settings = {**changes, "epochs": 0, **within(tmp_path / str(size))}
        results.append(values(ranks.call(run, {"settings": settings}, size))[0])
    assert figures(results[0]) == figures(results[1])
    for name in ("sids.json", "model.safetensors", *([] if sampled else ["outcomes.safetensors"])):
        files = [(tmp_path / str(size) / "run" / name).read_bytes() for size in (1, 2)]
        assert files[0] == files[1], name


# -- how runs end ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("nan", "the loss is nan in epoch 0, batch 3"),
        ("input", "process 1 of 2: spoilt"),
        ("bug", "process 1 of 2: KeyError('spoilt')"),
        ("killed", "a process of the run has gone without a word"),
    ],
)
def test_an_error_of_one_process_ends_all(
    how: str, said: str, ranks: Ranks, data: dict[str, Any], tmp_path: Path
) -> None:
    start = time.monotonic()
    spoil = {"ranks": ["1"], "call": 3, "how": how}
    first, other = ranks.call(run, {"settings": {**data, **within(tmp_path)}, "spoil": spoil})
    assert first.error.startswith("InputError: ")
    assert said in first.error
    if how == "bug":
        assert "KeyError: 'spoilt'" in other.printed
    else:
        assert other.error == "killed" or other.error.startswith("Stopped: ")
        assert other.printed == ""
    assert time.monotonic() - start < 30
    assert not (tmp_path / "run" / ".lock").exists()
    assert not (tmp_path / "run" / "result.json").exists()


def test_bad_input_is_told_once(ranks: Ranks, data: dict[str, Any], tmp_path: Path) -> None:
    arguments = [f"--data_path={data['data_path']}", "--dataset=few", f"--output={tmp_path}/run"]
    bad = ranks.call(command, {"arguments": ["run", *arguments, "--epochs=-1"]})
    assert [one.value for one in bad] == [2, 2]
    printed = "".join(one.printed for one in bad)
    assert printed.count("error: setting 'epochs' is -1") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--model=SASRec", "--dataset=ml-100k"], "model 'SASRec' runs in one process"),
        (["compare", "--models=TIGER,SASRec"], "compare runs in one process"),
        (["run", "--model=TIGER", "--nproc=2"], "several processes are started by torchrun"),
        (
            ["run", "--model=TIGER", "--local_rank=1"],
            "setting 'local_rank' is of RecBole's own way",
        ),
    ],
)
def test_what_runs_in_one_process_is_refused(
    arguments: list[str], said: str, ranks: Ranks, tmp_path: Path
) -> None:
    ended = ranks.call(command, {"arguments": [*arguments, f"--output={tmp_path}/run"]})
    assert [one.value for one in ended] == [2, 2]
    assert said in ended[0].printed
    assert ended[1].printed == ""


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node=2", str(ROOT / "run_recbole_sid.py"), *arguments),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_torchrun_runs_the_command(data: dict[str, Any], tmp_path: Path) -> None:
    names = ("data_path", "dataset", "model", "tokenizer", "hidden_size", "n_heads", "head_size")
    given = {name: data[name] for name in names} | within(tmp_path)
    given["load_col"] = "{inter: [user_id, item_id, timestamp]}"
    done = torchrun(
        "run", *(f"--{key}={value}" for key, value in given.items()), "--epochs=1", "--topk=[5]",
        "--valid_metric=NDCG@5", "--precision=float32", "--show_progress=False",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("run folder: ") == 1
    assert done.stderr.count("epoch 0 training") == 1
    assert (tmp_path / "run" / "result.json").is_file()


@pytest.mark.skipif(torch.cuda.device_count() < 1, reason="needs a GPU")
def test_a_gpu_trains_and_tests(ranks: Ranks, data: dict[str, Any], tmp_path: Path) -> None:
    settings = {**data, "gpu_id": "0", "epochs": 1, **within(tmp_path)}
    assert quick_start.run(config_dict=settings)["test_result"]["recall@10"] >= 0


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_train_and_test(data: dict[str, Any], tmp_path: Path) -> None:
    given = {"data_path": data["data_path"], "dataset": "few", "model": "TIGER", "epochs": 1}
    given |= {"tokenizer": "random", "load_col": "{inter: [user_id, item_id, timestamp]}"}
    given |= within(tmp_path)
    done = torchrun("run", *(f"--{key}={value}" for key, value in given.items()))
    assert done.returncode == 0, done.stderr[-3000:]
