"""Every command, Python block, file, setting and link of the README is tried.

Commands and Python run in a copy of the checkout whose dataset files make everything small; the
text of a command is not touched. Installing is compared with ``pyproject.toml`` instead.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from recbole_sid import registry
from recbole_sid.resources import resource_dir
from tests.test_example_ads import COMMANDS as EXAMPLE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

SMALL = {
    "epochs": 1,
    "hidden_size": 16,
    "inner_size": 16,
    "tokenizer_codebook_size": 4,
    # Any text encoder does; float32 needs no processor with bf16.
    "text_encoder_precision": "float32",
}
# 117 users and 46 items of ml-100k.
FEW = {"user_inter_num_interval": "[10,30]", "item_inter_num_interval": "[20,inf)"}
N_ITEMS = 40


class Block(NamedTuple):
    """A fenced block: its language, its text, and the file that the line before it names last."""

    language: str
    text: str
    file: str | None


def blocks() -> list[Block]:
    found = []
    # Text and fenced blocks take turns: prose, language and text, prose, …
    parts = re.split(r"^```(\w*)\n", README, flags=re.MULTILINE)
    for prose, language, text in zip(parts[0::4], parts[1::4], parts[2::4], strict=False):
        paragraph = prose.rstrip().split("\n\n")[-1]
        named = re.findall(r"`([\w/.-]+\.\w+)`", paragraph)
        found.append(Block(language, text, named[-1] if named else None))
    return found


BLOCKS = blocks()
# The example's commands have a test of their own.
LINES = [
    line
    for block in BLOCKS
    if block.language == "bash"
    for line in block.text.splitlines()
    if line not in EXAMPLE
]
INLINE = re.findall(r"`((?:pip|python|recbole-sid|tensorboard) [^`]+)`", README)
COMMANDS = [part.strip() for line in [*LINES, *INLINE] for part in line.split("&&")]


def starting_with(*words: str) -> list[str]:
    return [command for command in COMMANDS if tuple(command.split()[: len(words)]) == words]


USES = [
    *starting_with("python", "run_recbole_sid.py", "recommend"),
    *starting_with("python", "run_recbole_sid.py", "evaluate"),
]
TOKENIZES = starting_with("python", "run_recbole_sid.py", "tokenize")
SIDS = starting_with("python", "run_recbole_sid.py", "sids")
SUMMARIZES = starting_with("python", "run_recbole_sid.py", "summarize")
PREPARES = starting_with("python", "run_recbole_sid.py", "prepare")
COMPARES = starting_with("python", "run_recbole_sid.py", "compare")
TUNES = starting_with("python", "run_recbole_sid.py", "tune")
REPORTS = starting_with("python", "run_recbole_sid.py", "report")
OTHERS = [*USES, *TOKENIZES, *SIDS, *SUMMARIZES, *PREPARES, *COMPARES, *TUNES, *REPORTS]
RUNS = [c for c in starting_with("python", "run_recbole_sid.py") if c not in OTHERS]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the README's example files, in which every run is small."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("recbole_sid", "properties", "dataset_configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run_recbole_sid.py", folder)
    configs = folder / "dataset_configs"
    ml_100k = yaml.safe_load((configs / "ml-100k.yaml").read_text(encoding="utf-8"))
    small = ml_100k | {"generative": SMALL} | SMALL | FEW
    (configs / "ml-100k.yaml").write_text(yaml.safe_dump(small))
    (configs / "my_ads.yaml").write_text(yaml.safe_dump(SMALL))

    for block in BLOCKS:
        if block.language in ("text", "yaml"):
            assert block.file is not None, f"no file name before:\n{block.text}"
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(block.text)
    grow(folder / "data" / "my_ads")
    items = [f"ad{number}" for number in range(1, N_ITEMS + 1)]
    np.save(folder / "vectors.npy", np.random.default_rng(0).normal(size=(N_ITEMS, 64)))
    (folder / "ids.txt").write_text("\n".join(items))
    codes = {item: [number % 4, number // 4] for number, item in enumerate(items)}
    (folder / "my_sids.json").write_text(json.dumps(codes))
    return folder


def grow(folder: Path) -> None:
    """Three rows stand in the README; training needs more of the same columns."""
    with (folder / "my_ads.item").open("a") as file:
        for number in range(4, N_ITEMS + 1):
            file.write(f"ad{number}\tAdvertisement {number}\ttoys > kind {number % 3}\tBrand\n")
    rng = np.random.default_rng(0)
    with (folder / "my_ads.inter").open("a") as file:
        for user in range(3, 33):
            for time, item in enumerate(rng.permutation(N_ITEMS)[:6]):
                file.write(f"u{user}\tad{item + 1}\t{1_700_000_000 + 1000 * time}\n")


def execute(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "RECBOLE_SID_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.parametrize("command", RUNS)
def test_a_command_trains_what_it_says(command: str, checkout: Path) -> None:
    shutil.rmtree(checkout / "runs", ignore_errors=True)
    execute(["bash", "-c", command], checkout)
    (folder,) = (checkout / "runs").iterdir()
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    used = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    given = dict(word.removeprefix("--").split("=", 1) for word in shlex.split(command)[2:])
    assert result["model"] == given.get("model", "TIGER")
    assert result["dataset"] == given.get("dataset", "ml-100k")
    for key in set(given) - {"data_path", "config_files"}:
        file = checkout / given[key]  # the folder of a run names files by their full path
        assert str(used[key]) == (str(file) if file.is_file() else given[key])


def test_python_blocks_run_one_after_another(checkout: Path) -> None:
    script = checkout / "blocks.py"
    script.write_text("\n".join(block.text for block in BLOCKS if block.language == "python"))
    printed = execute([sys.executable, str(script)], checkout).stdout
    figures, *_, best = [line for line in printed.splitlines() if line[:1] in "0123456789{"]
    assert all(0 <= float(figure) <= 1 for figure in figures.split())
    assert "dropout" in best


def test_a_finished_run_is_used(checkout: Path) -> None:
    shutil.rmtree(checkout / "runs", ignore_errors=True)
    execute(["bash", "-c", "python run_recbole_sid.py --output=runs/first"], checkout)
    assert len(USES) >= 3
    for command in USES:
        done = execute(["bash", "-c", command], checkout)
        assert "are unknown to the run" not in done.stderr
    lists = [json.loads(line) for line in (checkout / "lists.jsonl").read_text().splitlines()]
    assert [(row["user"], len(row["items"]), len(row["scores"])) for row in lists] == [
        ("u1", 5, 5), ("u2", 5, 5)
    ]  # fmt: skip
    _, *rows = [line.split("\t") for line in (checkout / "lists.tsv").read_text().splitlines()]
    assert [row[:2] for row in rows] == [[u, str(r)] for u in ("u1", "u2") for r in range(1, 6)]
    assert "288" not in {item for user, _, item, _ in rows if user == "u2"}
    result = json.loads((checkout / "wide.json").read_text())
    assert {f"recall@{k}" for k in (5, 10, 20)} <= set(result["test_result"])
    assert result["settings"]["beam_size"] == 50


def test_a_tokenizer_is_measured(checkout: Path) -> None:
    assert len(TOKENIZES) >= 2
    for command in TOKENIZES:
        shutil.rmtree(checkout / "runs", ignore_errors=True)
        execute(["bash", "-c", command], checkout)
        (folder,) = (checkout / "runs").iterdir()
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        assert folder.name.startswith(f"{result['dataset']}-{result['tokenizer']}-")
        assert {row[0] for row in table("Part")} <= set(result)
        held_out = "--held_out_share" in command
        assert result["v_measure"]["measured_on"] == ("held-out" if held_out else "all") + " items"


def test_sids_are_put_side_by_side(checkout: Path) -> None:
    (command,) = SIDS
    shutil.rmtree(checkout / "runs", ignore_errors=True)
    data = "--dataset=my_ads --data_path=data --config_files=my_ads.yaml"
    made = f"python run_recbole_sid.py tokenize {data} --retrieval=False --output=runs/ads"
    execute(["bash", "-c", made], checkout)
    execute(["bash", "-c", command], checkout)
    folder = checkout / "runs" / "my_ads-sids"
    result = json.loads((folder / "sid_report.json").read_text(encoding="utf-8"))
    assert [entry["label"] for entry in result["sets"]] == ["theirs", "ours"]
    assert (result["settings"]["report_neighbours"], result["left_out"]) == (20, [])
    assert all((folder / f"sid_report.{kind}").is_file() for kind in ("md", "csv"))


def test_models_are_compared(checkout: Path) -> None:
    (command,) = COMPARES
    execute(["bash", "-c", command], checkout)
    folder = checkout / "comparisons" / "first"
    result = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    finished = {
        row["model"]: [run["seed"] for run in row["runs"] if run["state"] == "finished"]
        for row in result["models"]
    }
    one, two = [2020], [2020, 2021]
    assert finished == {"TIGER": two, "control": one, "SASRec": two, "Pop": one}
    assert all((folder / f"comparison.{kind}").is_file() for kind in ("md", "csv", "tex"))


def test_one_page_is_written(checkout: Path) -> None:
    (command,) = REPORTS
    (compared,) = COMPARES
    execute(["bash", "-c", compared], checkout)
    execute(["bash", "-c", "python run_recbole_sid.py --output=runs/first --overwrite"], checkout)
    execute(["bash", "-c", command], checkout)
    text = (checkout / "report.html").read_text(encoding="utf-8")
    assert "<h3>Test, ml-100k</h3>" in text
    assert text.count('<details class="example">') >= 8
    assert (checkout / "figures" / "ml-100k-frontier.svg").is_file()


def test_settings_are_tuned(checkout: Path) -> None:
    (command,) = TUNES
    execute(["bash", "-c", command], checkout)
    folder = checkout / "tunings" / "first"
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert [trial["state"] for trial in result["trials"]] == ["finished"] * 2
    for name in ("trials.md", "trials.csv", "result.json", "best.yaml"):
        assert f"`{name}`" in README
        assert (folder / name).is_file()
    best = yaml.safe_load((folder / "best.yaml").read_text(encoding="utf-8"))
    assert {key: best[key] for key in result["best_params"]} == result["best_params"]


def test_summaries_are_written(checkout: Path) -> None:
    (command,) = SUMMARIZES
    execute(["bash", "-c", command], checkout)
    header, first, *_ = (checkout / "summarized.item").read_text(encoding="utf-8").splitlines()
    assert header.endswith("\tsummary:token_seq")
    assert "tableware" in first.rpartition("\t")[2]


def test_data_are_prepared(checkout: Path) -> None:
    (command,) = PREPARES
    done = execute(["bash", "-c", command], checkout)
    assert "'log.csv', line 5: time that is not iso: u2 | ad2 | click | yesterday" in done.stderr
    made = {path.name: path.read_text() for path in (checkout / "data" / "shop").iterdir()}
    assert made["shop.item"].splitlines()[1:] == [
        "ad1\tTea cups, set of six\thousehold > tableware\t24.90",
        "ad2\tTrail running shoes\tsports > shoes\t",
    ]
    assert [line.split("\t")[:2] for line in made["shop.inter"].splitlines()[1:]] == [
        ["u1", "ad1"], ["u2", "ad2"]
    ]  # fmt: skip
    assert set(made) == set(re.findall(r"`(shop\.[\w.]+)`", README))


def test_the_run_folder_holds_the_files_of_the_table(checkout: Path) -> None:
    execute(["bash", "-c", "python run_recbole_sid.py --output=one --seed=1"], checkout)
    listed = [row[0] for row in table("File")]
    present = {file.name for file in (checkout / "one").iterdir() if file.is_file()}
    assert {name for name in listed if "*" not in name} <= present
    for name in present:
        assert any(Path(name).match(pattern) for pattern in listed), name
    result = json.loads((checkout / "one" / "result.json").read_text(encoding="utf-8"))
    figures = {*result["test_result"], *result["sid"]}
    for name in re.findall(r"^- `([^`]+)`:", README, flags=re.MULTILINE):
        assert name.replace("@k", "@10") in figures
    logged = execute(["tensorboard", "--logdir", "one", "--inspect"], checkout).stdout
    assert "scalars" in logged


def test_installing_is_what_pyproject_offers() -> None:
    commands = starting_with("pip", "install")
    assert len(commands) >= 4
    allowed = {re.sub(r"\s", "", requirement) for requirement in PROJECT["dependencies"]}
    for command in commands:
        words = shlex.split(command)[2:]
        for word in words:
            if word.startswith("."):
                (extra,) = re.fullmatch(r"\.\[(\w+)\]", word).groups()  # type: ignore[union-attr]
                assert extra in PROJECT["optional-dependencies"]
            elif not word.startswith(("-", "https://")):
                assert word in allowed


def test_there_are_two_commands_and_ci_runs_the_second() -> None:
    first, second = [line for line in LINES if "&&" in line]
    assert first == 'pip install -e ".[offline]" && python run_recbole_sid.py'
    assert f"test_command='{second}'" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_example_is_in_the_readme() -> None:
    assert "\n".join(EXAMPLE) in README


def test_every_command_is_of_a_kind_that_is_tried() -> None:
    tensorboard = starting_with("tensorboard", "--logdir", "runs")
    tried = [*RUNS, *OTHERS, *starting_with("pip", "install"), *tensorboard]
    assert sorted(set(COMMANDS) - set(tried)) == ["python -m pytest -q -n auto --dist loadfile"]
    assert {block.language for block in BLOCKS} == {"bash", "python", "text", "yaml"}


def test_the_models_are_those_that_are_registered() -> None:
    listed = [re.match(r"--(\w+)=([\w-]+)", row[0]).groups() for row in table("Name")]  # type: ignore[union-attr]
    ours = {("model", name) for name in registry.model_names()}
    ours |= {(spec.kind, spec.name) for spec in registry.components()}
    assert set(listed) == ours | {("model", "SASRec")}


def test_the_settings_have_the_defaults_of_the_table() -> None:
    defaults: dict[str, Any] = {}
    for name in (
        "overall",
        "items",
        "pairs",
        "generator/tiger",
        "tokenizer/rqkmeans",
        "model/TIGER",
    ):
        file = resource_dir("properties") / f"{name}.yaml"
        defaults |= yaml.safe_load(file.read_text(encoding="utf-8"))
    spec = registry.model("TIGER")
    assert spec is not None
    defaults["tokenizer"] = spec.tokenizer
    rows = table("Setting")
    assert len(rows) > 10
    for name, default, *_ in rows:
        assert defaults[name] == yaml.safe_load(default), name


def test_settings_named_elsewhere_exist() -> None:
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    known = set()
    for file in resource_dir("properties").rglob("*.yaml"):
        known |= set(yaml.safe_load(file.read_text(encoding="utf-8")))
    named = set(re.findall(r"`--(\w+)[=`]", text)) | set(re.findall(r"lower `(\w+)`", text))
    assert {"precision", "overwrite", "eval_batch_size"} <= named
    assert named - known <= {
        *("config_files", "key", "tokenizer", "generator"),
        *("scores", "image_bytes", "models", "tokenizers"),  # of commands
    }


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def table(first_column: str) -> list[list[str]]:
    """The rows of the table whose first column is called so, without the marks of code."""
    _, _, rest = README.partition(f"| {first_column} |")
    rows = rest.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows]
