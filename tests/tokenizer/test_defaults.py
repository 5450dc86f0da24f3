from __future__ import annotations

import pytest
import yaml

from recbole_sid import settings
from recbole_sid.resources import resource_dir
from recbole_sid.tokenizer.base import LevelSettings, Tokenizer
from recbole_sid.tokenizer.random_codes import RandomCodes
from recbole_sid.tokenizer.rqkmeans import RQKMeans
from recbole_sid.tokenizer.rqvae import RQVAE


@pytest.mark.parametrize(
    ("name", "tokenizer"), [("random", RandomCodes), ("rqkmeans", RQKMeans), ("rqvae", RQVAE)]
)
def test_the_yaml_file_holds_each_setting_once_and_nothing_else(name, tokenizer: type[Tokenizer]):
    text = (resource_dir("properties") / "tokenizer" / f"{name}.yaml").read_text(encoding="utf-8")
    defaults = yaml.safe_load(text)
    assert sorted(defaults) == sorted(settings.keys(tokenizer.Settings, tokenizer.prefix))
    built = settings.build(tokenizer.Settings, defaults, tokenizer.prefix)
    assert isinstance(built, LevelSettings)
    assert built.sizes == (256, 256, 256)
    for line in text.splitlines():
        assert line.startswith("# ") or "# (" in line
