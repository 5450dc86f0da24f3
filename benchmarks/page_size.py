"""How large the page of ``report`` is, and how soon a browser has it ready.

    PYTHONPATH=. python benchmarks/page_size.py FOLDER [FOLDER …] [--loads 5]

The folders are those that ``report`` takes, such as that of a comparison. Prints JSON: the page in
MB, how long it took to make, and the seconds of each load in a headless Chromium (of a new browser
that has started), from the address to a page that is laid out and whose tree opens, with their
median; beside them the seconds that the page's main thread had of the processor, which hold on a
busy machine too. The browser is driven as in ``tests/page``; it needs Chromium (apt-get install
chromium).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from recbole_sid import report
from tests.page.browser import PATH, Browser

# The script runs to its end before there is a tree; asking for a height lays the page out.
READY = "document.body.offsetHeight > 0 && document.querySelector('#tree summary') !== null"
OPENED = "document.querySelector('#tree details[open]').childElementCount > 1"


def load(page: Path, profile: Path) -> tuple[float, float]:
    """How long ``page`` takes until its tree has opened, by the clock and of the processor."""
    browser = Browser(profile, 1400)
    try:
        browser.send("Performance.enable", timeDomain="threadTicks")
        begin = time.perf_counter()
        browser.open(page)
        browser.until(READY)
        browser.run("document.querySelector('#tree summary').click()")
        browser.until(OPENED)
        seconds = time.perf_counter() - begin
        metrics = browser.send("Performance.getMetrics")["metrics"]
        return seconds, {one["name"]: one["value"] for one in metrics}["TaskDuration"]
    finally:
        browser.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--loads", type=int, default=5)
    arguments = parser.parse_args()
    if PATH is None:
        sys.exit("there is no Chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "report.html")
        begin = time.perf_counter()
        written = report(arguments.folders, page)
        made = time.perf_counter() - begin
        loads = [load(page, Path(folder, f"profile{n}")) for n in range(arguments.loads)]
    result = {
        "megabytes": round(written["bytes"] / 1e6, 2),
        "made_in_seconds": round(made, 1),
        "load_seconds": [round(seconds, 3) for seconds, _ in loads],
        "median_load_seconds": round(statistics.median(seconds for seconds, _ in loads), 3),
        "median_cpu_seconds": round(statistics.median(cpu for _, cpu in loads), 3),
        "left_out": written["left_out"],
    }
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
