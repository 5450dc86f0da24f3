"""The example of docs/plugins.md, run as it stands there."""

import importlib
import re
import sys
from pathlib import Path

import pytest

import recbole_sid
from recbole_sid import registry
from recbole_sid.errors import InputError
from recbole_sid.model.recommender import SIDRecommender
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.trainer import SIDTrainer
from tests.runs import CUT, SMALL

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "plugins.md"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The guide's module on sys.path, a table of names to add to; gives the guide's script."""
    module, script = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "my_sids.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.delitem(sys.modules, "my_sids", raising=False)
    registry.model_names()
    full = registry._TABLE
    copied = registry._Table(dict(full.tokenizers), dict(full.generators), dict(full.models))
    monkeypatch.setattr(registry, "_TABLE", copied)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECBOLE_SID_CACHE", str(tmp_path / "cache"))
    yield script
    sys.modules.pop("my_sids", None)


def small(tmp_path: Path, **changes) -> dict:
    return {**CUT, "output": str(tmp_path / "run"), "tokenizer_levels": 6, **changes}


def register() -> None:
    my_sids = importlib.import_module("my_sids")
    recbole_sid.register_tokenizer("signs", my_sids.Signs, {"tokenizer_levels": 12})
    recbole_sid.register_generator("last-item", my_sids.LastItem, {"beam_size": 20, "width": 8})
    recbole_sid.register_model("Both", tokenizer="signs", generator="last-item")


def test_the_guide_runs_as_it_stands(package, capsys):
    exec(compile(package, str(GUIDE), "exec"), {})
    recall, collisions = map(float, capsys.readouterr().out.split()[-2:])
    assert 0 < collisions < 1  # twelve signs cannot tell all titles apart
    assert 0 < recall < 1
    sids = SemanticIDs.load(next(Path("runs").glob("*/sids.json")))
    assert sids.sizes[:12] == (2,) * 12


def test_parts_of_a_third_party_mix_with_ours(package, tmp_path):
    register()
    given = small(tmp_path, generator="last-item", tokenizer="random", tokenizer_codebook_size=8)
    given["tokenizer_levels"] = 3
    result = recbole_sid.run("TIGER", "ml-100k", config_dict=given)
    assert result["test_result"]["generated@10"] == 1
    loaded = recbole_sid.load(tmp_path / "run")
    assert type(loaded.model.generator).__name__ == "LastItem"
    given = {**SMALL, "output": str(tmp_path / "other"), "tokenizer": "signs"}
    del given["tokenizer_codebook_size"]
    result = recbole_sid.run("TIGER", "ml-100k", config_dict=given)
    assert type(recbole_sid.load(tmp_path / "other").model.generator).__name__ == "Tiger"


def test_settings_of_a_third_party_are_checked(package, tmp_path):
    register()
    for key, value, message in (
        ("tokenizer_levels", 17, "must be 1 to 16"),
        ("tokenizer_levels", "many", "must be a whole number"),
        ("widht", 3, "unknown setting 'widht'. Did you mean 'width'"),
        (
            "hidden_size",
            3,
            "'tiger' or 'intrr' or 'diffgrm' or 'h2rec' or 'duet' or 'trio', not to 'last-item'",
        ),
        ("beam_size", 5, "must be at least max"),
    ):
        with pytest.raises(InputError, match=message):
            recbole_sid.run("Both", "ml-100k", config_dict=small(tmp_path, **{key: value}))
    assert not (tmp_path / "run").exists()


def test_codes_of_a_tokenizer_whose_source_has_changed_are_made_anew(package, tmp_path):
    register()
    first = recbole_sid.run("Both", "ml-100k", config_dict=small(tmp_path))
    source = tmp_path / "lib" / "my_sids.py"
    source.write_text(source.read_text().replace("@ planes > 0)", "@ planes > 0.1)"))
    del sys.modules["my_sids"]
    importlib.invalidate_caches()
    for kind in ("tokenizers", "generators", "models"):
        for name in ("signs", "last-item", "Both"):
            getattr(registry._TABLE, kind).pop(name, None)
    register()
    given = small(tmp_path, output=str(tmp_path / "again"))
    second = recbole_sid.run("Both", "ml-100k", config_dict=given)
    assert first["sid"] != second["sid"]


def test_a_recommender_and_a_trainer_of_a_third_party(package, tmp_path):
    register()
    seen = []

    class Recommender(SIDRecommender):
        pass

    class Trainer(SIDTrainer):
        def fit(self, *args, **kwargs):
            seen.append(type(self.model))
            return super().fit(*args, **kwargs)

    recbole_sid.register_model(
        "Own", tokenizer="signs", generator="last-item", recommender=Recommender, trainer=Trainer
    )
    recbole_sid.run("Own", "ml-100k", config_dict=small(tmp_path))
    assert seen == [Recommender]
    assert type(recbole_sid.load(tmp_path / "run").model) is Recommender
