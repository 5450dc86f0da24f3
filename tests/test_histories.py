import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_sid.errors import InputError
from recbole_sid.histories import check_output, check_users, read_histories, write_lists
from tests.runs import snapshot

LISTS = [
    ("ann", ["i1", "i 2"], np.array([-0.1, -12.345678], dtype=np.float32)),
    ("bob", [], np.empty(0, dtype=np.float32)),
]


def write(path, text: str):
    path.write_text(text, encoding="utf-8")
    return path


def test_both_formats_hold_the_same_histories(tmp_path):
    rows = [
        {"user": "u1", "history": ["i1", "i2"]},
        {"user": "ü 2", "history": []},
        {"user": "3", "history": ["7", "7"]},
    ]
    lines = "\n".join(json.dumps(row) for row in rows)
    expected = {"u1": ["i1", "i2"], "ü 2": [], "3": ["7", "7"]}
    text = "u1\ti1 i2\nü 2\t\n\n3\t7  7 \n"
    for name, content in (
        ("a.jsonl", lines),
        ("b.jsonl", "\ufeff" + lines.replace("\n", "\r\n\r\n") + "\r\n"),
        ("a.tsv", text),
        ("b.tsv", "user_id:token\titem_id_list:token_seq\n" + text),
    ):
        found = read_histories(write(tmp_path / name, content))
        assert found == expected
        assert list(found) == list(expected)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
        min_size=1,
        max_size=4,
    )
)
def test_json_lines_hold_any_text(tmp_path_factory, histories):
    rows = [{"user": user, "history": history} for user, history in histories.items()]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    assert read_histories(write(tmp_path_factory.mktemp("j") / "h.jsonl", text)) == histories


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("h.jsonl", "u1\ti1", "not valid JSON"),
        ("h.jsonl", '["u1"]', "must be an object"),
        ("h.jsonl", '{"user": "u"}', "has no key 'history'"),
        (
            "h.jsonl",
            '{"user": "u", "histroy": []}',
            "unknown key 'histroy'. Did you mean 'history'",
        ),
        ("h.jsonl", '{"user": 5, "history": []}', "'user' is 5, but must be text"),
        ("h.jsonl", '{"user": "u", "history": [5]}', "'history' must be a list of raw item tokens"),
        ("h.jsonl", '{"user": "u", "history": "i1"}', "'history' must be a list"),
        ("h.jsonl", '{"user": "\\ud800", "history": []}', "half of a surrogate pair"),
        ("h.jsonl", '{"user": "ok", "history": []}', "user 'ok' stands in line 1 already"),
        ("h.tsv", "u1 i1 i2", "has 1 cells, but must be user<TAB>item item"),
        ("h.tsv", "u1\ti1\ti2", "has 3 cells"),
        ("h.tsv", "\ti1", "the user is empty"),
        ("h.tsv", "ok\ti1", "user 'ok' stands in line 1 already"),
    ],
)
def test_a_bad_line_is_named(tmp_path, name, line, message):
    good = "ok\ti1" if name == "h.tsv" else '{"user": "ok", "history": ["i1"]}'
    file = write(tmp_path / name, f"{good}\n\n{line}\n")
    with pytest.raises(InputError) as caught:
        read_histories(file)
    assert f"'{file}', line 3: " in str(caught.value)
    assert message in str(caught.value)


def test_files_that_are_no_histories(tmp_path):
    for name, message in (("h.csv", r"ends in \.jsonl or \.tsv"), ("no.tsv", "cannot be read")):
        with pytest.raises(InputError, match=message):
            read_histories(tmp_path / name)
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        read_histories(tmp_path / "b.jsonl")
    with pytest.raises(InputError, match="holds no history"):
        read_histories(write(tmp_path / "e.tsv", "\nuser:token\titems:token_seq"[1:] + "\n\n"))


def test_lists_are_written_in_both_formats(tmp_path):
    write_lists(tmp_path / "o.tsv", LISTS)
    assert (tmp_path / "o.tsv").read_text() == (
        "user\trank\titem\tscore\nann\t1\ti1\t-0.1\nann\t2\ti 2\t-12.345678\n"
    )
    write_lists(tmp_path / "o.jsonl", LISTS)
    first, second = map(json.loads, (tmp_path / "o.jsonl").read_text().splitlines())
    assert first == {"user": "ann", "items": ["i1", "i 2"], "scores": [-0.1, -12.345678]}
    assert np.array(first["scores"], dtype=np.float32).tobytes() == LISTS[0][2].tobytes()
    assert second == {"user": "bob", "items": [], "scores": []}


def test_a_failing_write_leaves_the_old_file(tmp_path):
    old = write(tmp_path / "o.jsonl", "old")
    with pytest.raises(ValueError, match="Out of range"):
        write_lists(old, [("u", ["i"], np.array([np.inf], dtype=np.float32))])
    assert old.read_text() == "old"
    (tmp_path / "o.tsv").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        write_lists(tmp_path / "o.tsv", LISTS)
    assert {path.name for path in tmp_path.iterdir()} == {"o.jsonl", "o.tsv"}


def test_outputs_that_are_refused(tmp_path):
    source = write(tmp_path / "h.jsonl", "")
    (tmp_path / "d.tsv").mkdir()
    before = snapshot(tmp_path)
    for name, overwrite, message in (
        ("o.json", False, r"ends in \.jsonl or \.tsv"),
        ("no/o.tsv", False, "there is no folder"),
        ("d.tsv", True, "is a folder"),
        ("h.jsonl", False, "is a file that is needed as it is"),
        ("d.tsv/../h.jsonl", True, "is a file that is needed as it is"),
    ):
        with pytest.raises(InputError, match=message):
            check_output(tmp_path / name, overwrite=overwrite, kept=[source])
    with pytest.raises(InputError, match="exists: name another file"):
        check_output(source)
    assert check_output(source, overwrite=True) == source
    assert snapshot(tmp_path) == before


def test_users_that_a_table_cannot_hold(tmp_path):
    check_users(["a\tb"], tmp_path / "o.jsonl")
    check_users(["a b"], tmp_path / "o.tsv")
    with pytest.raises(InputError, match=r"write a \.jsonl file"):
        check_users(["ok", "a\tb"], tmp_path / "o.tsv")
