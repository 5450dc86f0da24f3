"""Tables of the page that need no run: the grid, and what goes with a recommender's scores."""

from recbole_sid.page.sources import Document
from recbole_sid.page.tables import Cell, comparison_tables, correlation_table


def row(label: str, test: float | None, state: str = "finished") -> dict:
    cells = {} if test is None else {"test/ndcg@10": {"mean": test, "sd": None, "n": 1}}
    run = {"seed": 1, "state": state, "reason": "residual codes"}
    return {"model": label, "runs": [run], "cells": cells}


def test_a_grid_is_a_table_of_tokenizers_by_generators() -> None:
    models = [
        row("rqvae+tiger", 0.04),
        row("rqvae+diffgrm", None, "refused"),
        row("opq+tiger", 0.03),
        row("opq+diffgrm", 0.05),
        row("Pop", 0.06),
    ]
    content = {
        "dataset": "made",
        "metric": "test/ndcg@10",
        "models": models,
        "significance": {},
        "grid": {"tokenizers": ["rqvae", "opq"], "generators": {"tiger": "TIGER", "diffgrm": "D"}},
    }
    grid, test = comparison_tables(Document("x", content))
    assert grid.title == "Tokenizers and generators, test, made"  # nothing was validated
    assert grid.columns == (("Tokenizer", False), ("tiger", True), ("diffgrm", True))
    assert grid.rows == (
        (Cell("rqvae", "rqvae"), Cell("0.0400", 0.04), Cell("refused", None)),
        (Cell("opq", "opq"), Cell("0.0300", 0.03), Cell("0.0500", 0.05, best=True)),
    )
    assert test.title == "Test, made"
    (alone,) = comparison_tables(Document("x", {**content, "grid": None}))
    assert alone == test


def test_correlations_are_a_table_where_scores_were_given() -> None:
    found = [{"figure": "gini", "rho": -0.8, "p": 0.05, "adjusted": 0.1, "sets": 4}]
    table = correlation_table(Document("x", {"correlations": found}))
    assert table is not None
    assert [cell.text for cell in table.rows[0]] == ["gini", "-0.80", "0.050", "0.100", "4"]
    assert correlation_table(Document("x", {"correlations": None})) is None
