"""How large the page of ``report`` is, and how soon a browser has it ready.

Usage: python benchmarks/page_size.py FOLDER [FOLDER …] [--loads 5]; the folders are those that
``report`` takes, such as that of a comparison. Prints JSON: the page in MB, how long it took to
make, and the seconds of each load in a headless Chromium, from the address to a page that is laid
out and whose tree and tables react, with their median; beside them the seconds that the page's main
thread had of the processor, which hold on a busy machine too. Needs Chromium (apt-get install
chromium).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recbole_sid import report

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# The script runs to its end before this is true; asking for a height lays the page out.
READY = (
    "location.protocol === 'file:' && document.readyState === 'complete' && "
    "document.body.offsetHeight > 0 && "
    "(!document.getElementById('tree') || document.getElementById('tree').childElementCount > 0)"
)
MOST_SECONDS = 120


class Pages:
    """A headless Chromium, driven through its debugging pipe, that opens pages one by one."""

    def __init__(self, program: str, profile: str) -> None:
        self._numbers = itertools.count(1)
        self._rest = b""
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        # Chromium reads commands from file 3 and writes to file 4.
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}', program, *options],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)

    def load(self, page: Path) -> tuple[float, float]:
        """How long a new tab takes until ``page`` is ready, by the clock and of the processor."""
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        attached = self._send("Target.attachToTarget", targetId=target, flatten=True)
        session = attached["sessionId"]
        self._send("Performance.enable", session, timeDomain="threadTicks")
        begin = time.perf_counter()
        self._send("Page.navigate", session, url=page.resolve().as_uri())
        # While the tab goes to the page there may be no document to ask.
        while not self._send("Runtime.evaluate", session, expression=READY)["result"].get("value"):
            if time.perf_counter() - begin > MOST_SECONDS:
                raise TimeoutError(f"{page} was not ready after {MOST_SECONDS} s")
            time.sleep(0.005)
        seconds = time.perf_counter() - begin
        metrics = self._send("Performance.getMetrics", session)["metrics"]
        cpu = next(one["value"] for one in metrics if one["name"] == "TaskDuration")
        self._send("Target.closeTarget", targetId=target)
        return seconds, cpu

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """A command of the DevTools protocol, and its answer."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                part = os.read(self._in, 2**16)
                if not part:
                    raise RuntimeError("the browser has ended")
                self._rest += part
            text, _, self._rest = self._rest.partition(b"\0")
            answer = json.loads(text)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--loads", type=int, default=5)
    arguments = parser.parse_args()
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        sys.exit("there is no Chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "report.html")
        begin = time.perf_counter()
        written = report(arguments.folders, page)
        made = time.perf_counter() - begin
        pages = Pages(program, str(Path(folder, "profile")))
        try:
            loads = [pages.load(page) for _ in range(arguments.loads)]
        finally:
            pages.close()
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
