import ast

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


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent\.yaml"):
        read_yaml(tmp_path / "absent.yaml")


def test_yaml_of_others_is_as_before():
    assert yaml.load("a: 1e-3", Loader=yaml.SafeLoader) == {"a": "1e-3"}
