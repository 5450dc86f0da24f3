"""A page of Amazon Beauty's size: small enough to be sent, and soon ready."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

import recbole_sid
from recbole_sid import run_folder
from recbole_sid.sid.table import SemanticIDs
from tests.page import made
from tests.page.browser import PATH, Browser

N_ITEMS = 12_101
LINE = "Gentle Hydrating Facial Cleanser with Aloe and Vitamin E for Sensitive Skin 8 Ounce"
# Of the page's main thread: on a busy machine the seconds on the clock say nothing.
MOST_CPU_SECONDS = 2
MOST_BYTES = 5_000_000


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Three tokenizers of 12,101 items with titles of 60 to 100 letters and 300 categories."""
    root = tmp_path_factory.mktemp("size")
    config = made.data_set(root / "data")
    rng = np.random.default_rng(0)
    tokens = tuple(f"B{number:09d}" for number in range(N_ITEMS))
    lines = ["item_id:token\ttitle:token\tkind:token"]
    for token, kind in zip(tokens, rng.integers(300, size=N_ITEMS), strict=True):
        title = " ".join(rng.permutation(LINE.split()).tolist() * 2)[
            : rng.integers(60, 101)
        ].strip()
        lines.append(f"{token}\t{title}\tBeauty > Department {kind // 30} > Sort of goods {kind}")
    (root / "data" / "made" / "made.item").write_text("\n".join(lines) + "\n", "utf-8")
    folders = []
    for name in ("first", "second", "third"):
        numbers = rng.choice(256**3, N_ITEMS, replace=False)
        codes = np.stack([*np.unravel_index(numbers, (256,) * 3), np.zeros_like(numbers)], axis=1)
        folders.append(made.tokenizer(root / name, config, made.CODES))
        table = SemanticIDs(tokens, codes.astype(np.int32), (256, 256, 256, 1), "dedup", {})
        table.save(folders[-1] / run_folder.SIDS)
    recbole_sid.report(folders, root / "report.html")
    return root / "report.html"


def test_the_page_is_small(page, record_property) -> None:
    size = page.stat().st_size
    record_property("bytes", size)
    assert size < MOST_BYTES
    # All of it is there: three sets, each of all items.
    text = page.read_text(encoding="utf-8")
    assert text.count('"codes":[') == 3
    assert "B000012100" in text


@pytest.mark.skipif(PATH is None, reason="there is no Chromium")
def test_the_page_is_soon_ready(page, tmp_path, record_property) -> None:
    browser = Browser(tmp_path / "profile", 1400)
    try:
        browser.send("Performance.enable", timeDomain="threadTicks")
        begin = time.perf_counter()
        browser.open(page)
        browser.until("document.querySelector('#tree summary') !== null")
        browser.run("document.querySelector('#tree summary').click()")
        browser.until("document.querySelector('#tree details[open]').childElementCount > 1")
        browser.run("document.getElementById('search').value = 'b000012100'")
        browser.run("document.getElementById('search').dispatchEvent(new Event('input'))")
        assert browser.run("document.querySelectorAll('#found li').length") == 1
        seconds = time.perf_counter() - begin
        metrics = browser.send("Performance.getMetrics")["metrics"]
        cpu = {one["name"]: one["value"] for one in metrics}["TaskDuration"]
        record_property("seconds", round(seconds, 3))
        record_property("cpu_seconds", round(cpu, 3))
        print(f"loaded, opened and searched in {seconds:.2f} s, {cpu:.2f} s of the processor")
        assert cpu < MOST_CPU_SECONDS
        assert browser.problems == []
    finally:
        browser.close()
