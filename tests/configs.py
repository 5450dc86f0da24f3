"""Configs of TIGER, and data sets of one row to make Configs on."""

from pathlib import Path

from recbole_sid.config import Config
from tests.runs import LOADED

INTER = "user_id:token\titem_id:token\ttimestamp:float\nu\ti\t1\n"


def made(folder: Path, name: str = "made") -> str:
    """A dataset folder with headers and one row; gives the data_path."""
    (folder / name).mkdir()
    (folder / name / f"{name}.inter").write_text(INTER)
    (folder / name / f"{name}.item").write_text("item_id:token\ttitle:token\ni\tShoe\n")
    return str(folder)


def tiger(**settings):
    return Config("TIGER", "ml-100k", config_dict={"tokenizer": "rqvae"} | settings)


def configure(folder: Path, model: str = "TIGER", **given) -> Config:
    """A Config on the data set in ``folder``."""
    settings = {"data_path": str(folder.parent), "load_col": LOADED, **given}
    if model == "TIGER":
        settings = {"tokenizer": "rqvae"} | settings
    return Config(model, folder.name, config_dict=settings)
