"""What the page's script does: its parts under Node.js, the whole of it in a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import recbole_sid
from tests.page import made
from tests.page.browser import PATH, Browser

SCRIPT = Path(recbole_sid.__file__).parent / "page" / "page.js"
NODE = shutil.which("node")


def in_node(expression: str) -> object:
    """What an expression gives; ``page`` are the functions of the script, ``set`` is a small set.

    Its rows are 0: 0-0, 1: 1-0, 2: 1-1, 3: 1-1, 4: 0-2 without a dedup digit, for the items
    10, 11, 12, 13, 14.
    """
    rows = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 2, 0]]
    codes = [code for row in rows for code in row]
    table = {"label": "s", "items": 0, "base": 2, "levels": 3, "rows": [10, 11, 12, 13, 14]}
    program = (
        f"const page = require({json.dumps(str(SCRIPT))});"
        f"const set = {json.dumps({**table, 'codes': codes})};"
        f"console.log(JSON.stringify({expression}));"
    )
    assert NODE is not None
    done = subprocess.run([NODE, "-e", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(NODE is None, reason="there is no Node.js")
class TestParts:
    def test_rows_stand_in_the_order_of_their_codes(self) -> None:
        assert in_node("page.sorted(set).order") == [0, 4, 1, 2, 3]

    def test_children_split_a_prefix(self) -> None:
        assert in_node("page.children(page.sorted(set), 0, 5, 0)") == [
            {"code": 0, "from": 0, "to": 2},
            {"code": 1, "from": 2, "to": 5},
        ]
        assert in_node("page.children(page.sorted(set), 2, 5, 1)") == [
            {"code": 0, "from": 2, "to": 3},
            {"code": 1, "from": 3, "to": 5},
        ]

    def test_neighbours_share_the_longest_prefix(self) -> None:
        found = in_node("[12, 11, 14, 9].map((item) => page.neighbours(set, item))")
        assert found == [
            {"row": 2, "shared": 2, "items": [13]},
            {"row": 1, "shared": 1, "items": [12, 13]},
            {"row": 4, "shared": 1, "items": [10]},
            None,
        ]
        alone = "{label: '', items: 0, base: 1, levels: 1, rows: null, codes: [3, 1]}"
        assert in_node(f"page.neighbours({alone}, 0)") == {"row": 0, "shared": 0, "items": []}

    def test_search_wants_all_words_of_id_or_title(self) -> None:
        items = "{tokens: ['a1', 'b1', 'c2'], titles: ['Red Tea', 'Blue tea', '']}"
        found = in_node(
            f"['TEA red', '1', 'c2', '', 'zz'].map((text) => page.search({items}, text, 1))"
        )
        assert found == [
            {"found": [0], "total": 1},
            {"found": [0], "total": 2},
            {"found": [2], "total": 1},
            {"found": [], "total": 0},
            {"found": [], "total": 0},
        ]
        assert in_node("page.search({tokens: ['a'], titles: null}, 'A', 9)") == {
            "found": [0],
            "total": 1,
        }

    def test_the_common_category(self) -> None:
        items = "{category: [0, 1, 1, 2], categories: ['', 'a > b > c', 'd']}"
        assert in_node(f"page.commonCategory({items}, [0, 1, 2, 3])") == "b > c 50 %"
        assert in_node(f"page.commonCategory({items}, [0])") == ""
        assert in_node("page.commonCategory({category: null}, [0])") == ""

    def test_cells_without_a_value_come_last_in_both_orders(self) -> None:
        cells = "[null, 2, 10, 1]"
        for sign, expected in ((1, [1, 2, 10, None]), (-1, [10, 2, 1, None])):
            found = in_node(f"{cells}.sort((a, b) => page.compareCells(a, b, true, {sign}))")
            assert found == expected
        words = "['b', null, 'a'].sort((a, b) => page.compareCells(a, b, false, -1))"
        assert in_node(words) == ["b", "a", None]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    config = made.data_set(root / "data")
    folders = []
    for name, ndcg, codes in (("first", 0.1, made.CODES), ("second", 0.3, None)):
        folders.append(made.run(root / name, config, ndcg=ndcg, losses=(2.0, 1.0), codes=codes))
        made.outcomes(folders[-1], {"u0": "345", "u3": "510"})
    other = {
        item: (*codes[:2], 0, n) for n, (item, codes) in enumerate(made.CODES.items()) if n < 4
    }
    folders.append(made.tokenizer(root / "few", config, other))
    recbole_sid.report(folders, root / "report.html")
    return root / "report.html"


@pytest.mark.skipif(PATH is None, reason="there is no Chromium")
@pytest.mark.parametrize(("width", "dark"), [(1400, False), (390, True)])
def test_the_page_in_a_browser(page, width, dark, tmp_path) -> None:
    browser = Browser(tmp_path / "profile", width, dark=dark)
    try:
        browser.open(page)
        # The page itself does not scroll sideways; its tables do.
        assert browser.run("document.documentElement.scrollWidth") <= width
        ground = "getComputedStyle(document.body).backgroundColor"
        assert (browser.run(ground) == "rgb(255, 255, 255)") != dark
        # -- the table sorts
        names = "[...document.querySelectorAll('#results tbody th')].map((c) => c.textContent)"
        heading = "document.querySelectorAll('#results thead button')[4]"
        assert browser.run(f"{heading}.textContent") == "NDCG@3"
        assert browser.run(names) == ["first", "second"]
        browser.run(f"{heading}.click()")
        assert browser.run(names) == ["second", "first"]
        browser.run(f"{heading}.click()")
        assert browser.run(names) == ["first", "second"]
        # -- the tree opens
        nodes = "document.querySelectorAll('#tree summary')"
        shown = "document.getElementById('tree').textContent"
        assert browser.run(f"[...{nodes}].map((n) => n.textContent)") == [
            "2 · 4 items home > tea 50 %"
        ]
        assert made.EVIL in browser.run(shown)
        assert "Running shoes" not in browser.run(shown)
        browser.run(f"{nodes}[0].click()")
        browser.until(f"{shown}.includes('Running shoes')")
        # -- search finds, and shows an item with its neighbours
        browser.run("document.getElementById('search').value = 'TEA red'")
        browser.run("document.getElementById('search').dispatchEvent(new Event('input'))")
        found = "document.querySelectorAll('#found button')"
        assert browser.run(f"[...{found}].map((b) => b.textContent)") == ["Red tea cups"]
        browser.run(f"{found}[0].click()")
        item = "document.getElementById('item').innerText"
        assert browser.run("document.getElementById('item').hidden") is False
        assert "2-1-1-0 first" in browser.run(item)
        assert "2-1-0-2 few" in browser.run(item)
        assert "Nearest by first: 1 with all codes" in browser.run(item)
        near = "[...document.querySelectorAll('#item button')].map((b) => b.textContent)"
        assert browser.run(near) == ["Blue tea pot"]
        # -- another set
        browser.run("document.getElementById('set').value = '1'")
        browser.run("document.getElementById('set').dispatchEvent(new Event('change'))")
        assert "Nearest by few: 1 with all codes" in browser.run(item)
        browser.screenshot(tmp_path / "page.png")
        assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
        assert browser.problems == []
        assert {url.partition(":")[0] for url in browser.requests} <= {"file", "data"}
    finally:
        browser.close()
