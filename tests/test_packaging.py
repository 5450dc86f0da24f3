"""What is shipped: one version, whole archives, explained defaults, nothing of one machine."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from recbole_sid import __version__

ROOT = Path(__file__).parents[1]
# Names that .gitignore keeps out, and the hidden folders of tools.
FOLDERS = r"__pycache__|.*\.egg-info|build|dist|runs|comparisons|tunings"
IGNORED = re.compile(rf"({FOLDERS}|\.(?!ci$|gitignore$).*)")


def project_files() -> list[Path]:
    """All files of the project, relative to its root."""
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if not IGNORED.fullmatch(name)]
        relative = Path(folder).relative_to(ROOT)
        found += [relative / name for name in files if not IGNORED.fullmatch(name)]
    return sorted(found)


def in_folder(name: str, pattern: str) -> set[str]:
    files = (file for file in project_files() if file.parts[0] == name)
    return {file.as_posix() for file in files if file.match(pattern)}


class Archives:
    """A source distribution, and the wheel that is built from it."""

    def __init__(self, folder: Path) -> None:
        (sdist,) = folder.glob("*.tar.gz")
        (self.wheel,) = folder.glob("*.whl")
        with tarfile.open(sdist) as archive:
            top = f"recbole_sid-{__version__}/"
            self.in_sdist = {name.removeprefix(top) for name in archive.getnames()}
        with zipfile.ZipFile(self.wheel) as archive:
            self.in_wheel = set(archive.namelist())
            (name,) = (name for name in self.in_wheel if name.endswith("/METADATA"))
            self.metadata = email.message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    """Built from a copy, since building writes into the source folder."""
    source = tmp_path_factory.mktemp("source")
    for file in project_files():
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, source / file)
    built = tmp_path_factory.mktemp("built")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(built), "."], source)
    return Archives(built)


def run(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_there_is_one_version(archives: Archives) -> None:
    assert archives.metadata["Version"] == __version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(\d[^\]]*)\] - \d{4}-\d{2}-\d{2}$", changes, flags=re.MULTILINE)
    assert newest is not None
    assert newest[1] == __version__
    sources = [ROOT / name for name in in_folder("recbole_sid", "*.py")]
    spelled = [p.name for p in sources if f'"{__version__}"' in p.read_text(encoding="utf-8")]
    assert spelled == ["version.py"]


def test_the_wheel_holds_the_package_and_its_data(archives: Archives) -> None:
    data = in_folder("properties", "*.yaml") | in_folder("dataset_configs", "*.yaml")
    expected = in_folder("recbole_sid", "*.py") | {f"recbole_sid/{name}" for name in data}
    expected |= {f"recbole_sid/page/page.{kind}" for kind in ("html.j2", "css", "js")}
    assert "recbole_sid/properties/generator/tiger.yaml" in expected
    assert {name for name in archives.in_wheel if ".dist-info/" not in name} == expected
    assert any(name.endswith("/licenses/LICENSE") for name in archives.in_wheel)
    assert archives.metadata["License-Expression"] == "MIT"


def test_the_source_distribution_holds_every_file(archives: Archives) -> None:
    files = {file.as_posix() for file in project_files()} - {".gitignore"}
    assert "properties/overall.yaml" in files
    assert files <= archives.in_sdist


def test_the_wheel_runs_from_an_empty_folder(archives: Archives, tmp_path: Path) -> None:
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    run([*pip, "--target", str(installed), str(archives.wheel)], empty)
    environment = {
        "PYTHONPATH": str(installed),
        "RECBOLE_SID_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(installed / "bin" / "recbole-sid")]
    assert "usage: recbole-sid" in run([*command, "--help"], empty, **environment)
    origin = run(
        [sys.executable, "-c", "import recbole_sid; print(recbole_sid.__file__)"],
        empty,
        **environment,
    )
    assert Path(origin.strip()).parent == installed / "recbole_sid"
    settings = [
        "--tokenizer=random",
        "--tokenizer_codebook_size=8",
        "--user_inter_num_interval=[10,30]",
        "--item_inter_num_interval=[20,inf)",
        "--epochs=1",
        "--hidden_size=16",
        "--inner_size=16",
    ]
    run([*command, *settings, "--output=run"], empty, **environment)
    assert (empty / "run" / "result.json").is_file()
    assert [path.name for path in empty.iterdir()] == ["run"]


@pytest.mark.parametrize("name", sorted(in_folder("properties", "*.yaml")))
def test_every_default_says_its_type_and_meaning(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    explained = re.findall(r"^(\w+):.* # \([^)]+\) \S.*\.$", text, flags=re.MULTILINE)
    assert sorted(explained) == sorted(yaml.safe_load(text))


def test_no_file_names_a_folder_of_one_machine() -> None:
    # Put together here, so that this file does not contain them.
    folders = ["/" + name + "/" for name in ("work", "root", "home", "Users")] + ["/tmp" + "/"]
    found = [
        f"{file}: {folder}"
        for file in project_files()
        for folder in folders
        if re.search(rf"(?<![\w.~]){folder}\w".encode(), (ROOT / file).read_bytes())
    ]
    assert found == []
