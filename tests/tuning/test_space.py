"""Space files: both formats, what they mean, and what is refused."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_sid import InputError
from recbole_sid.tuning.space import Dimension, read_space


def spelled(folder: Path, text: str, name: str = "space.test"):
    file = folder / name
    file.write_text(text)
    return read_space(file)


def test_both_formats_say_the_same(tmp_path):
    text = """# a comment

learning_rate loguniform -8, 0
hidden_size choice [32,64]
dropout uniform 0,1
mixed choice [None, True, 'a b', [64, 32], '[5,inf)']
layers quniform 1,4,1
"""
    values = f"""
learning_rate: {{loguniform: [{math.exp(-8)!r}, 1]}}
hidden_size: {{choice: [32, 64]}}
dropout: {{uniform: [0, 1]}}
mixed: {{choice: [~, true, a b, [64, 32], '[5,inf)']}}
layers: {{quniform: [1, 4, 1]}}
"""
    space = spelled(tmp_path, text)
    assert space == spelled(tmp_path, values, "space.yaml")
    assert space.keys == ["learning_rate", "hidden_size", "dropout", "mixed", "layers"]
    by_key = {one.key: one for one in space.dimensions}
    assert by_key["learning_rate"].ends == (0.000335463, 1.0)  # e to -8, six digits, held in bounds
    assert by_key["mixed"].values == (None, True, "a b", [64, 32], "[5,inf)")
    assert by_key["layers"].ends == (1, 4)
    drawn = {"learning_rate": 0.123456789, "hidden_size": 1, "dropout": 1e-9, "mixed": 3}
    meant = {"learning_rate": 0.123457, "hidden_size": 64, "dropout": 1e-9, "mixed": [64, 32]}
    assert space.settings(drawn | {"layers": 2.0}) == meant | {"layers": 2}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x choice [__import__('os').system('true')]", "looks like code"),
        ("x choice [2**i for i in range(3)]", "looks like code"),
        ("x choice range(3)", "looks like code"),
        ("x choice [lambda: 0]", "looks like code"),
        ("x choice 3", r"choice takes \[A, B, …\], not 3"),
        ("x choice []", "each value once, not"),
        ("x choice [1, 1]", "each value once, not"),
        ("x choise [1, 2]", "unknown kind 'choise'. Did you mean 'choice'"),
        ("x uniform 0", r"uniform takes LOW, HIGH, numbers, not \[0\]"),
        ("x uniform 0, 1, 2", "numbers, not"),
        ("x uniform 0, exp(1)", "numbers, not"),
        ("x uniform True, 2", "numbers, not"),
        ("x uniform 1, 0", "LOW below HIGH"),
        ("x quniform 0, 1, 2", "STEP between 0 and HIGH - LOW"),
        ("x quniform 0, 1, 0", "STEP between 0 and HIGH - LOW"),
        ("x loguniform 1, 9000", "exponents of e"),
        ("x choice", "line 1: 'x choice' is not 'key kind values'"),
        ("x choice [1]\nx choice [2]", "line 2: 'x' comes twice"),
        ("# nothing", "holds no setting"),
    ],
)
def test_a_line_that_is_not_understood_is_refused(tmp_path, line, reason):
    with pytest.raises(InputError, match=reason):
        spelled(tmp_path, line)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x: [1, 2]", "is not one kind with its values"),
        ("x: {choice: [1], uniform: [0, 1]}", "is not one kind with its values"),
        ("x: {loguniform: [0, 1]}", "LOW above 0"),
        ("x: {uniform: [0, .inf]}", "numbers, not"),
        ("x: {choice: ['exec(1)']}", "looks like code"),
    ],
)
def test_a_yaml_entry_that_is_not_understood_is_refused(tmp_path, text, reason):
    with pytest.raises(InputError, match=reason):
        spelled(tmp_path, text, "space.yaml")


def test_a_missing_file_is_told(tmp_path):
    for name in ("none.test", "none.yaml"):
        with pytest.raises(InputError, match="cannot be read"):
            read_space(tmp_path / name)


def test_the_grid_holds_every_combination(tmp_path):
    space = spelled(tmp_path, "a choice ['x', 'y']\nb quniform 0, 0.3, 0.1\nc quniform 1, 5, 2")
    found = [tuple(space.settings(raw).values()) for raw in space.grid()]
    # As hyperopt draws: the multiples of the step that bounds are rounded to, held within them.
    wanted = [(a, b, c) for a in "xy" for b in (0.0, 0.1, 0.2, 0.3) for c in (1, 2, 4)]
    assert found == wanted
    endless = spelled(tmp_path, "a choice [1]\nb uniform 0, 1")
    with pytest.raises(InputError, match="'b' of the space is uniform, which has no end"):
        endless.grid()


@given(
    st.sampled_from(["uniform", "loguniform"]),
    st.floats(1e-6, 1e3),
    st.floats(1.001, 1e3),
    st.floats(0, 1),
)
def test_a_number_stays_within_the_bounds(kind, low, factor, share):
    one = Dimension("x", kind, numbers=(low, low * factor))
    raw = low + share * (low * factor - low)
    value = one.value(raw)
    assert low <= value <= low * factor
    assert value == pytest.approx(raw, rel=1e-5)


@given(st.lists(st.sampled_from("abc()[]_*'\",:0 \n"), max_size=30).map("".join))
def test_no_text_breaks_the_parser(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "any.test"
    file.write_text(f"x choice {text}")
    try:
        space = read_space(file)
    except InputError:
        return
    assert all(one.ends for one in space.dimensions)


def test_positions_are_places_and_logarithms():
    assert Dimension("x", "choice", values=("a", "b")).position("b") == 1.0
    assert Dimension("x", "loguniform", numbers=(0.1, 1.0)).position(0.5) == math.log(0.5)
    assert Dimension("x", "uniform", numbers=(0.1, 1.0)).position(0.5) == 0.5
