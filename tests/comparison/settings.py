"""Settings files, and settings under which a run takes a second."""

from pathlib import Path

import yaml

from tests.runs import CUT, SMALL

OF_ALL = {key: value for key, value in CUT.items() if key != "show_progress"}
OF_TIGER = {key: value for key, value in SMALL.items() if key not in CUT and key != "eval_step"}
# Two heads do not divide fifteen: RecBole's model finds that out when it is built.
FILE = {
    "all": OF_ALL,
    "models": {
        "TIGER": OF_TIGER,
        "SASRec": {"hidden_size": 16, "inner_size": 16, "n_layers": 1, "trials": 4},
        "odd": {"model": "SASRec", "hidden_size": 15},
    },
}


SPLIT_IN_TIME = {
    "split_times": [2, 4],
    "user_inter_num_interval": "[0,inf)",
    "eval_step": 1,
    "epochs": 1,
    "resamples": 200,
}


def write(folder: Path, values: dict) -> str:
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(values))
    return str(file)
