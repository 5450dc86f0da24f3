from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from recbole_sid import checkpoint, run_folder, seals
from recbole_sid.errors import InputError
from recbole_sid.files import CannotWrite
from tests.sealing import seal_again

REMEDY = "make it again"
NAMES = ("a.json", "a.safetensors", "a.pt", "a.yaml")


def write(path: Path) -> None:
    if path.suffix == ".json":
        run_folder.write_json(path, {"b": 1.5, "a": ["x"], "sha256": "0" * 64})
    elif path.suffix == ".safetensors":
        arrays = {"y": np.arange(6.0).reshape(2, 3), "x": np.zeros(0, np.int32)}
        seals.save_tensors(path, arrays, {"k": "1", "format": "no", "head": '"q", é'})
    elif path.suffix == ".pt":
        checkpoint.save_state(path, {"weights": torch.arange(5.0), "epoch": 3})
    else:
        with seals.written_sealed(path) as temporary:
            temporary.write_text(f"a: 1\n# {seals.blank()}\n")


def read(path: Path) -> object:
    if path.suffix == ".json":
        return run_folder.read_json(path, REMEDY)
    if path.suffix == ".pt":
        state = checkpoint.load_state(path, "cpu", REMEDY)
        return {**state, "weights": state["weights"].tolist()}
    seals.check(path, REMEDY)
    if path.suffix == ".safetensors":
        return {name: array.tolist() for name, array in load_file(path).items()}
    return path.read_text().partition("#")[0]


@pytest.mark.parametrize("name", NAMES)
def test_every_bit_and_every_cut_is_noticed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path)
    whole, content = read(path), path.read_bytes()
    places = range(len(content)) if len(content) < 500 else range(0, len(content), 7)
    for place in places:
        flipped = bytes([content[place] ^ 1 << place % 8])
        path.write_bytes(content[:place] + flipped + content[place + 1 :])
        with pytest.raises(InputError, match=rf"{name}'.*: {REMEDY}"):
            read(path)
        path.write_bytes(content[:place])
        with pytest.raises(InputError, match=rf"{name}' (has no checksum|is damaged).*: {REMEDY}"):
            read(path)
    path.write_bytes(content)
    assert read(path) == whole


@pytest.mark.parametrize("name", NAMES)
def test_the_same_content_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    first, others = tmp_path / name, [tmp_path / f"{n}{Path(name).suffix}" for n in range(8)]
    for path in (first, *others):
        write(path)
    assert {path.read_bytes() for path in others} == {first.read_bytes()}


def test_the_checksum_is_that_of_the_file_with_zeros_for_its_digits(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write(path)
    seal = json.loads(path.read_text())["seal"]
    digits = seal.rpartition(":")[2]
    assert seal == f"recbole_sid {recbole_version()} format 1 sha256:{digits}"
    blank = path.read_bytes().replace(digits.encode(), b"0" * 64)
    assert hashlib.sha256(blank).hexdigest() == digits
    assert run_folder.read_json(path, REMEDY) == {"b": 1.5, "a": ["x"], "sha256": "0" * 64}


def recbole_version() -> str:
    import recbole_sid

    return recbole_sid.__version__


def test_a_checkpoint_stays_an_archive_that_torch_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write(path)
    assert torch.load(path, weights_only=True)["epoch"] == 3
    assert torch.load(path, weights_only=True, mmap=True)["weights"].tolist() == [0, 1, 2, 3, 4]


def test_code_in_a_checkpoint_with_a_seal_that_fits_is_not_run(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "marker"),)

    checkpoint.save_state(tmp_path / "a.pt", {"x": Harmful()})
    with pytest.raises(InputError, match="which could run code"):
        read(tmp_path / "a.pt")
    assert not (tmp_path / "marker").exists()


def test_other_formats_and_files_of_others(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write(path)
    path.write_text(path.read_text().replace(" format 1 ", " format 2 "))
    with pytest.raises(InputError, match="is damaged or was edited"):
        read(path)
    seal_again(path)
    with pytest.raises(InputError, match=r"is of format 2, written by recbole_sid .* format 1"):
        read(path)
    path.write_text('{"b": 1}')
    with pytest.raises(InputError, match="has no checksum of recbole_sid"):
        read(path)
    assert seals.check(path, REMEDY, required=False) is None
    with pytest.raises(
        InputError, match=rf"cannot be read \(No such file or directory\): {REMEDY}"
    ):
        read(tmp_path / "absent.json")
    seal_again(path, f'["{seals.blank()}"]'.encode())
    with pytest.raises(InputError, match="cannot be read"):
        read(path)


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_one_error_and_the_last_good_file_stays(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    write(path)
    whole, sync = read(path), os.fsync

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CannotWrite, match=rf"{name}' cannot be written \(No space left on device"):
        write(path)
    monkeypatch.setattr(os, "fsync", sync)
    assert read(path) == whole
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("name", ["a.json", "a.pt", "a.yaml"])
def test_what_libraries_say_of_a_full_disk_is_the_same_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    (tmp_path / f".{name}.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(CannotWrite, match=rf"{name}' cannot be written \(.*(space|writing|seek)"):
        write(path)
    assert list(tmp_path.iterdir()) == []


def test_what_safetensors_says_of_a_full_disk_is_the_same_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(arrays: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(seals, "save_file", full)
    with pytest.raises(CannotWrite, match=r"a.safetensors' cannot be written \(I/O error: No"):
        write(tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match=r"'.*absent/a.json' cannot be written \(No such file"):
        write(tmp_path / "absent" / "a.json")
