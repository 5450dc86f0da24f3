"""The page as bytes: what is on it, that no text of the data becomes markup, what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import recbole_sid
from recbole_sid import cli
from recbole_sid.errors import InputError
from recbole_sid.page.curves import Curves, read_curves
from recbole_sid.page.figures import plot_collisions, undominated
from recbole_sid.page.payload import as_json
from recbole_sid.page.sources import read_folders
from tests.page import made
from tests.runs import snapshot
from tests.sealing import write_json


class Page(HTMLParser):
    """Elements of a page with their attributes, and the text of scripts and cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)
        self.texts.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.append((self._open[-1], data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]

    def text(self, *tags: str) -> list[str]:
        return [" ".join(data.split()) for tag, data in self.texts if tag in tags and data.strip()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A comparison of two models and three runs, a tokenizer, a SID report, a run of its own."""
    root = tmp_path_factory.mktemp("page")
    config = made.data_set(root / "data")
    compared = root / "<b>first"
    runs = compared / "runs"
    for name, ndcg, seconds in (("A-1", 0.25, 90.0), ("A-2", 0.35, 30.0), ("B-1", 0.2, 270.0)):
        one = made.run(
            runs / name, config, ndcg=ndcg, train_seconds=seconds, losses=(3.0, 2.5), codes=None
        )
        made.outcomes(one, {"u0": "345", "u1": "012", "u2": "142", "u3": "50"})
    made.comparison(compared, {"A": [1, 2], "B": [1], "C": [5]}, {"A": 0.3, "B": 0.2, "C": 0.1})
    own = made.run(root / made.EVIL.replace("/", ""), config, ndcg=0.1, codes=made.CODES)
    tokenized = made.tokenizer(root / "tokens", config, made.CODES | {"i0": (3, 0, 0, 0)})
    known = made.sids(made.CODES).fingerprint()
    reported = made.sid_report(
        root / "sets", json.loads((own / "result.json").read_text())["data_hash"],
        {"ours": known, "theirs": "0" * 64},
    )  # fmt: skip
    return {"compared": compared, "own": own, "tokenized": tokenized, "reported": reported}


@pytest.fixture(scope="module")
def written(folders, tmp_path_factory) -> tuple[str, dict[str, Any]]:
    output = tmp_path_factory.mktemp("out") / "report.html"
    result = recbole_sid.report(list(folders.values()), output)
    text = output.read_text(encoding="utf-8")
    assert result["bytes"] == len(text.encode())
    return text, result


def data_of(text: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    return json.loads(found)


def rows_of(text: str, heading: str) -> list[list[str]]:
    """The cells of the table under ``heading``."""
    part = text[text.index(f"<h3>{heading}</h3>") :]
    body = part[part.index("<tbody>") : part.index("</tbody>")]
    return [
        [re.sub(r"<.*?>", "", cell) for cell in re.findall(r"<t[hd][^>]*>.*?</t[hd]>", row)]
        for row in body.split("</tr>")[:-1]
    ]


def test_no_text_of_the_data_becomes_markup(written) -> None:
    page = Page(written[0])
    # The data and our script, and nothing that a title or the name of a folder says.
    assert [attrs.get("type") for attrs in page.of("script")] == ["application/json", None]
    assert page.of("img") == []
    assert page.of("b") == []
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    titles = data_of(written[0])["items"][0]["titles"]
    assert titles[0] == made.EVIL
    assert titles[1] == "<img src=x onerror=alert(2)> & \"quoted\" 'so'"
    assert made.EVIL in page.text("li", "span")


def test_nothing_is_loaded_and_only_our_script_may_run(written) -> None:
    page = Page(written[0])
    assert {tag for tag, _ in page.elements} & {"link", "iframe", "object", "embed"} == set()
    for _, attrs in page.elements:
        for name in ("src", "href", "xlink:href"):
            assert (attrs.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    policy = str(next(a["content"] for a in page.of("meta") if "http-equiv" in a))
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", written[0], flags=re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.of("meta")
    ids = [attrs["id"] for _, attrs in page.elements if attrs.get("id")]
    links = [str(a["href"]) for a in page.of("a")]
    assert links
    assert {link[1:] for link in links} <= set(ids)


def test_json_cannot_end_its_element() -> None:
    values = {"a": "</script><!--&\u2028\u2029"}
    text = as_json(values)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == values


def test_what_the_script_reads(written) -> None:
    data = data_of(written[0])
    (items,) = data["items"]
    assert items["tokens"] == list(made.CODES)
    assert items["titles"][2:5] == ["Red tea cups", "Blue tea pot", "Running shoes"]
    assert items["titles"][5] == "x" * 79 + "…"
    assert [items["categories"][n] for n in items["category"]] == [
        "", "", "home > tea", "home > tea", "sport", ""
    ]  # fmt: skip
    own, tokenized = data["sids"]
    assert (own["base"], own["levels"], own["rows"], own["items"]) == (3, 4, None, 0)
    assert own["codes"] == [code for codes in made.CODES.values() for code in codes]
    assert own["label"] == made.EVIL.replace("/", "")
    assert tokenized["label"] == "tokens"
    assert tokenized["codes"][:4] == [3, 0, 0, 0]


def test_the_comparison_says_what_is_best_and_what_differs(written) -> None:
    rows = rows_of(written[0], "Test, made")
    assert rows == [
        ["A", "2", "0.3000 ± 0.0100", "", "the last 20"],
        ["B", "1", "0.2000 ± 0.0100", "-0.1000 * (p 0.0100)", "the last 20"],
        ["C", "1", "0.1000 ± 0.0100", "-0.2000 (p 0.5000)", "the last 20"],
        ["later", "0 of 1", "not run", "", ""],
    ]
    assert re.findall(r'best" data-value="([^"]+)"', written[0]) == ["0.3"]
    assert [row[2] for row in rows_of(written[0], "Cost, made")] == ["1,234"] * 3 + ["not run"]


def test_single_runs_and_sids(written) -> None:
    rows = rows_of(written[0], "Runs")
    label = "&lt;script&gt;&lt;script&gt;alert(1)&lt;script&gt;"
    # hit@3 says what recall@3 says; (30 + 90) s are 2 minutes.
    assert rows[0] == ["A-1", "BPR", "made", "0.5000", "0.2500", "2.0", "2.0", "1,234", "-"]
    assert [row[0] for row in rows] == ["A-1", "A-2", "B-1", label]
    sids = {row[0]: row for row in rows_of(written[0], "Semantic IDs")}
    # i2 and i3 share their three codes, so two of six items collide, and five SIDs differ.
    assert sids[label][1:8] == ["made", "6", "4 x 4 x 4 x 4", "dedup", "33.33%", "0.8333", "2"]
    ours, theirs = rows_of(written[0], "SID report sets, made")
    assert ours == ["ours", "4 x 4 x 4 x 4", "dedup", "12.50%", "5", "2", "1.500", "0.3125"]
    assert theirs[0] == "theirs"


def test_examples_show_history_list_and_what_came_next(written) -> None:
    text = written[0]
    parts = {
        re.search(r'"code">(.*?)<', part)[1]: part  # type: ignore[index]
        for rest in text[text.index('id="examples"') :].split('<details class="example">')[1:]
        for part in [rest.partition("</details>")[0]]
    }
    assert list(parts) == ["u0", "u1", "u2", "u3"]
    # u1 had 1, 2, 3, then took 4 (shoes); both models listed 0, 1 and 2.
    assert "next came Running shoes</summary>" in parts["u1"]
    listed = re.findall(r"<li(.*?)>(.*?)</li>", parts["u3"])
    assert [title for _, title in listed[:3]] == ["Blue tea pot", "Red tea cups", listed[2][1]]
    assert "&lt;img src=x" in listed[2][1]
    assert [(mark, title[:3]) for mark, title in listed[3:5]] == [
        (' class="hit"', "xxx"), ("", "&lt")
    ]  # fmt: skip
    assert "· A-1 has it at 1 · B-1 has it at 1" in parts["u3"]
    # Three of the history, and two of each list: an empty place is no item.
    assert len(listed) == 3 + 2 + 2
    assert "A-2" not in parts["u3"]


def test_what_is_missing_is_said(written) -> None:
    label = made.EVIL.replace("/", "")
    starts = [
        "C-5: the comparison knows it as finished, but its folder is not there: it is in the",
        "Codes of theirs (sets): a SID report holds figures alone; give the folder",
        f"Training curves of {label}: there are no event files",
        f"Examples of {label}: there is no outcomes.safetensors, which a run writes when its",
    ]
    left_out = written[1]["left_out"]
    assert [line[: len(start)] for line, start in zip(left_out, starts, strict=True)] == starts
    assert Page(written[0][written[0].index('id="left-out"') :]).text("li") == left_out


def test_the_same_folders_give_the_same_bytes(folders, written, tmp_path) -> None:
    for number in (1, 2):
        recbole_sid.report(
            list(folders.values()), tmp_path / f"{number}.html", figures=tmp_path / str(number)
        )
    assert (tmp_path / "1.html").read_text(encoding="utf-8") == written[0]
    figures = snapshot(tmp_path / "1")
    assert figures == snapshot(tmp_path / "2")
    assert set(figures) == {
        f"{name}.{kind}" for name in written[1]["figures"] for kind in ("png", "svg")
    }
    assert "made-frontier" in written[1]["figures"]
    assert b"currentColor" not in (tmp_path / "1" / "made-loss.svg").read_bytes()


def test_without_its_data_set_items_are_ids_and_the_page_says_so(tmp_path) -> None:
    config = made.data_set(tmp_path / "data")
    folder = made.tokenizer(tmp_path / "t", config, made.CODES)
    (tmp_path / "data" / "made" / "made.item").write_text("item_id:token\ttitle:token\nq\tx\n")
    result = recbole_sid.report([folder], tmp_path / "r.html")
    assert result["left_out"] == [
        "Titles of made: the files of 'made' have changed since the run 't'; items are shown by "
        "their ids"
    ]
    data = data_of((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert data["items"][0]["titles"] is None
    assert data["items"][0]["tokens"] == list(made.CODES)
    (tmp_path / "data" / "made" / "made.item").unlink()
    again = recbole_sid.report([folder], tmp_path / "r.html", overwrite=True)
    assert "made.item is not where the run 't' had it" in again["left_out"][0]


def test_sets_of_other_items_name_their_rows(tmp_path) -> None:
    config = made.data_set(tmp_path / "data")
    some = {item: made.CODES[item] for item in ("i4", "i1")}
    folders = [
        made.tokenizer(tmp_path / name / "same", config, codes)
        for name, codes in (("a", made.CODES), ("b", some))
    ]
    recbole_sid.report(folders, tmp_path / "r.html")
    whole, part = data_of((tmp_path / "r.html").read_text(encoding="utf-8"))["sids"]
    assert (whole["label"], part["label"]) == ("same", "b/same")
    assert whole["rows"] is None
    assert part["rows"] == [4, 1]
    assert part["codes"] == [2, 1, 3, 0, 1, 0, 0, 0]


def test_the_items_are_shown_by_the_sids_of_a_models_first_run(tmp_path) -> None:
    config = made.data_set(tmp_path / "data")
    compared = made.comparison(tmp_path / "c", {"A": [1, 2, 3], "B": [1]}, {"A": 0.3, "B": 0.2})
    other = made.CODES | {"i0": (3, 0, 0, 0)}
    third = made.CODES | {"i0": (3, 3, 0, 0)}
    # The second seed's SIDs are those of B's first; the third seed's are of its own.
    for name, codes in (("A-1", made.CODES), ("A-2", other), ("A-3", third), ("B-1", other)):
        made.run(compared / "runs" / name, config, codes=codes)
    # A run by itself is no seed of a model, nor is one of another comparison.
    again = made.comparison(tmp_path / "d", {"A": [1]}, {"A": 0.3})
    made.run(again / "runs" / "A-1", config, codes=made.CODES | {"i0": (3, 3, 3, 0)})
    alone = made.run(tmp_path / "alone", config, codes=made.CODES | {"i0": (0, 3, 0, 0)})
    result = recbole_sid.report([compared, again, alone], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    browsed = [one["label"] for one in data_of(text)["sids"]]
    assert browsed == ["A-1", "A-2, B-1", "runs/A-1", "alone"]
    labels = [row[0] for row in rows_of(text, "Semantic IDs")]
    assert labels == ["A-1", "A-2, B-1", "A-3", "runs/A-1", "alone"]
    said = "SIDs of A-3 to browse: of a model with several seeds, those of the first; the figures"
    assert f"{said} are of all" in result["left_out"]


def test_a_search_is_shown_alone_and_beside_runs(tmp_path) -> None:
    search = made.search(tmp_path / "search")
    result = recbole_sid.report([search], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<h1>Report on made</h1>" in text
    assert "from 1 tuning." in text
    assert [row[0] for row in rows_of(text, "Trials of SASRec on made, search")] == ["3", "1", "2"]
    assert "<li>Trial 2 failed: no &lt;b&gt;memory</li>" in text
    assert result["left_out"] == ["Semantic IDs to browse: no folder holds any"]
    run = made.run(tmp_path / "run", made.data_set(tmp_path / "data"))
    recbole_sid.report([run, search], tmp_path / "r.html", overwrite=True)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<h1>Report on made</h1>" in text
    assert "from 1 run, 1 tuning." in text


def test_runs_of_real_models(trained, tmp_path) -> None:
    """A folder that ``run`` wrote, by the command line."""
    output = tmp_path / "r.html"
    assert cli.main(["report", trained[0]["run_folder"], f"--output={output}"]) == 0
    text = output.read_text(encoding="utf-8")
    (row,) = rows_of(text, "Runs")
    recall = trained[0]["test_result"]["recall@10"]
    assert row[:3] == ["trained", "TIGER", "ml-100k"]
    assert f"{recall:.4f}" in row
    assert "What is not here" not in text
    assert len(re.findall('class="example"', text)) >= 8
    (items,) = data_of(text)["items"]
    assert "Seven Years in Tibet" in items["titles"]


# -- parts ----------------------------------------------------------------------------------------


def test_curves_count_epochs_from_one_and_the_last_of_each(tmp_path) -> None:
    config = made.data_set(tmp_path / "data")
    folder = made.run(tmp_path / "r", config, losses=(3.0, 2.0))
    (first,) = folder.glob("events*")
    # A killed run did its second epoch again, in a second file.
    made.run(tmp_path / "again", config, losses=(9.0, 1.5), ndcg=0.5)
    (second,) = (tmp_path / "again").glob("events*")
    (folder / f"{first.name}.later").write_bytes(second.read_bytes())
    assert read_curves(folder) == Curves(((1, 9.0), (2, 1.5)), ((2, 0.5),))
    assert read_curves(tmp_path) is None


def test_the_frontier() -> None:
    points = [(3.0, 0.3), (1.0, 0.1), (2.0, 0.1), (4.0, 0.2), (1.0, 0.05)]
    assert undominated(points) == [(1.0, 0.1), (3.0, 0.3)]


def test_labels_of_a_plot_are_plain_text() -> None:
    svg = plot_collisions("p", {"$x_1$ <b>&amp;": [1.0, 0.5], "_hidden": [1.0, 0.25]}).inline()
    page = Page(svg)
    assert "$x_1$ <b>&amp;" in page.text("text")
    assert "_hidden" in page.text("text")
    assert page.of("b") == page.of("style") == []
    assert all((a["id"] or "").startswith("p-") for _, a in page.elements if "id" in a)
    assert "currentColor" in svg


def test_a_run_of_a_comparison_is_taken_once(folders) -> None:
    sources = read_folders([folders["compared"] / "runs" / "A-1", folders["compared"]])
    assert [(run.label, run.model) for run in sources.runs] == [
        ("A-1", "A"), ("A-2", "A"), ("B-1", "B")
    ]  # fmt: skip


# -- what is refused ------------------------------------------------------------------------------

BAD = {
    "no folders": ("--output=r.html", "must list one folder at least"),
    "no output": ("run", "report needs --output"),
    "no such folder": ("nothing --output=r.html", "'nothing' does not exist"),
    "a file": ("run/result.json --output=r.html", "is a file, not a folder"),
    "another folder": ("empty --output=r.html", "'empty' has none of result.json, comparison.json"),
    "an unfinished run": ("begun --output=r.html", "'begun' holds an unfinished run"),
    "half a search": ("search --output=r.html", "result.json' lacks model, dataset, engine"),
    "broken": ("broken --output=r.html", "result.json' has no checksum"),
    "an old comparison": (
        "old --output=r.html",
        "comparison.json' lacks metric, models, best, grid",
    ),
    "without config": ("bare --output=r.html", "'bare' has no config.yaml"),
    "another suffix": ("run --output=r.pdf", "must be a file that ends in .html"),
    "an output that exists": ("run --output=there.html", "'there.html' exists"),
    "no folder for it": ("run --output=no/r.html", "there is no folder 'no'"),
    "figures in a file": ("run --output=r.html --figures=there.html", "is not a folder"),
    "figures that exist": ("run --output=r.html --figures=figs", "made-frontier.svg' exists"),
    "an unknown option": ("run --output=r.html --figure=x", "Did you mean 'figures'"),
    "a folder behind options": ("--output=r.html run", "argument 'run' is not understood"),
}


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    config = made.data_set(tmp_path / "data")
    result = made.run(tmp_path / "run", config) / "result.json"
    for name, file, text in (
        ("begun", "config.yaml", "model: TIGER"),
        ("broken", "result.json", "{"),
        ("bare", "result.json", result.read_text()),
        ("figs", "made-frontier.svg", "mine"),
        (".", "there.html", "mine"),
    ):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / file).write_text(text)
    (tmp_path / "empty").mkdir()
    for name, file, content in (
        ("search", "result.json", {"trials": []}),
        ("old", "comparison.json", {"dataset": "made"}),
    ):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / file, content)
    return tmp_path


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_changes_nothing(case, work, capsys) -> None:
    arguments, message = BAD[case]
    before = snapshot(work)
    assert cli.main(["report", *arguments.split()]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = [line for line in shown.err.splitlines() if line.startswith("error:")]
    assert message in line
    assert snapshot(work) == before


def test_what_exists_is_replaced_when_asked(work) -> None:
    arguments = ["report", "run", "--output=there.html", "--figures=figs", "--overwrite"]
    assert cli.main(arguments) == 0
    assert (work / "there.html").read_text().startswith("<!DOCTYPE html>")
    assert (work / "figs" / "made-frontier.svg").read_text().startswith("<?xml")


def test_one_name_is_not_a_list_of_folders(work) -> None:
    with pytest.raises(InputError, match="must list one folder"):
        recbole_sid.report("run", "r.html")
