"""Category paths: quoted lists, separators, plain names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_sid.errors import InputError
from recbole_sid.items.category import split_category


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("'Beauty'", ("Beauty",)),
        (
            "'Beauty', 'Skin Care', 'Creams, Gels & Lotions'",
            ("Beauty", "Skin Care", "Creams, Gels & Lotions"),
        ),
        (r"'Fragrance', 'Women\'s', 'Cologne'", ("Fragrance", "Women's", "Cologne")),
        ("'Fragrance', 'Women's', 'Cologne'", ("Fragrance", "Women's", "Cologne")),
        ("""'Fragrance', "Women's", 'Cologne'""", ("Fragrance", "Women's", "Cologne")),
        ("'Kids', Boys', 'Toys'", ("Kids', Boys", "Toys")),
        ("'4'' Heels','x'", ("4'' Heels", "x")),
        ("['Beauty', 'Hair Care']", ("Beauty", "Hair Care")),
        (r"'a\\b', 'c\d'", ("a\\b", r"c\d")),
        ("'', 'Beauty', ' '", ("Beauty",)),
        ("", ()),
        ("[]", ()),
    ],
)
def test_quoted(text: str, expected: tuple[str, ...]) -> None:
    assert split_category(text, "quoted", ", ") == expected


@pytest.mark.parametrize("text", ["Beauty", "'Beauty", "'a' b", "'a', b", "__import__('os')"])
def test_what_is_not_quoted_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not a list of quoted names"):
        split_category(text, "quoted", ", ")


def test_separator_and_plain() -> None:
    assert split_category("a > b, c >  > d", "separator", ">") == ("a", "b, c", "d")
    assert split_category(" a > b ", "plain", ">") == ("a > b",)
    assert split_category("  ", "separator", ">") == ()
    assert split_category("  ", "plain", ">") == ()


NAMES = st.text(min_size=1).map(str.strip).filter(bool)


@given(st.lists(NAMES, max_size=5))
def test_escaped_names_come_back(names: list[str]) -> None:
    escaped = [name.replace("\\", "\\\\").replace("'", "\\'") for name in names]
    text = ", ".join(f"'{name}'" for name in escaped)
    assert split_category(text, "quoted", ", ") == tuple(names)


@given(st.text(alphabet="'\"\\,[ a"))
def test_junk_gives_names_or_an_input_error(text: str) -> None:
    try:
        names = split_category(text, "quoted", ", ")
    except InputError:
        return
    assert all(name == name.strip() != "" for name in names)
