"""Tables of the page that need no run: comparisons, searches, what goes with scores."""

from recbole_sid.page.comparison_tables import comparison_tables
from recbole_sid.page.search_tables import search_tables
from recbole_sid.page.sid_tables import correlation_table
from recbole_sid.page.sources import Document, Run
from recbole_sid.page.tables import Cell, Table, best_of, minutes
from recbole_sid.run_folder import read_json
from tests.page import made


def row(label: str, test: float | None, state: str = "finished", trials: int | None = None) -> dict:
    cells = {} if test is None else {"test/ndcg@10": {"mean": test, "sd": None, "n": 1}}
    run = {"seed": 1, "state": state, "reason": "residual codes"}
    told = {"history": "the last 20", "trials": trials}
    return {"model": label, "runs": [run], "cells": cells, **told}


def compared(*models: dict, **values) -> list[Table]:
    content = {"dataset": "made", "metric": "test/ndcg@10", "models": list(models)}
    content |= {"significance": {}, **made.AROUND, **values}
    return comparison_tables(Document("x", content))


GRID = {"tokenizers": ["rqvae", "opq"], "generators": {"tiger": "TIGER", "diffgrm": "D"}}
PAIRS = [
    row("rqvae+tiger", 0.04),
    row("rqvae+diffgrm", None, "refused"),
    row("opq+tiger", 0.03),
    row("opq+diffgrm", 0.05),
    row("Pop", 0.06),
]


def test_a_grid_is_a_table_of_tokenizers_by_generators() -> None:
    grid, test = compared(*PAIRS, grid=GRID)
    assert grid.title == "Tokenizers and generators, test, made"  # nothing was validated
    assert grid.columns == (("Tokenizer", False), ("tiger", True), ("diffgrm", True))
    assert grid.rows == (
        (Cell("rqvae", "rqvae"), Cell("0.0400", 0.04), Cell("refused", None)),
        (Cell("opq", "opq"), Cell("0.0300", 0.03), Cell("0.0500", 0.05, best=True)),
    )
    # The reasons stand once, below the first table.
    assert grid.details == ("rqvae+diffgrm, refused: residual codes",)
    assert (test.title, test.details) == ("Test, made", ())
    (alone,) = compared(*PAIRS)
    assert (alone.rows, alone.details) == (test.rows, grid.details)


def test_a_comparison_says_what_it_was_made_on() -> None:
    models = [row("A", 0.25, trials=1200), row("B", 0.125)]
    for one in models:
        one["cells"] |= {
            "recall_cold@10": {"mean": one["cells"]["test/ndcg@10"]["mean"], "sd": None, "n": 1},
            "parameters": {"mean": 7.0, "sd": None, "n": 1},
        }
    test, reach, cost = compared(*models)
    assert test.columns[2:] == (("NDCG@10", True), ("Sees of a history", False))
    assert [cells[-1].text for cells in test.rows] == ["the last 20"] * 2
    assert test.note.endswith(
        "4 users, 6 items, 1,600 interactions; of each user's items the last one tests and the one "
        "before it validates: 3 validate and 4 test; sha256 of the test split ab12. No list holds "
        "what its user had before the target (exclude_history)."
    )
    assert reach.note.endswith(
        "cold ones have fewer than 5, unseen ones none. head: 2 items, targets of 3 users; cold: 4 "
        "items, targets of 1 users."
    )
    assert cost.columns[2:] == (("Parameters", True), ("Tuning trials", True))
    assert [cells[-1] for cells in cost.rows] == [Cell("1,200", 1200), Cell("not given", None)]
    (test, *_) = compared(*models, split_times=["2026-01-05", "2026-02-01"])
    said = "items before 2026-01-05 train, those before 2026-02-01 validate, the rest test: 3"
    assert f"{said} validate and 4 test rows;" in test.note


def test_differences_of_all_metrics_that_were_tested_are_told() -> None:
    def tested(mean: float, p: float) -> dict:
        return {"mean": mean, "low": 0, "high": 0, "p": p, "adjusted": p}

    (test,) = compared(
        row("A", 0.5),
        row("B", 0.25),
        significance={"A": {"B": tested(-0.25, 0.01)}},
        further_significance={"test/recall@10": {"A": {"B": tested(-0.125, 0.5)}}},
    )
    assert test.columns[3:5] == (("NDCG@10 less A", True), ("Recall@10 less A", True))
    assert test.rows[0][3:5] == (Cell("", None), Cell("", None))
    assert test.rows[1][3:5] == (
        Cell("-0.2500 * (p 0.0100)", -0.25), Cell("-0.1250 (p 0.5000)", -0.125)
    )  # fmt: skip


def test_a_comparison_of_before_let_lists_repeat() -> None:
    content = {"dataset": "made", "metric": "test/ndcg@10", "models": [row("A", 0.25)]}
    content |= {"significance": {}, **made.AROUND}
    del content["exclude_history"]
    (test,) = comparison_tables(Document("x", content))
    assert test.note.endswith("which costs them places where nobody takes an item twice.")


def test_withheld_items_are_told() -> None:
    one = row("A", 0.25)
    one["cells"]["recall_unseen@10"] = {"mean": 0.5, "sd": None, "n": 1}
    _, reach = compared(one, withheld_items=0.05)
    assert "unseen ones none (0.05 of all items are withheld from training). " in reach.note


def test_what_all_rows_have_is_no_best() -> None:
    # Both read 0.0000, though one is higher.
    low = [row("A", 1e-6), row("B", 1e-5), row("C", None, "not run")]
    (test,) = compared(*low)
    assert [cells[2] for cells in test.rows] == [
        Cell("0.0000", 1e-6), Cell("0.0000", 1e-5), Cell("not run", None)
    ]  # fmt: skip
    (one,) = compared(row("A", 0.5))
    assert not one.rows[0][2].best
    (two,) = compared(row("A", 0.5), row("B", 0.5), row("C", 0.25))
    assert [cells[2].best for cells in two.rows] == [True, True, False]
    pairs = [row(f"{first}+{second}", 0.0) for first in ("rqvae", "opq") for second in ("tiger",)]
    grid, _ = compared(*pairs, grid={**GRID, "generators": {"tiger": "TIGER"}})
    assert not any(cell.best for cells in grid.rows for cell in cells)
    assert best_of([], "{}") is None


def test_a_comparison_without_figures_says_why() -> None:
    failed = row("A", None, "failed")
    failed["runs"].append({"seed": 2, "state": "failed", "reason": "no\nmemory"})
    (test,) = compared(failed, row("B", None, "refused"))
    assert [[cell.text for cell in cells] for cells in test.rows] == [
        ["A", "0 of 2", "the last 20"], ["B", "0 of 1", "the last 20"]
    ]  # fmt: skip
    assert test.details == (
        "A, seed 1, failed: residual codes",
        "A, seed 2, failed: no memory",
        "B, refused: residual codes",
    )


def test_a_search_is_its_trials_and_what_mattered(tmp_path) -> None:
    content = read_json(made.search(tmp_path / "s") / "result.json", "")
    trials, shares = search_tables(Document("s", content))
    assert trials.title == "Trials of SASRec on made, s"
    assert trials.columns == (
        ("Trial", True), ("Valid NDCG@3", True), ("Epochs", True), ("State", False),
        ("layers", True), ("kind", False),
    )  # fmt: skip
    first, second, third = ([cell.text for cell in cells] for cells in trials.rows)
    assert first == ["3", "0.250000", "4", "finished", "2", "a"]
    assert second == ["1", "0.125000", "4", "finished, as trial 2", "10", "b"]
    assert third == ["2", "-", "-", "failed", "1", "true"]
    assert [cells[1].best for cells in trials.rows] == [True, False, False]
    assert [cells[4].value for cells in trials.rows] == [2, 10, 1]
    assert trials.details == ("Trial 2 failed: no <b>memory",)
    assert shares.rows == (
        (Cell("kind", "kind"), Cell("0.750", 0.75)),
        (Cell("layers", "layers"), Cell("0.250", 0.25)),
    )
    same = [{**one, "score": 0.5} for one in content["trials"]]
    (alone,) = search_tables(Document("s", {**content, "importance": None, "trials": same}))
    assert alone.note.endswith("Too few trials, or equal scores, tell no importance of settings.")
    assert not any(cell.best for cells in alone.rows for cell in cells)


def test_correlations_are_a_table_where_scores_were_given() -> None:
    found = [{"figure": "gini", "rho": -0.8, "p": 0.05, "adjusted": 0.1, "sets": 4}]
    content = {"correlations": found, "scored_as_one": [["a", "<b"]], "least_p": 1 / 12}
    content["sets"] = [{"score": score} for score in (1, 2, 3, 4, 5, None)]
    table = correlation_table(Document("x", content))
    assert table is not None
    assert [cell.text for cell in table.rows[0]] == ["gini", "-0.80", "0.050", "0.100", "4"]
    equal, least = table.details
    assert equal == (
        "a, <b have the same SIDs: they count as one set, with the mean of their scores."
    )
    assert least.startswith("With 4 sets and 1 figures the smallest p after correction that could")
    assert correlation_table(Document("x", {"correlations": None})) is None


def test_minutes_count_the_fit_of_codes_from_the_cache(tmp_path):
    seconds = {"tokenize": 30.0, "train": 60.0}
    for timing, expected in (
        ({"seconds": seconds}, 1.5),  # RecBole's own models have no fit
        ({"seconds": seconds, "fit_seconds": 20.0}, 1.5),  # fitted now, with the texts encoded
        ({"seconds": seconds, "fit_seconds": 120.0}, 3.0),  # fitted before
    ):
        assert minutes(Run("a", "a", tmp_path, {}, {}, timing, True)) == expected
