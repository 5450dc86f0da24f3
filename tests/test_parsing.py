import ast
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recbole_sid.errors import InputError
from recbole_sid.parsing import YamlLoader, parse_command_line, parse_value, read_yaml

TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=5)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-1", -1),
        ("0.5", 0.5),
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("true", True),
        ("False", False),
        ("null", None),
        ("None", None),
        ("~", None),
        ("[5, 10]", [5, 10]),
        ("['Recall', 'NDCG']", ["Recall", "NDCG"]),
        ("[Recall, NDCG]", ["Recall", "NDCG"]),
        ("{'mode': 'full'}", {"mode": "full"}),
        ("{mode: {valid: full}}", {"mode": {"valid": "full"}}),
        ("(1, 2)", (1, 2)),
        ("'3'", "3"),
        ("[-1, 1e-3]", [-1, 0.001]),
    ],
)
def test_values(text, value):
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        *("256_256", "1-2", "[0,inf)", "(0,5]", "none", "007", "1e", "", "nan", "TIGER", "a=b"),
        *(
            "1+1",
            "2**10",
            "[1][0]",
            "lambda: 1",
            "b'x'",
            "1j",
            "[",
            "{1, 2",
            "a.b",
            "…",
            "9" * 5000,
        ),
        "__import__('os').getcwd()",
        "(256_256, 1)",
        *("{title}", "[{title}]", "{title}[ by {brand}]", "[{a}]{b}", "{title}: {brand}"),
        "[" * 500,
    ],
)
def test_everything_else_stays_text(text):
    assert parse_value(text) == text


def test_code_in_a_container_is_text_in_a_container(tmp_path):
    marker = tmp_path / "ran"
    code = f"open({str(marker)!r}, 'w')"
    assert parse_value(f"[{code}]") != [None]
    parse_value(f"({code},)")
    parse_value(f"!!python/object/apply:os.mkdir [{marker}]")
    parse_value(f"[!!python/object/apply:os.mkdir [{marker}]]")
    assert not marker.exists()


@given(st.text())
def test_parsing_never_raises_and_gives_plain_data(text):
    value = parse_value(text)
    assert value is None or isinstance(value, (str, int, float, bool, list, tuple, dict))


@given(PLAIN)
def test_what_python_spells_is_read_back(value):
    if isinstance(value, (list, dict)):
        assert parse_value(repr(value)) == value


@given(st.text(alphabet="[](){}'\"abc0_,:1.5e-+ *", max_size=12))
def test_a_result_other_than_the_text_is_a_literal_in_python_or_yaml(text):
    value = parse_value(text)
    if value != text and text[:1] in "[({'\"" and text:
        readings = []
        for read in (ast.literal_eval, lambda t: yaml.load(t, Loader=YamlLoader)):
            try:
                readings.append(read(text))
            except (SyntaxError, ValueError, TypeError, yaml.YAMLError):
                continue
        assert value in readings


def test_command_line_forms():
    arguments = ["--a=1", "--b", "text", "--c=x=y", "--flag", "--d=-2", "--e", "-3", "--g="]
    values, alone = parse_command_line(arguments)
    assert values == {
        "a": 1, "b": "text", "c": "x=y", "flag": True, "d": -2, "e": -3, "g": "",
    }  # fmt: skip
    assert alone == ["flag"]


def test_the_same_key_twice():
    assert parse_command_line(["--a=1", "--a", "1"])[0] == {"a": 1}
    with pytest.raises(InputError, match="--a is given twice, as 1 and as 2"):
        parse_command_line(["--a=1", "--a=2"])


@pytest.mark.parametrize("argument", ["word", "-a", "--", "--=1"])
def test_other_arguments_are_refused(argument):
    with pytest.raises(InputError, match="--key=value"):
        parse_command_line(["--a=1", argument])


def test_yaml_numbers_and_an_empty_file(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("a: 1e-3\nb: 1.5E+2\nc: '1e-3'\nd: none\ne: ~\nf: 1e\n")
    assert read_yaml(file) == {
        "a": 0.001,
        "b": 150.0,
        "c": "1e-3",
        "d": "none",
        "e": None,
        "f": "1e",
    }
    file.write_text("# nothing\n")
    assert read_yaml(file) == {}


@pytest.mark.parametrize(
    "content",
    ["a: [1", "- 1\n- 2", "text", "1: 2", "a: !!python/object/apply:os.getcwd []", "a: 2001-99-99"],
)
def test_other_yaml_is_refused_by_file_name(tmp_path, content):
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(InputError, match=r"bad\.yaml"):
        read_yaml(file)


def chain(line: str, first: str) -> str:
    """Thirty anchors, each of which repeats the one before: {0} is its number, {1} that one's."""
    return "\n".join([first, *(line.format(n, n - 1) for n in range(1, 30))])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (chain("a{0}: &a{0} [*a{1}, *a{1}, *a{1}]", "a0: &a0 [x, x, x]"), "more than 20,000 valu"),
        (chain("a{0}: &a{0} {{<<: [*a{1}, *a{1}]}}", "a0: &a0 {x: 1}"), "more than 20,000 values"),
        (chain("a{0}: &a{0} [[[[*a{1}]]]]", "a0: &a0 [x]"), "over 40 levels"),
        ("a: " + "[" * 500_000, "more than 40 levels"),
        ("a: " + "[" * 41 + "]" * 41, "more than 40 levels"),
        ("\n".join(" " * n + "a:" for n in range(60)), "more than 40 levels"),
        ("a: [" + "x," * 30_000 + "]", "more than 20,000 values"),
        ("a: &a [*a]", "an alias of what it stands in"),
        ("a: &a {b: *a}", "an alias of what it stands in"),
        ("a: 1\nb: {c: 1, c: 2}", "found 'c' twice.*line 2"),
        ("a: 1\na: 1", "found 'a' twice.*line 2"),
        ("a: " + "9" * 5000, "a number of 5,000 digits"),
        ("a: 0x" + "f" * 500_000, "digits"),
        ("a: 1" + ":59" * 100_000, "digits"),
        ("a: " + "x" * 2**20, "more than 1,048,576 bytes"),
        *((f"a: !!{kind} [x]", f"tag 'tag:yaml.org,2002:{kind}'") for kind in ("set", "omap")),
        ("a: !!binary aGVsbG8=", "the tag 'tag:yaml.org,2002:binary'"),
        ("a: !!bool 3", "not valid yaml: KeyError"),
        ("a: !!timestamp x", "not valid yaml"),
        ("a: !!int ''", "not valid yaml"),
        ("a: !!float " + "x" * 100_000, "not valid yaml"),
        ("a: {[1]: 2}", "unhashable key"),
        ("a: \0", "special characters are not allowed"),
    ],
)
def test_yaml_bombs_and_tricks_are_refused_in_a_moment(tmp_path, content, reason):
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    start = time.perf_counter()
    with pytest.raises(InputError, match=rf"(?s)^space file .*bad\.yaml.*{reason}") as caught:
        read_yaml(file, "space file")
    assert time.perf_counter() - start < 5
    assert len(str(caught.value)) < 1000


def test_anchors_and_merges_of_a_usual_size_are_read(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\n")
    assert read_yaml(file) == {
        "a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": [{"x": 1, "y": 2}] * 2
    }  # fmt: skip
    file.write_text("a: " + "[" * 38 + "]" * 38)
    assert str(read_yaml(file)["a"]) == "[" * 38 + "]" * 38


def test_an_endless_file_is_not_read_to_its_end():
    with pytest.raises(InputError, match="more than 1,048,576 bytes"):
        read_yaml("/dev/zero")
    with pytest.raises(InputError, match="cannot be read"):
        read_yaml("a\0b")


@pytest.mark.parametrize(
    "text",
    [
        "[" + "a," * 20_000 + "]",
        "9" * 401,
        "[&a [*a]]",
        "[!!bool 3]",
        "{a: 1, a: 2}",
        "[!!set {a}]",
    ],
)
def test_values_that_would_cost_or_harm_stay_text(text):
    assert parse_value(text) == text


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent\.yaml"):
        read_yaml(tmp_path / "absent.yaml")


def test_yaml_of_others_is_as_before():
    assert yaml.load("a: 1e-3", Loader=yaml.SafeLoader) == {"a": "1e-3"}
