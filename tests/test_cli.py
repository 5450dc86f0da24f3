import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from recbole_sid import cli
from recbole_sid.commands.usage import USAGE
from recbole_sid.training_state import STATE_FORMAT
from tests.runs import SMALL, snapshot, write_data

ROOT = Path(__file__).resolve().parent.parent
ITEMS = [f"i{n}" for n in range(8)]


def rows(n_users: int = 10) -> list[tuple[str, str, int]]:
    return [(f"u{u}", ITEMS[(u * 3 + i) % 8], i) for u in range(n_users) for i in range(6)]


def settings_file(folder: Path, given: dict) -> str:
    left_out = ("_num_interval", "codebook_size")
    kept = {k: v for k, v in SMALL.items() if not k.endswith(left_out)}
    cache = {"cache_dir": str(folder / "cache"), "topk": [3], "valid_metric": "NDCG@3"}
    file = folder / "base.yaml"
    file.write_text(yaml.safe_dump(kept | cache | given))
    return str(file)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a data set, a file of settings and a finished run."""
    folder = tmp_path_factory.mktemp("cli")
    file = settings_file(folder, write_data(folder / "data", rows()))
    code = cli.main(
        ["--dataset=made", "--config_files", file, "--output", str(folder / "run"), "--seed", "7"]
    )
    assert code == 0
    return folder


@pytest.fixture
def work(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    settings_file(tmp_path / "work", {"data_path": "data", "load_col": SMALL["load_col"]})
    return tmp_path / "work"


def test_what_the_command_line_sets_reaches_the_run(finished):
    stored = yaml.safe_load((finished / "run" / "config.yaml").read_text())
    assert (stored["model"], stored["dataset"], stored["seed"]) == ("TIGER", "made", 7)
    assert (stored["topk"], stored["hidden_size"]) == ([3], 16)


def test_the_figures_are_printed_also_when_the_run_was_finished_before(work, capsys):
    base = ["--dataset=made", "--config_files=base.yaml", "--output=again"]
    assert cli.main(base) == 0
    first = capsys.readouterr().out
    assert cli.main(base) == 0
    assert capsys.readouterr().out == first
    result = json.loads((work / "again" / "result.json").read_text())
    assert f"recall@3 {result['test_result']['recall@3']:.4f}" in first.splitlines()[1]
    assert first.splitlines()[2] == "run folder: again"


def test_both_spellings_and_the_command_itself(work):
    base = ["run", "--dataset", "made", "--config_files=base.yaml"]
    assert cli.main([*base, "--output=a", "--topk", "[2]", "--valid_metric=Recall@2"]) == 0
    assert cli.main([*base, "--output", "b", "--topk=[2]", "--valid_metric", "Recall@2"]) == 0
    assert (work / "a" / "result.json").read_bytes() == (work / "b" / "result.json").read_bytes()
    assert "recall@2" in json.loads((work / "a" / "result.json").read_text())["test_result"]
    assert cli.main([*base, "--output", "a", "--overwrite", "--model=Pop", "--topk=2",
                     "--valid_metric=Recall@2", "--config_files=pop.yaml"]) == 2  # fmt: skip


def test_help(capsys):
    for arguments in (["--help"], ["-h"], ["run", "--help"], ["--model", "TIGER", "--help"]):
        assert cli.main(arguments) == 0
        shown = capsys.readouterr()
        assert "usage: recbole-sid" in shown.out
        assert shown.err == ""


def test_help_of_one_command_and_of_all(capsys):
    assert set(USAGE) == set(cli.COMMANDS)
    cli.main(["prepare", "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith("usage: recbole-sid prepare --mapping FILE")
    assert "--preset NAME" in shown
    assert "--seeds" not in shown
    cli.main(["--help"])
    shown = capsys.readouterr().out
    assert all(text.call in shown for text in USAGE.values())
    assert max(map(len, shown.splitlines())) <= 100


def table(codes: dict[str, list]) -> str:
    Path("sids.json").write_text(json.dumps(codes))
    return "--tokenizer=file --sid_file=sids.json"


def plain(**changes) -> dict[str, list[int]]:
    return {item: [n // 3, n % 3] for n, item in enumerate(ITEMS)} | changes


def no_time() -> str:
    file = Path("data/made/made.inter")
    lines = (line.rsplit("\t", 1)[0] for line in file.read_text().splitlines())
    file.write_text("\n".join(lines) + "\n")
    return ""


def no_text() -> str:
    write_data(Path("blank"), rows(), {item: "" for item in ITEMS})
    return "--data_path=blank --tokenizer=rqkmeans"


def one_each() -> str:
    write_data(Path("short"), [(f"u{n}", item, n) for n, item in enumerate(ITEMS)])
    return "--data_path=short"


def bad_times() -> str:
    write_data(Path("odd"), [(u, i, "yesterday") for u, i, _ in rows()])
    return "--data_path=odd"


def other_items() -> str:
    """A checkpoint of this data set, to be resumed on another one."""
    state = {"format": STATE_FORMAT, "sids": "0" * 64, "settings": "0" * 64}
    from recbole_sid.checkpoint import save_state

    save_state(Path("run/training.pt"), state)
    Path("run/result.json").unlink()
    write_data(Path("other"), [(u, i.replace("i", "x"), t) for u, i, t in rows()])
    return "--data_path=other --resume --overwrite=False"


BAD = {
    "a missing data folder": ("--dataset=nowhere", "the data folder 'data/nowhere' does not exist"),
    "a missing column": (no_time, "has no column 'timestamp'; it has user_id, item_id"),
    "a value that is no time": (bad_times, "cannot read or split the data in 'odd/made'"),
    "an unknown model": ("--model=TIGRE", "unknown model 'TIGRE'. Did you mean 'TIGER'"),
    "an unknown tokenizer": ("--tokenizer=rqkmean", "unknown tokenizer 'rqkmean'"),
    "an unknown generator": (
        "--generator=lion",
        "unknown generator 'lion'. Known: 'diffgrm', 'duet', 'h2rec', 'intrr', 'tiger', 'trio'",
    ),
    "an unknown key": ("--beam_sise=30", "unknown setting 'beam_sise'. Did you mean 'beam_size'"),
    "an unknown metric": ("--metrics=['Recal']", "unknown metric 'Recal'. Did you mean 'Recall'"),
    "beams below the list": ("--beam_size=2", "'beam_size' is 2, but must be at least max(topk)"),
    "a list beyond the catalogue": (
        "--topk=[9] --valid_metric=NDCG@9",
        "'topk' is [9], but must be at most 8, the number of items",
    ),
    "a row of another width": (lambda: table(plain(i3=[1, 2, 3])), "item 'i3'"),
    "a code out of range": (
        lambda: table(plain(i3=[5, 0])) + " --sid_sizes=[3,3]",
        "sids.json: item 'i3'",
    ),
    "a negative code": (lambda: table(plain(i3=[-1, 0])), "sids.json: item 'i3'"),
    "an item without SID": (
        lambda: table({k: v for k, v in plain().items() if k != "i3"}),
        "1 of the 8 items in the data have no SID: 'i3'",
    ),
    "a SID without item": (lambda: table(plain(zz=[0, 1])), "'zz'"),
    "no SID file": ("--tokenizer=file --sid_file=none.json", "there is no such file"),
    "an empty text column": (no_text, "empty text column: none of the 8 items has text in 'title'"),
    "an empty training split": (one_each, "the data in 'short/made'"),
    "a checkpoint of another data set": (other_items, "other items or other SIDs"),
    "an unknown command": ("train", "unknown command 'train'. Known: run, recommend, evaluate"),
    "a value without key": ("--epochs", "setting 'epochs' needs a value: --epochs=VALUE"),
    "a lonely word": ("--epochs=1 twice", "argument 'twice' is not understood"),
    "no settings file": ("--config_files=none.yaml", "config file 'none.yaml' cannot be read"),
    "broken yaml": (
        lambda: [Path("b.yaml").write_text("a: [1\nb"), "--config_files=b.yaml"][1],
        "config file 'b.yaml' is not valid yaml",
    ),
    "a learner that RecBole replaces": ("--learner=lion", "setting 'learner' is 'lion'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_changes_nothing(case, work, capsys):
    given, message = BAD[case]
    words = (given if isinstance(given, str) else given()).split()
    base = ["--output=run", "--overwrite", "--seed=8"]
    if "--overwrite=False" in words:
        base.remove("--overwrite")
    for key, value in (("--dataset", "made"), ("--config_files", "base.yaml")):
        if not any(word.startswith(key) for word in words):
            base.append(f"{key}={value}")
    before = snapshot(work)
    capsys.readouterr()
    code = cli.main([*words, *base] if words and words[0] == "train" else [*base, *words])
    shown = capsys.readouterr()
    assert code == 2
    assert shown.out == ""
    *progress, line = shown.err.splitlines()
    assert line.startswith("error: ")
    # That a state does not fit can be seen only after stage 1, which shows its progress.
    assert not progress or case == "a checkpoint of another data set"
    assert message in shown.err
    assert {k: v for k, v in snapshot(work).items() if not k.startswith("cache")} == {
        k: v for k, v in before.items() if not k.startswith("cache")
    }


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, 2), (errno.EROFS, 2), (errno.EIO, None)]
)
def test_a_disk_that_takes_no_more_is_one_line(number, code, monkeypatch, capsys):
    def full(_):
        raise OSError(number, "no", "events.out")

    monkeypatch.setitem(cli.COMMANDS, "run", full)
    if code is None:  # a broken disk is no bad input
        with pytest.raises(OSError, match=r"events\.out"):
            cli.main(["run"])
    else:
        assert cli.main(["run"]) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error:")
        assert "events.out" in line


def test_the_process_ends_with_code_2_and_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "run_recbole_sid.py"), "--model=TIGRE"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: unknown model 'TIGRE'. Did you mean 'TIGER'")
    assert list(tmp_path.iterdir()) == []


# -- the use of a finished run --------------------------------------------------------------------

HISTORIES = [
    {"user": "u1", "history": ["i3", "i4", "i5", "i6"]},
    {"user": "new one", "history": ["i0", "gone"]},
    {"user": "lost", "history": ["gone"]},
]


@pytest.fixture
def used(work):
    lines = (json.dumps(row) for row in HISTORIES)
    Path("h.jsonl").write_text("\n".join(lines) + "\n")
    return work


def test_recommend_writes_lists(used, capsys):
    base = ["recommend", "--run=run", "--histories=h.jsonl", "--k=3", "--batch_size", "1"]
    before = snapshot(used / "run")
    assert cli.main([*base, "--output", "o.jsonl"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "3 lists in o.jsonl\n"
    assert "2 of the 7 items in the histories are unknown" in shown.err
    assert "1 of 3 histories hold no item" in shown.err
    lists = [json.loads(line) for line in Path("o.jsonl").read_text().splitlines()]
    assert [(row["user"], len(row["items"])) for row in lists] == [
        ("u1", 3), ("new one", 3), ("lost", 0)
    ]  # fmt: skip
    assert all(set(row["items"]) <= set(ITEMS) for row in lists)
    Path("h.tsv").write_text("u1\ti3 i4 i5 i6\nnew one\ti0 gone\n")
    assert cli.main([*base, "--histories=h.tsv", "--output=o.tsv"]) == 2  # given twice
    base[2] = "--histories=h.tsv"
    assert cli.main([*base, "--output=o.tsv", "--exclude_history", "--beam_size=5"]) == 0
    header, *rows = [line.split("\t") for line in Path("o.tsv").read_text().splitlines()]
    assert header == ["user", "rank", "item", "score"]
    assert [row[:2] for row in rows] == [[u, str(r)] for u in ("u1", "new one") for r in (1, 2, 3)]
    assert not {row[2] for row in rows if row[0] == "u1"} & set(HISTORIES[0]["history"])
    assert cli.main([*base, "--output=o.tsv"]) == 2
    assert cli.main([*base, "--output=o.tsv", "--overwrite"]) == 0
    assert snapshot(used / "run") == before


def test_evaluate_prints_and_writes(used, capsys):
    before = snapshot(used / "run")
    assert cli.main(["evaluate", "--run=run"]) == 0
    stored = json.loads((used / "run" / "result.json").read_text())
    valid, test = capsys.readouterr().out.splitlines()
    assert f"recall@3 {stored['best_valid_result']['recall@3']:.4f}" in valid
    assert f"recall@3 {stored['test_result']['recall@3']:.4f}" in test
    again = [
        "evaluate",
        "--run",
        "run",
        "--topk",
        "1,5",
        "--metrics=Recall,NDCG",
        "--output=e.json",
    ]
    assert cli.main([*again, "--beam_size=8", "--exclude_history"]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1] == "result: e.json"
    assert "exclude_history is on" in shown.err
    result = json.loads(Path("e.json").read_text())
    assert set(result["test_result"]) == {
        f"{name}@{k}"
        for name in ("recall", "ndcg", "sid_recall", "credited_recall", "generated")
        for k in (1, 5)
    }
    assert result["settings"]["exclude_history"] is True
    assert f"ndcg@5 {result['valid_result']['ndcg@5']:.4f}" in shown.out.splitlines()[0]
    assert cli.main([*again]) == 2
    assert cli.main([*again, "--overwrite"]) == 0
    assert snapshot(used / "run") == before


USE = "recommend --run=run --histories=h.jsonl --output=o.tsv"
BAD_USE = {
    "no run": ("recommend --histories=h.jsonl --output=o.tsv", "recommend needs --run"),
    "not a run": (
        "recommend --run=data --histories=h.jsonl --output=o.tsv",
        "'data' has no config.yaml",
    ),
    "no such run": ("evaluate --run=none", "'none' has no config.yaml"),
    "an unknown argument": (
        f"{USE} --beam_sise=3",
        "unknown argument --beam_sise of recommend. Did",
    ),
    "an argument of run": (f"{USE} --epochs=3", "unknown argument --epochs of recommend"),
    "an argument without value": (f"{USE} --k", "argument 'k' needs a value"),
    "a name that is a number": ("evaluate --run=5", "--run is 5, not a name: write it as ./NAME"),
    "a long list": (f"{USE} --k=9", "'k' is 9, but must be at most 8"),
    "a narrow search": (
        f"{USE} --k=5 --beam_size=4",
        "'beam_size' is 4, but must be at least k = 5",
    ),
    "unknown items": (f"{USE} --k=3 --unknown=refuse", "2 of the 7 items in the histories are"),
    "another output format": (
        USE.replace("o.tsv", "o.csv"),
        "must be a file that ends in .jsonl or",
    ),
    "an output without folder": (USE.replace("o.tsv", "no/o.tsv"), "there is no folder 'no'"),
    "an output that is the input": (
        USE.replace("o.tsv", "./h.jsonl") + " --overwrite",
        "is a file that is needed as it is",
    ),
    "no histories": (USE.replace("h.jsonl", "no.jsonl"), "histories 'no.jsonl' cannot be read"),
    "a bad line": (
        lambda: [Path("h.jsonl").write_text("{}\n"), USE][1],
        "'h.jsonl', line 1: has no key 'user'",
    ),
    "a training setting": ("evaluate --run=run --epochs=3", "'epochs' is no evaluation setting"),
    "a misspelled setting": (
        "evaluate --run=run --topkk=3",
        "unknown setting 'topkk'. Did you mean",
    ),
    "a search below the list": (
        "evaluate --run=run --topk=3,11",
        "'beam_size' is 10, but must be at least max(topk) = 11",
    ),
    "the run's own result": (
        "evaluate --run=run --output=run/result.json --overwrite",
        "is a file that is needed as it is",
    ),
    "a result that is no json": ("evaluate --run=run --output=e.txt", "that ends in .json"),
    "overwrite as a number": (
        f"{USE} --overwrite=3",
        "--overwrite is 3, but must be true or false",
    ),
}


@pytest.mark.parametrize("case", BAD_USE)
def test_bad_use_is_one_line_and_changes_nothing(case, used, capsys):
    given, message = BAD_USE[case]
    words = (given if isinstance(given, str) else given()).split()
    before = snapshot(used)
    capsys.readouterr()
    assert cli.main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert snapshot(used) == before


# -- without training -----------------------------------------------------------------------------

KINDS = ["mats", "mugs"]
# Of each, the third is validation: it brings new pairs, and the other half of the items is left.
ORDERS = ["0123", "2301", "4567", "6745"]


@pytest.fixture
def with_kinds(work):
    """Four users, and a column of categories, in the data set of ``work``."""
    rows = [f"u{u}\ti{n}\t{t}" for u, items in enumerate(ORDERS) for t, n in enumerate(items)]
    header = "user_id:token\titem_id:token\ttimestamp:float"
    Path("data/made/made.inter").write_text("\n".join([header, *rows]) + "\n")
    lines = [f"{item}\tThing {item}\t{KINDS[n % 2]}" for n, item in enumerate(ITEMS)]
    header = "item_id:token\ttitle:token\tkind:token"
    Path("data/made/made.item").write_text("\n".join([header, *lines]) + "\n")
    return work


def figures(line: str) -> dict[str, float]:
    words = line.partition(": ")[2].split()
    return dict(zip(words[::2], map(float, words[1::2]), strict=True))


def test_tokenize_prints_what_it_writes(with_kinds, capsys):
    Path("sids.json").write_text(json.dumps(plain(i7=[0, 1])))
    np.save("v.npy", np.random.default_rng(0).normal(size=(8, 3)))
    Path("ids.json").write_text(json.dumps(ITEMS))
    base = ["tokenize", "--dataset=made", "--config_files=base.yaml", "--tokenizer", "file"]
    base += ["--sid_file=sids.json", "--item_category_field=kind", "--output=t"]
    base += ["--item_embedding_file=v.npy", "--item_embedding_ids=ids.json", "--retrieval_top=[1]"]
    assert cli.main(base) == 0
    shown = capsys.readouterr()
    sids, agreement, adjusted, recalls, folder = shown.out.splitlines()
    result = json.loads(Path("t/result.json").read_text())
    # Rows 1 and 7 share a SID.
    assert figures(sids)["collision_rate"] == result["quality"]["collision_rate"] == 2 / 8
    assert agreement.startswith("all items: v_measure_1 ")
    assert figures(agreement)["v_measure_2"] == round(result["v_measure"]["v_measure_2"], 4)
    assert adjusted.startswith("all items: adjusted_mutual_information_1 ")
    assert recalls.startswith("retrieval by item_vectors: recall@1 ")
    found = result["retrieval"]["item_vectors"]
    assert (found["queries"], figures(recalls)["recall@1"]) == (8, round(found["recall@1"], 4))
    assert folder == "folder: t"
    assert "file on made, folder t" in Path("t/run.log").read_text()
    assert cli.main(base) == 0  # the stored one
    assert capsys.readouterr().out == shown.out
    base.remove("--item_category_field=kind")
    assert cli.main([*base, "--retrieval=False", "--overwrite"]) == 0
    sids, folder = capsys.readouterr().out.splitlines()
    assert (sids.startswith("sids: collision_rate 0.2500"), folder) == (True, "folder: t")


def test_summarize_writes_a_column(with_kinds, capsys):
    base = ["summarize", "--dataset=made", "--config_files=base.yaml", "--output", "s.item"]
    assert cli.main([*base, "--item_category_field=kind"]) == 0
    assert capsys.readouterr().out == "8 items with a summary in s.item\n"
    rows = [line.split("\t") for line in Path("s.item").read_text().splitlines()]
    assert rows[0][3] == "summary:token_seq"
    assert [row[3] for row in rows[1:3]] == [
        "This is an item of the mats industry.", "This is an item of the mugs industry."
    ]  # fmt: skip
    assert cli.main([*base, "--item_category_field=kind"]) == 2
    assert cli.main([*base, "--item_category_field=kind", "--overwrite"]) == 0


TOKENIZE = "tokenize --dataset=made --config_files=base.yaml --retrieval=False"
SUMMARIZE = "summarize --dataset=made --config_files=base.yaml"
BAD_WITHOUT_TRAINING = {
    "all items held out": (
        f"{TOKENIZE} --held_out_share=1.0",
        "'held_out_share' is 1.0, but must be 0, or above 0 and below 1",
    ),
    "a tokenizer that cannot assign": (
        f"{TOKENIZE} --held_out_share=0.2",
        "tokenizer 'random' cannot give codes to items that it was not fitted on",
    ),
    "an unknown setting": (
        f"{TOKENIZE} --held_out_sahre=0.2",
        "unknown setting 'held_out_sahre'. Did you mean 'held_out_share'",
    ),
    "a setting of tokenize in run": (
        "run --dataset=made --config_files=base.yaml --held_out_share=0.2",
        "'held_out_share' belongs to the command tokenize",
    ),
    "a model of RecBole": (
        "tokenize --dataset=made --data_path=data --model=Pop",
        "'Pop' is RecBole's model and has none",
    ),
    "resume": (f"{TOKENIZE} --resume", "tokenize needs no --resume"),
    "a finished run": (f"{TOKENIZE} --output=run", "'run' holds a run of other settings"),
    "no output": (SUMMARIZE, "summarize needs --output"),
    "an output that is no item file": (
        f"{SUMMARIZE} --output=o.txt",
        "must be a file that ends in .item",
    ),
    "no category": (f"{SUMMARIZE} --output=o.item", "set item_category_field or item_industry"),
    "a setting of nobody": (
        f"{SUMMARIZE} --output=o.item --item_category_feild=kind",
        "unknown setting 'item_category_feild'. Did you mean 'item_category_field'",
    ),
    "no language model": (
        f"{SUMMARIZE} --output=o.item --item_category_field=title --summary_model=none",
        "language model 'none' is not a folder",
    ),
    "a comparison of nothing": ("compare --dataset=made", "no models are given: name them with"),
    "a comparison of another model": (
        "compare --models=SASRek,Pop --dataset=made --data_path=data",
        "model SASRek: unknown model 'SASRek'",
    ),
    "a grid of tokenizers alone": (
        "compare --tokenizers=rqkmeans,opq --dataset=made --data_path=data",
        "--tokenizers is given without --generators",
    ),
    "a grid with a name of nobody": (
        "compare --tokenizers=rqkmeans --generators=tigre --dataset=made --data_path=data",
        "unknown generator 'tigre'",
    ),
    "a flag without value": (f"{SUMMARIZE} --output=o.item --summary_model", "needs a value"),
}


@pytest.mark.parametrize("case", BAD_WITHOUT_TRAINING)
def test_bad_input_without_training_is_one_line_and_changes_nothing(case, work, capsys):
    command, message = BAD_WITHOUT_TRAINING[case]
    before = snapshot(work)
    capsys.readouterr()
    assert cli.main(command.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert snapshot(work) == before
