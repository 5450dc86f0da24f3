"""Every reader of files and texts from outside, with valid files to begin from.

A reader is given bytes. It may return, or raise InputError; anything else is a finding. What it
reads it also writes and reads again, where that can be.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from safetensors.numpy import save as to_safetensors

from recbole_sid import compat, parsing, seals, settings
from recbole_sid.checkpoint import load_state, save_state
from recbole_sid.errors import InputError
from recbole_sid.histories import read_histories
from recbole_sid.items.category import split_category
from recbole_sid.items.table import ItemFields, ItemTable
from recbole_sid.items.vectors import load_item_vectors, load_vector_sets
from recbole_sid.preparing import prepare
from recbole_sid.preparing.mapping import build_mapping, read_mapping
from recbole_sid.sid.published import read_sids
from recbole_sid.sid.space import CodeSpace
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.times import as_seconds
from recbole_sid.tuning.space import read_space
from recbole_sid.weights import load_weights, write_weights

LONGEST_MESSAGE = 20_000
INTER = ["user_id:token", "item_id:token", "timestamp:float"]
# As reading.read_data takes them: what RecBole raises in files becomes an InputError there.
RECBOLE = (ValueError, TypeError, KeyError, IndexError, AttributeError)
ITEM_FIELDS: dict[str, Any] = {
    "item_text_fields": ["title"],
    "item_category_field": "category",
    "item_category_format": "quoted",
    "item_category_separator": " > ",
    "item_brand_field": None,
    "item_price_field": "price",
}


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader, and files that it reads.

    Attributes:
        read: takes a folder of its own and the content of a file.
        seeds: valid contents.
        sealed: whether damaged content is also given with a seal that fits it.
    """

    read: Callable[[Path, bytes], object]
    seeds: tuple[bytes, ...]
    sealed: bool = False


def try_reader(reader: Reader, content: bytes, resealed: bool = True) -> bool:
    """Whether ``content`` is read; False where it is refused. Anything else is raised."""
    with tempfile.TemporaryDirectory() as name:
        try:
            reader.read(Path(name), reseal(content) if reader.sealed and resealed else content)
        except InputError as error:
            if not 0 < len(str(error)) < LONGEST_MESSAGE:
                raise AssertionError("a message that no one reads") from error
            return False
    return True


def reseal(content: bytes) -> bytes:
    """``content`` with the checksum that fits it, if it has a seal at all."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        seal = seals._find(cast(Any, file))
        if seal is None:
            return content
        digits = seals._digest(cast(Any, file), seal.offset).encode()
        file.seek(seal.offset)
        file.write(digits)
        file.seek(0)
        return file.read()


# -- readers --------------------------------------------------------------------------------------


def _item(folder: Path, content: bytes) -> None:
    path = _put(folder / "made.item", content)
    table = ItemTable.read(path, "item_id", ["title", "category", "price"])
    assert len(set(table.tokens)) == len(table.tokens) == len(table.columns["title"]) > 0
    table.category_paths(settings.build(ItemFields, ITEM_FIELDS))


def _inter(folder: Path, content: bytes) -> None:
    path = _put(folder / "made.inter", content)
    types = {name: np.float64 if name.endswith("float") else str for name in INTER}
    with suppress(*RECBOLE):
        compat._read_atomic_file(
            str(path), usecols=INTER, delimiter="\t", dtype=types, encoding="utf-8", engine="python"
        )


def _histories(ending: str) -> Callable[[Path, bytes], object]:
    return lambda folder, content: read_histories(_put(folder / f"made{ending}", content))


def _sids(ending: str) -> Callable[[Path, bytes], object]:
    def read(folder: Path, content: bytes) -> None:
        sids = read_sids(_put(folder / f"made{ending}", content))
        for other in (".json", ".safetensors"):
            sids.save(folder / f"again{other}")
            again = SemanticIDs.load(folder / f"again{other}")
            assert again.fingerprint() == sids.fingerprint()
            assert again.provenance == sids.provenance

    return read


def _space(folder: Path, content: bytes) -> None:
    space = CodeSpace.load(_put(folder / "space.safetensors", content))
    space.save(folder / "again.safetensors")
    again = CodeSpace.load(folder / "again.safetensors")
    assert again.latents.tobytes() == space.latents.tobytes()


def _seals(folder: Path, content: bytes) -> None:
    path = _put(folder / "made.json", content)
    assert seals.check(path, "make it again", required=False) is None or hashlib.sha256(content)


def _checkpoint(folder: Path, content: bytes) -> None:
    state = load_state(_put(folder / "made.pt", content), "cpu", "delete it")
    save_state(folder / "again.pt", dict(state))
    assert load_state(folder / "again.pt", "cpu", "delete it").keys() == state.keys()


def _weights(folder: Path, content: bytes) -> None:
    model = torch.nn.Linear(3, 2)
    model.sids, model.device = SimpleNamespace(fingerprint=lambda: "f"), "cpu"  # type: ignore
    load_weights(cast(Any, model), _put(folder / "made.safetensors", content))


def _vectors(ending: str) -> Callable[[Path, bytes], object]:
    def read(folder: Path, content: bytes) -> None:
        path = _put(folder / f"made{ending}", content)
        ids = _put(folder / "ids.txt", b"a\nb\n") if ending == ".npy" else None
        with suppress(InputError):
            found = load_item_vectors(path, ids, ("a", "b"))
            assert found.dtype == np.float32
            assert np.isfinite(found).all()
        load_vector_sets(path, ids, ("a", "b"), "item_image", 3)

    return read


def _ids(ending: str) -> Callable[[Path, bytes], object]:
    def read(folder: Path, content: bytes) -> None:
        np.save(folder / "made.npy", np.ones((2, 2), np.float32))
        load_item_vectors(folder / "made.npy", _put(folder / f"ids{ending}", content), ("a", "b"))

    return read


def _yaml(folder: Path, content: bytes) -> None:
    values = parsing.read_yaml(_put(folder / "made.yaml", content))
    settings.build(ItemFields, {**ITEM_FIELDS, **values})


def _command_line(_: Path, content: bytes) -> None:
    arguments = content.decode("utf-8", "replace").split("\n")
    for argument in arguments:
        json.dumps(parsing.parse_value(argument), default=str)
        as_seconds(argument)
    values, _alone = parsing.parse_command_line(arguments)
    settings.build(ItemFields, {**ITEM_FIELDS, **values})


def _mapping(folder: Path, content: bytes) -> None:
    read_mapping(_put(folder / "made.yaml", content))


def _tuning(ending: str) -> Callable[[Path, bytes], object]:
    def read(folder: Path, content: bytes) -> None:
        space = read_space(_put(folder / f"made{ending}", content))
        json.dumps(space.plain(), default=str)
        for one in space.dimensions:
            for end in one.ends:
                one.position(end)

    return read


def _category(_: Path, content: bytes) -> None:
    text = content.decode("utf-8", "replace")
    for form in ("quoted", "separator", "plain"):
        with suppress(InputError):
            split_category(text, form, " > ")


def _prepare(ending: str, **given: Any) -> Callable[[Path, bytes], object]:
    """``prepare`` from the log, or with ``items`` from the table, in a format."""

    def read(folder: Path, content: bytes) -> None:
        good = _put(folder / "good.jsonl", GOOD_LOG if given.get("items") else GOOD_FEED)
        bad = _put(folder / f"made{ending}", content)
        items, events = (bad, good) if given.get("items") else (good, bad)
        how = {key: value for key, value in given.items() if key != "items"}
        columns = {"item_id": "i", "title": "t", "category": "c", "price": "p"}
        values: dict[str, Any] = {
            "items": {"files": str(items), "absent": "empty", "columns": columns},
            "events": {
                "files": str(events),
                "columns": {"user_id": "u", "item_id": "i", "time": "s"},
            },
            "minimum": {"user": 1, "item": 1},
        }
        values["items" if given.get("items") else "events"].update(how)
        prepare(folder / "out", build_mapping(values, "made"), memory_limit="200MB")
        table = ItemTable.read(folder / "out" / "data" / "data.item", "item_id", ["title"])
        assert table.tokens

    return read


# -- valid files ----------------------------------------------------------------------------------

GOOD_LOG = b"".join(b'{"u": "u%d", "i": "i%d", "s": %d}\n' % (n % 2, n, n) for n in range(4))
GOOD_FEED = b"".join(
    b'{"i": "i%d", "t": "Tea cup", "c": ["house", "cups"], "p": "$1,%d00.50"}\n' % (n, n)
    for n in range(4)
)
_CSV_LOG = b'u,i,s\nu1,i1,1700000000\nu2,i2,5.5\n"u,3",i3,0\nu1,i0,1e9\n'
_CSV_FEED = '\ufeffi;t;c;p\ni1;Tea;a > b;1.5\ni2;"a;\nb";;€ 2,000\ni3;Çay é;x;\n'.encode()
_ITEM = (
    "item_id:token\ttitle:token_seq\tcategory:token_seq\tprice:float\n"
    "i1\tTea cups\t'House', 'Men's'\t12.50\ni2\t\"Shoes\t\t\nçé\tA\t[\"B\"]\tNaN\r\n"
).encode()
_INTER = "\t".join(INTER).encode() + b"\nu1\ti1\t1700000000\nu2\ti2\t-5.5\nu1\ti2\t1e9\n"
_YAML = b"""item_text_fields: [title, text]
item_category_field: ~
item_category_format: "separator"
item_brand_field: brand
item_price_field: &p price
other: {a: 1e-3, b: [1, 2.5, true], c: *p}
"""
_MAPPING = b"""items:
  files: [items*.csv, more.jsonl]
  separator: ";"
  columns: {item_id: ad, title: title, category: [a, b], others: {kind: {column: k, type: float}}}
events:
  files: events.csv.gz
  time_format: "%d/%m/%Y %H:%M"
  columns: {user_id: user, item_id: ad, event: type, time: time}
  keep: [click]
  ignore: [impression]
minimum: {user: 5, item: 5, core: true}
"""
_TUNING = b"""learning_rate loguniform -8, -4
layers choice [1, 2]
names choice ['a', "b", null]
dropout quniform 0, 0.5, 0.1
# a comment
embedding uniform 0, 1e2
"""
_TUNING_YAML = b"""learning_rate: {loguniform: [3.0e-4, 2e-2]}
layers: {choice: [1, [2, 3], {a: b}, text]}
dropout: {quniform: [0, 0.5, 0.1]}
"""
_ARGUMENTS = b"""--item_text_fields=['title', "text"]
--item_brand_field
brand
--item_category_separator= >
--flag
--n=1e-3
--m={a: [1, 2]}
--time=2026-01-05T12:00:00+02:00"""


@cache
def readers() -> dict[str, Reader]:
    """All readers by name. Their files are written by the code that writes them in use."""
    sids = SemanticIDs(
        ("a", "b", "ç"), np.array([[0, 1], [2, 0], [2, 1]], np.int32), (3, 2), "dedup", {"x": [1]}
    )
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(3, 4)).astype(np.float32)
    books = tuple(rng.normal(size=(n, 4)).astype(np.float32) for n in (3, 2))
    state = {"of": "made.pt", "state": {"w": torch.arange(6.0), "n": [1, "a", None, 2.5, True]}}
    matrix = np.arange(4, dtype=np.float32).reshape(2, 2)
    named = to_safetensors({"vectors": matrix}, {"ids": '["a", "b"]'})
    each = to_safetensors({"a": matrix[0], "b": matrix})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sids.save(folder / "a.json")
        sids.save(folder / "a.safetensors")
        CodeSpace(latents, books, True).save(folder / "b.safetensors")
        save_state(folder / "a.pt", state)
        write_weights(folder / "c.safetensors", torch.nn.Linear(3, 2).state_dict(), {"sids": "f"})
        np.save(folder / "a.npy", matrix)
        np.save(folder / "b.npy", np.arange(8, dtype=">i2").reshape(2, 2, 2))
        whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    published = (
        b'{"a": ["<a_1>", "<b_0>"], "b": ["<a_0>", "<b_7>"]}',
        b'{"a": [1, 0], "b": [3, 2]}',
    )
    return {
        "item": Reader(_item, (_ITEM,)),
        "inter": Reader(_inter, (_INTER,)),
        "histories-jsonl": Reader(
            _histories(".jsonl"), (b'{"user": "u", "history": ["a"]}\n{"history": [], "user": ""}',)
        ),
        "histories-tsv": Reader(_histories(".tsv"), (b"u:token\th:token_seq\nu1\ta b\nu2\t\n",)),
        "sids-json": Reader(_sids(".json"), (whole["a.json"], *published), True),
        "sids-safetensors": Reader(_sids(".safetensors"), (whole["a.safetensors"],), True),
        "code-space": Reader(_space, (whole["b.safetensors"],), True),
        "seals": Reader(_seals, tuple(whole[n] for n in ("a.json", "a.safetensors", "a.pt"))),
        "checkpoint": Reader(_checkpoint, (whole["a.pt"],), True),
        "weights": Reader(_weights, (whole["c.safetensors"],), True),
        "vectors-npy": Reader(_vectors(".npy"), (whole["a.npy"], whole["b.npy"])),
        "vectors-safetensors": Reader(_vectors(".safetensors"), (named, each)),
        "ids-txt": Reader(_ids(".txt"), (b"a\nb\n", b"\xef\xbb\xbfb\r\na")),
        "ids-json": Reader(_ids(".json"), (b'["a", "b"]',)),
        "yaml": Reader(_yaml, (_YAML,)),
        "command-line": Reader(_command_line, (_ARGUMENTS,)),
        "mapping": Reader(_mapping, (_MAPPING,)),
        "tuning-text": Reader(_tuning(".test"), (_TUNING,)),
        "tuning-yaml": Reader(_tuning(".yaml"), (_TUNING_YAML,)),
        "category": Reader(_category, (b"'Men''s', \"Boys', Girls\", 'a\\'b'", b"[ 'a' , 'b' ]")),
        "prepare-csv": Reader(_prepare(".csv"), (_CSV_LOG, gzip.compress(_CSV_LOG))),
        "prepare-jsonl": Reader(_prepare(".jsonl"), (GOOD_LOG,)),
        "prepare-iso": Reader(
            _prepare(".csv", time_format="iso"),
            (b"u,i,s\nu1,i1,2024-05-01T10:00:00Z\nu2,i2,2024-05-01 10:00+02:00\n",),
        ),
        "prepare-items": Reader(_prepare(".csv", items=True, separator=";"), (_CSV_FEED,)),
        "prepare-literals": Reader(
            _prepare(".json", items=True, format="literals", html=True),
            (b"{'i': 'i1', 't': 'a &amp; <b>c', 'c': [['x', 'y']], 'p': 5.0}\n{'i': 'i2'}\n",),
        ),
        "prepare-parquet": Reader(_prepare(".parquet"), (_parquet(),)),
    }  # fmt: skip


def _parquet() -> bytes:
    import duckdb

    with tempfile.TemporaryDirectory() as name, duckdb.connect() as connection:
        file = Path(name) / "a.parquet"
        connection.execute(
            "COPY (SELECT 'u' || n AS u, 'i' || n AS i, n * 100 AS s FROM range(5) r(n)) "
            f"TO '{file}' (FORMAT parquet)"
        )
        return file.read_bytes()


def _put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
