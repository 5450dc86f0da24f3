"""Load on the service of examples/serve.py over loopback, and the same requests without HTTP.

Usage: python benchmarks/serve_load.py FOLDER [--requests 10000] [--clients 1,8] [--k 10]
[--threads 2] [--now SECONDS]; FOLDER is an export or a finished run. Prints JSON: for each number
of clients p50 and p99 of a request, requests a second, errors, and the server's memory before and
after. Needs Linux, where the memory of a process is read from /proc. Histories are of random
items.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_sid.serving.recommender import Recommender

SERVER = Path(__file__).parents[1] / "examples" / "serve.py"
STARTING_SECONDS = 120
REQUEST_SECONDS = 30
WARM_REQUESTS = 50


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--requests", type=int, default=10_000, help="for each number of clients")
    parser.add_argument("--clients", default="1,8")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2, help="of the server")
    parser.add_argument("--now", type=float, help="the time that counts, where items come and go")
    options = parser.parse_args()

    torch.set_num_threads(1)
    start = time.perf_counter()
    recommender = Recommender.load(options.folder, "cpu")
    loading = time.perf_counter() - start
    histories = some_histories(recommender, options.requests)
    report: dict[str, Any] = {
        "folder": options.folder,
        "items": recommender.n_items,
        "beam_size": recommender.bundle.beam_size,
        "k": options.k,
        "load_seconds": round(loading, 3),
        "in_process": in_process(recommender, histories, options.k, options.now),
        "server_threads": options.threads,
        "http": [],
    }
    rest = {"k": options.k} | ({} if options.now is None else {"now": options.now})
    bodies = [json.dumps({"history": each, **rest}).encode() for each in histories]
    del recommender
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(SERVER), options.folder, "--port", str(port)]
    command += ["--threads", str(options.threads)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for(port, server)
        load(port, bodies[:WARM_REQUESTS], 1)
        for clients in map(int, options.clients.split(",")):
            before = memory_mb(server.pid)
            figures = load(port, bodies, clients)
            figures |= {"memory_mb_before": before, "memory_mb_after": memory_mb(server.pid)}
            report["http"].append(figures)
    finally:
        server.terminate()
        server.wait()
    print(json.dumps(report, indent=2))
    return int(any(each["errors"] for each in report["http"]))


def some_histories(recommender: Recommender, count: int) -> list[list[str]]:
    """Histories of random items, from one item to a window full."""
    draw = random.Random(0)
    tokens = recommender.bundle.sids.tokens
    return [
        draw.choices(tokens, k=draw.randint(1, recommender.bundle.window)) for _ in range(count)
    ]


def in_process(
    recommender: Recommender, histories: list[list[str]], k: int, now: float | None
) -> dict[str, float]:
    seconds = []
    for history in histories:
        start = time.perf_counter()
        recommender.recommend(history, k, now=now)
        seconds.append(time.perf_counter() - start)
    return percentiles(seconds) | {"requests_a_second": round(len(seconds) / sum(seconds), 1)}


def load(port: int, bodies: list[bytes], clients: int) -> dict[str, Any]:
    """All bodies, each sent by whichever client is free next; a client keeps its connection."""
    waiting = iter(bodies)
    lock = threading.Lock()
    seconds: list[float] = []
    errors: list[str] = []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_SECONDS)
        while True:
            with lock:
                body = next(waiting, None)
            if body is None:
                break
            start = time.perf_counter()
            try:
                connection.request("POST", "/recommend", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                content = answer.read()
                seconds.append(time.perf_counter() - start)
                if answer.status != 200 or not json.loads(content)["items"]:
                    errors.append(f"{answer.status} {content[:200]!r}")
            except (OSError, http.client.HTTPException) as error:
                errors.append(repr(error))
                connection.close()
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    passed = time.perf_counter() - start
    return {
        "clients": clients,
        "requests": len(bodies),
        "errors": len(errors),
        "first_errors": errors[:3],
        **percentiles(seconds),
        "requests_a_second": round(len(bodies) / passed, 1),
    }


def percentiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return {
        "p50_ms": round(p50, 2),
        "p99_ms": round(p99, 2),
        "max_ms": round(max(seconds) * 1e3, 2),
    }


def memory_mb(pid: int) -> float:
    """Resident memory of a process, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None, "Linux writes it"
    return round(int(found[1]) / 1024, 1)


def wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + STARTING_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    sys.exit(main())
