"""The service of examples/serve.py: its answers, its limits, and what it does not tell."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from recbole_sid.serving.recommender import Answer, Recommender

pytestmark = pytest.mark.parametrize("made", ["TIGER"], indirect=True)
PATH = Path(__file__).parents[2] / "examples" / "serve.py"


@pytest.fixture(scope="module")
def serve():
    spec = importlib.util.spec_from_file_location("serve_example", PATH)
    module = importlib.util.module_from_spec(spec)
    # pydantic looks up the annotations of a model in its module.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "serve_example", module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def recommender(made):
    return Recommender.load(made.export, "cpu", 500)


@pytest.fixture
def client(serve, recommender):
    with TestClient(serve.create_app(recommender), raise_server_exceptions=False) as client:
        yield client


def test_answers_are_the_recommenders(made, client, recommender):
    for user, history in made.histories.items():
        answer = client.post("/recommend", json={"history": history, "k": 5, "user": user})
        assert answer.status_code == 200
        items, scores, _ = recommender.recommend(history, 5, user)
        assert answer.json() == {"items": items, "scores": scores.tolist(), "unknown": []}
    answer = client.post("/recommend", json={"history": ["x", "i1"], "exclude_history": True})
    assert answer.json()["unknown"] == ["x"]
    assert "i1" not in answer.json()["items"]
    assert len(answer.json()["items"]) == 10


def test_many_clients_at_once(made, client, recommender):
    expected = {u: recommender.recommend(h, 5, u).items for u, h in made.histories.items()}
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(
            lambda one: client.post("/recommend", json={"history": one[1], "k": 5, "user": one[0]}),
            made.histories.items(),
        )
        found = [answer.json()["items"] for answer in answers]
    assert found == list(expected.values())


def test_only_allowed_items(serve, recommender):
    with TestClient(serve.create_app(recommender, allowed=["i3", "i4"])) as client:
        answer = client.post("/recommend", json={"history": ["i1"]})
    assert sorted(answer.json()["items"]) == ["i3", "i4"]


def test_health(client):
    answer = client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "items": 40, "busy": 0})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "history: Field required"),
        ({"history": []}, "history: List should have at least 1 item"),
        ({"history": ["i1"] * 501}, "history: List should have at most 500 items"),
        ({"history": ["i" * 201]}, "history.0: String should have at most 200 characters"),
        ({"history": [""]}, "history.0: String should have at least 1 character"),
        ({"history": [1]}, "history.0: Input should be a valid string"),
        ({"history": "i1"}, "history: Input should be a valid list"),
        ({"history": ["i1"], "k": 0}, "k: Input should be greater than or equal to 1"),
        ({"history": ["i1"], "k": 101}, "k: Input should be less than or equal to 100"),
        ({"history": ["i1"], "k": 11}, "'beam_size' is 10, but must be at least k = 11"),
        ({"history": ["i1"], "k": "5"}, "k: Input should be a valid integer"),
        ({"history": ["i1"], "user": "u" * 201}, "user: String should have at most 200"),
        ({"history": ["i1"], "beam_size": 9}, "beam_size: Extra inputs are not permitted"),
        ({"history": ["i1"], "now": 5}, "the run knows no times of its items"),
        ({"history": ["\ud800"]}, "history.0: "),
        ({"history": ["i1"], "user": "\ud800"}, "user: "),
        ([], "Input should be a valid dictionary"),
    ],
)
def test_what_is_out_of_bounds_is_refused(client, body, message):
    answer = client.post(
        "/recommend", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422
    assert message in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 422),
        (b"\xff", 422),
        (b"[" * 60_000, 422),
        (b'{"history": ["i1"], "k": ' + b"9" * 10_000 + b"}", 422),
        (b'{"history": ["i1"], "now": NaN}', 422),
        (b"x" * (64 * 1024 + 1), 413),
    ],
)
def test_malformed_bodies_are_refused(client, content, status):
    answer = client.post(
        "/recommend", content=content, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in (400, status)
    assert set(answer.json()) == {"error"}
    assert len(answer.content) < 400


def test_a_long_body_in_pieces_is_refused(client):
    answer = client.post("/recommend", content=(b" " * 1024 for _ in range(100)))
    assert answer.status_code == 413


def test_unknown_paths_and_methods(client):
    assert client.get("/").status_code == 404
    assert client.get("/recommend").status_code == 405
    assert client.get("/docs").json() == {"error": "Not Found"}


def test_a_failure_tells_nothing(serve, recommender, made, monkeypatch):
    def fail(*args):
        raise RuntimeError(f"no file {made.export}")

    monkeypatch.setattr(recommender, "recommend", fail)
    with TestClient(serve.create_app(recommender), raise_server_exceptions=False) as client:
        answer = client.post("/recommend", json={"history": ["i1"]})
        assert (answer.status_code, answer.json()) == (500, {"error": "internal error"})
        assert client.get("/health").json()["busy"] == 0


def test_slow_answers_time_out_and_a_crowd_is_turned_away(serve, recommender, monkeypatch):
    """One thread and no place to wait: the first request holds the thread."""
    held, begun = threading.Event(), []

    def wait(history, *args):
        begun.append(history)
        held.wait(10)
        return Answer([], np.zeros(0, np.float32), [])

    monkeypatch.setattr(recommender, "recommend", wait)
    monkeypatch.setattr(serve, "WAITING_PER_THREAD", 1)
    app = serve.create_app(recommender, threads=1, timeout=0.5)
    with TestClient(app) as client, ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(client.post, "/recommend", json={"history": [n]}) for n in "abc"]
        statuses = sorted(answer.result().status_code for answer in answers)
        assert client.get("/health").json()["busy"] == 0
        held.set()
    # The one that waited for the thread was never begun.
    assert statuses == [503, 504, 504]
    assert len(begun) == 1
