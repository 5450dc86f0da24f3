"""What fuzzing and reading found, each once."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_sid import checkpoint, seals
from recbole_sid.checkpoint import Checkpoint, load_state, save_state
from recbole_sid.errors import InputError
from recbole_sid.histories import read_histories
from recbole_sid.items.vectors import load_item_vectors
from recbole_sid.sid import files
from recbole_sid.sid.table import SemanticIDs
from tests.fuzz.readers import reseal
from tests.sealing import write_json


def sealed_archive(path: Path, members: dict[str, bytes], packed: bool = False) -> Path:
    """A zip archive whose comment is a seal that fits."""
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.comment = seals.blank().encode()
    path.write_bytes(reseal(buffer.getvalue()))
    assert seals.check(path, "") is not None
    return path


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def refused(path: Path) -> str:
    with pytest.raises(InputError, match="is damaged, or holds more") as caught:
        load_state(path, "cpu", "delete it")
    return repr(caught.value.__cause__)


def test_a_state_may_be_any_archive_that_is_stored(tmp_path: Path) -> None:
    save_state(tmp_path / "a.pt", {"w": torch.arange(3)})
    again = sealed_archive(tmp_path / "b.pt", members_of(tmp_path / "a.pt"))
    assert load_state(again, "cpu", "")["w"].tolist() == [0, 1, 2]


def test_a_packed_state_is_a_bomb(tmp_path: Path) -> None:
    save_state(tmp_path / "a.pt", {"w": torch.zeros(1 << 20)})
    bomb = sealed_archive(tmp_path / "b.pt", members_of(tmp_path / "a.pt"), packed=True)
    assert bomb.stat().st_size < 50_000
    assert "the archive is packed" in refused(bomb)


def test_members_that_lie_over_each_other_are_a_bomb(tmp_path: Path) -> None:
    path = sealed_archive(tmp_path / "a.pt", {f"m{n}": bytes(1000) for n in range(9)})
    content = bytearray(path.read_bytes())
    entry = -1
    for _ in range(9):  # all members at the place of the first one, eight times as long
        entry = content.index(b"PK\1\2", entry + 1)
        content[entry + 20 : entry + 28] = (8000).to_bytes(4, "little") * 2
        content[entry + 42 : entry + 46] = bytes(4)
    path.write_bytes(reseal(bytes(content)))
    assert "the archive is packed" in refused(path)


@pytest.mark.parametrize("name", ["../data.pkl", "/etc/data.pkl", "a/../../data.pkl", "..\\x.pkl"])
def test_members_stay_in_the_archive(name: str, tmp_path: Path) -> None:
    save_state(tmp_path / "a.pt", {"w": torch.arange(3)})
    members = {**members_of(tmp_path / "a.pt"), name: b"x"}
    assert "a member is called" in refused(sealed_archive(tmp_path / "b.pt", members))


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_bare_pickle_with_a_seal_does_not_reach_torch(
    protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pickle

    content = pickle.dumps({"w": 1}, protocol) + seals.blank().encode()
    (tmp_path / "a.pt").write_bytes(reseal(content))
    monkeypatch.setattr(checkpoint.torch, "load", lambda *_, **__: pytest.fail("it did"))
    assert "BadZipFile" in refused(tmp_path / "a.pt")


@pytest.mark.parametrize("error", [MemoryError, TypeError, AttributeError, AssertionError])
def test_whatever_the_unpickler_raises_is_one_error(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(tmp_path / "a.pt", {"w": 1})

    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(checkpoint.torch, "load", fails)
    assert error.__name__ in refused(tmp_path / "a.pt")


def test_a_state_that_is_no_dictionary(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "a.safetensors")
    save_state(kept.path, [1, 2])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="holds no state of ours"):
        kept.load("cpu")
    save_state(kept.path, {"of": kept.path.name})
    with pytest.raises(InputError, match="is the state of other work"):
        kept.load("cpu")


def test_a_format_number_of_thousands_of_digits(tmp_path: Path) -> None:
    seal = b"recbole_sid 0.1.0 format %s sha256:%s" % (b"9" * 5000, b"0" * 64)
    header = b'{"__metadata__":{"seal":"%s"}}' % seal
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match="has no checksum of recbole_sid"):
        seals.check(path, "make it again")


def test_a_header_longer_than_safetensors_has_it_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes((10**9).to_bytes(8, "little") + b"{")
    with path.open("r+b") as file:
        file.truncate(2 * 10**9)
        assert seals._header_length(file) == 0


@pytest.mark.parametrize(
    "header", [b"{'descr': '<f4', 'shape': (", b"{'shape': (2, 2)\0}", b"{[]: 1}", b"(" * 99]
)
def test_an_array_whose_header_is_no_literal(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header)
    (tmp_path / "ids.txt").write_text("a\n")
    with pytest.raises(InputError, match=r"is not a \.npy file of numbers"):
        load_item_vectors(path, tmp_path / "ids.txt", ("a",))


def test_a_sid_file_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_JSON", 100)
    sids = SemanticIDs(("a",), np.zeros((1, 1), np.int32), (1,), "none", {})
    sids.save(tmp_path / "a.json")
    with pytest.raises(InputError, match="has more than 100 bytes; write so large a table as"):
        SemanticIDs.load(tmp_path / "a.json")
    (tmp_path / "b.json").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="is no file, but a folder or a device"):
        SemanticIDs.load(tmp_path / "b.json")


def test_an_item_of_a_long_name_does_not_fill_the_message(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x" * 10**6: [1], "y": [1, 2]})
    write_json(tmp_path / "b.json", {"x" * 10**6: [-1]})
    for name in ("a.json", "b.json"):
        with pytest.raises(InputError) as caught:
            files.codes_of_items(files.read_json(tmp_path / name))
        assert len(str(caught.value)) < 500


def test_a_history_with_a_long_unknown_key(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    path.write_text('{"' + "x" * 10**6 + '": 1}\n')
    with pytest.raises(InputError, match="unknown key 'xxx") as caught:
        read_histories(path)
    assert len(str(caught.value)) < 1000


def test_a_history_of_carriage_returns(tmp_path: Path) -> None:
    path = tmp_path / "h.tsv"
    path.write_bytes(b"u1\ta b\ru2\tc\r")
    with pytest.raises(InputError, match="line 1: holds a carriage return"):
        read_histories(path)
    path.write_bytes(b"\xef\xbb\xbfu1\ta b\r\nu2\tc\r\n")
    assert read_histories(path) == {"u1": ["a", "b"], "u2": ["c"]}
