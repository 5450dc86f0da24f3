"""Settings, names and texts that would run code, leave their folder or end a cell."""

from __future__ import annotations

import csv
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from recbole_sid import InputError, cli
from recbole_sid.config import Config
from recbole_sid.escaping import in_csv, in_latex, in_markdown, in_one_line
from recbole_sid.tuning.journal import Record, read_record
from recbole_sid.tuning.space import read_space
from tests.runs import SMALL, write_data
from tests.sealing import write_json

# -- nothing is evaluated -------------------------------------------------------------------------


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / "marker"


def payloads(marker: Path) -> list[str]:
    """Texts that make the folder ``marker`` when they are evaluated, or read as unsafe yaml."""
    make = f"__import__('os').mkdir({str(marker)!r})"
    return [
        make,
        f"[{make}]",
        f"({make}, 1)",
        f"{{'a': {make}}}",
        f"(lambda: {make})()",
        f"[x for x in [{make}]]",
        f"exec({make!r})",
        f"!!python/object/apply:os.mkdir [{marker}]",
        f"{make} or 3",
        f"[!!python/object/apply:os.mkdir [{marker}]]",
        f'f"{{{make}}}"',
        f"1 if {make} else 2",
    ]


def test_the_payloads_do_what_they_would_do(marker):
    for text in payloads(marker):
        if "!!" not in text and "exec(" not in text:
            eval(text)
            marker.rmdir()
        elif text.startswith("!!"):
            yaml.load(text, yaml.UnsafeLoader)
            marker.rmdir()


KEYS = ("learning_rate", "topk", "load_col", "tokenizer_codebook_size", "output", "unheard_of")


@pytest.mark.parametrize("key", KEYS)
def test_a_setting_that_is_code_is_refused_or_stays_text(key, marker, tmp_path):
    file = tmp_path / "a.yaml"
    for text in payloads(marker)[::2]:
        for given in ("line", "dict", "file", "plain file"):
            rest = {name: value for name, value in SMALL.items() if name != key}
            values: dict[str, Any] = {"config_dict": rest}
            if given == "line":
                values["command_line"] = [f"--{key}={text}"]
            elif given == "dict":
                values["config_dict"][key] = text
            else:
                file.write_text(
                    yaml.safe_dump({key: text}) if given == "file" else f"{key}: {text}\n"
                )
                values["config_file_list"] = [file]
            try:
                config = Config("TIGER", "ml-100k", **values)
                # A path, or a mapping of no known kind of file, to a text.
                assert key in ("output", "load_col")
                assert "mkdir" in str(config[key])
            except InputError:
                pass
            assert not marker.exists(), (text, given)


def test_code_on_the_command_line_is_one_line_of_error(marker, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for text in payloads(marker)[::3]:
        for arguments in (
            ["run", f"--learning_rate={text}"],
            ["run", f"--model={text}"],
            ["run", f"--dataset={text}"],
            ["compare", f"--models={text}", "--dataset=ml-100k"],
            ["compare", "--models=Pop", "--dataset=ml-100k", f"--seeds={text}"],
            ["tune", "--dataset=ml-100k", f"--max_trials={text}"],
            ["tokenize", f"--tokenizer={text}"],
        ):
            assert cli.main(arguments) == 2, arguments
            assert capsys.readouterr().err.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["choice", "uniform", "loguniform", "quniform"])
def test_a_space_that_is_code_is_refused(kind, marker, tmp_path):
    text_file, yaml_file = tmp_path / "space.test", tmp_path / "space.yaml"
    for text in payloads(marker):
        for line in (text, f"[{text}]", f"[1, {text}]", f"0, {text}"):
            text_file.write_text(f"learning_rate {kind} {line}\n")
            yaml_file.write_text(f"learning_rate: {{{kind}: [{yaml.safe_dump(text).strip()}]}}\n")
            for file in (text_file, yaml_file):
                try:
                    (one,) = read_space(file).dimensions
                    assert (file, one.values) == (yaml_file, (text,))
                    assert "!!" in text  # a quoted tag is a text like any other
                except InputError:
                    pass
        yaml_file.write_text(f"learning_rate: {{{kind}: {text}}}\n")
        with pytest.raises(InputError):
            read_space(yaml_file)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x: {choice: [1, 2020-01-01]}", "is no setting"),
        ("x: {choice: [{1: a, b: 2}]}", "is no setting"),
        ("x: {choice: [.nan]}", "is no setting"),
        ("x: {uniform: [0, 1" + "0" * 390 + "]}", "numbers, not"),
        ("x: {loguniform: [.nan, 1]}", "numbers, not"),
    ],
)
def test_a_space_of_other_values_is_refused(tmp_path, text, reason):
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(InputError, match=reason):
        read_space(tmp_path / "space.yaml")


@pytest.mark.parametrize("bounds", ["-8, x", "nan, 1", "9" * 399 + ", 1", "0, 1e999"])
def test_exponents_that_are_no_numbers_are_refused(tmp_path, bounds):
    (tmp_path / "space.test").write_text(f"x loguniform {bounds}\n")
    with pytest.raises(InputError, match=r"numbers|exponents"):
        read_space(tmp_path / "space.test")


def test_a_space_file_without_end_is_refused(tmp_path):
    (tmp_path / "space.test").write_text("# " + "x" * 2**20)
    with pytest.raises(InputError, match="more than 1,048,576 bytes"):
        read_space(tmp_path / "space.test")


@pytest.mark.parametrize(
    "changes",
    [{"score": "0.5"}, {"trial": "1"}, {"state": "new"}, {"evaluations": [["a"]]}, {"more": 1}],
)
def test_an_edited_record_of_a_trial_is_refused_or_plain(tmp_path, marker, changes):
    whole = {"trial": 1, "params": {"x": 0.5}, "state": "finished", "score": 0.5}
    file = tmp_path / "0001.json"
    write_json(file, whole | changes)
    with pytest.raises(InputError, match=r"0001\.json' cannot be read"):
        read_record(file)
    for text in payloads(marker):
        write_json(file, whole | {"params": {"x": text}})
        assert read_record(file) == Record(1, {"x": text}, "finished", 0.5)
    assert not marker.exists()


# -- what RecBole's models would run --------------------------------------------------------------


def test_the_teacher_of_kd_dagfm_is_a_name_and_not_evaluated(marker):
    for text in [*payloads(marker), "exit", "print", "KD_DAGFM", "np", "", 3]:
        with pytest.raises(InputError, match=r"'teacher' is .* one of DAGFM, CrossNet, CIN"):
            Config("KD_DAGFM", "ml-100k", config_dict={"teacher": text})
    assert not marker.exists()
    config = Config("KD_DAGFM", "ml-100k", config_dict={"teacher": "CrossNet"})
    assert config["teacher"] == "CrossNet"


class Making:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.mkdir, (self.marker,)


def test_vectors_of_ldiffrec_are_not_unpickled(tmp_path, marker):
    given = write_data(tmp_path / "data", [("u", "a", 1), ("u", "b", 2), ("u", "c", 3)])
    given |= {"load_col": {"inter": ["user_id", "item_id"]}, "n_cate": 2}
    file = tmp_path / "data" / "made" / "item_emb.npy"
    np.save(file, np.ones((3, 2)))
    Config("LDiffRec", "made", config_dict=given)
    objects = np.array([Making(marker)], dtype=object)
    np.save(file, objects, allow_pickle=True)
    bare = pickle.dumps(Making(marker))
    for content in (file.read_bytes(), bare):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"item_emb\.npy' is no array of numbers"):
            Config("LDiffRec", "made", config_dict=given)
    assert not marker.exists()


# -- names stay in their folder -------------------------------------------------------------------

PATHS = ["../x", "../../etc/passwd", "/etc/passwd", "..", ".", "a/b", "a\\b", "a\0b", "", "/"]


@pytest.mark.parametrize("name", [*PATHS, "a\nb", "a\x1b[2Jb", "a\u2028b", "é" * 91, 3, ["a"]])
@pytest.mark.parametrize("model", ["TIGER", "Pop"])
def test_a_dataset_that_is_a_path_is_refused(name, model):
    with pytest.raises(InputError, match="dataset name") as caught:
        Config(model, name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["output", "cache_dir"])
@pytest.mark.parametrize("name", ["a\0b", "a\nb", "\x1b]0;x\x07"])
def test_folders_with_control_characters_are_refused(key, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["run", f"--{key}={name}"],
        ["tokenize", f"--{key}={name}"],
        ["compare", "--models=Pop", "--dataset=ml-100k", f"--{key}={name}"],
        ["tune", f"--{key}={name}"],
        ["sids", "--dataset=ml-100k", "--sids=a", f"--{key}={name}"],
    ):
        assert cli.main(arguments) == 2, arguments
        (line,) = capsys.readouterr().err.splitlines()
        assert "control characters" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ["recommend", "--run=a", "--histories=b.tsv", "--output=o\0.tsv"],
        ["recommend", "--run=a\0", "--histories=b.tsv", "--output=o.tsv"],
        ["evaluate", "--run=a\0"],
        ["export", "--run=a", "--output=b\0"],
        ["append", "--run=a", "--items=b", "--output=c\n"],
        ["prepare", "--mapping=a\0.yaml", "--output=b"],
        ["report", "a", "--output=b\0.html"],
        ["tune", "--space=a\0"],
        ["compare", "--models=Pop", "--dataset=ml-100k", "--settings=a\0"],
        ["run", "--config_files=a\0"],
        ["run", "--data_path=a\0"],
        ["run", "--item_embedding_file=a\0"],
        ["run", "--allowed_items=a\0"],
        ["report", "a\0", "--output=b.html"],
    ],
)
def test_a_nul_in_a_path_is_one_line_of_error(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(command) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


# -- texts in tables ------------------------------------------------------------------------------

EVIL = [
    "<script>alert(1)</script>",
    "a | b",
    "[x](javascript:alert(1))",
    "![x](http://e.vil/a.png)",
    "line\nend",
    "`code`",
    "a\u2028b",
    "<img src=x onerror=alert(1)>",
    "\\| x",
]


@pytest.mark.parametrize("text", EVIL)
def test_markdown_is_shown_as_it_is(text):
    markdown = pytest.importorskip("markdown_it").MarkdownIt().enable("table")
    page = markdown.render(f"| a | b |\n| --- | --- |\n| {in_markdown(text)} | c |\n")
    assert page.count("<td") == 2
    for tag in ("<script", "<img", "<a ", "<code", "<br"):
        assert tag not in page
    assert in_markdown("learning_rate of ml-100k, [64, 32]") == "learning_rate of ml-100k, [64, 32]"


def test_nothing_escapes_a_cell_of_markdown():
    assert in_markdown("<b>a|b`c*") == "&lt;b&gt;a\\|b\\`c\\*"
    assert in_markdown("[x](javascript:y)") == "[x]\\(javascript:y)"
    assert in_markdown("a\r\n\u2028| --- |\x00") == "a \\| --- \\|"
    assert in_one_line(" a\n\tb\x1b[2J ") == "a b [2J"


@pytest.mark.parametrize("text", ["=cmd|'/c calc'!A1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", " =1"])
def test_no_cell_of_csv_is_a_formula(text):
    lines = io.StringIO()
    csv.writer(lines).writerow(map(in_csv, [text, "plain", -0.5, None]))
    (row,) = csv.reader(io.StringIO(lines.getvalue()))
    assert row == [f"'{text}", "plain", "-0.5", ""]


def test_latex_is_typeset_as_it_is():
    assert in_latex("a_b 5% & #1 $x$ {y}") == "a\\_b 5\\% \\& \\#1 \\$x\\$ \\{y\\}"
    assert in_latex("\\input{x}\n\\end") == "\\textbackslash{}input\\{x\\} \\textbackslash{}end"
    assert in_latex("~^") == "\\textasciitilde{}\\textasciicircum{}"
