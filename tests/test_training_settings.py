import math

import pytest

from recbole_sid.errors import InputError
from recbole_sid.training_settings import TrainingSettings, lr_factor


def test_learning_rates_by_hand():
    def factors(schedule, steps):
        return [lr_factor(step, schedule, 4, 12) for step in steps]

    assert factors("constant", [0, 1, 3, 4, 11]) == [0.25, 0.5, 1, 1, 1]
    assert factors("inverse_sqrt", [0, 3, 4, 16, 64]) == [0.25, 1, 1, 0.5, 0.25]
    half = math.cos(math.pi / 4) / 2 + 0.5
    expected = [0.25, 1, 1, half, 0.5, 0, 0]
    assert factors("cosine", [0, 3, 4, 6, 8, 12, 20]) == pytest.approx(expected)
    assert lr_factor(0, "inverse_sqrt", 0, 5) == 1
    assert lr_factor(0, "cosine", 0, 5) == 1


SOUND = {
    "precision": "auto",
    "lr_schedule": "cosine",
    "warmup_steps": 0,
    "learner": "AdamW",
    "clip_grad_norm": None,
    "enable_amp": False,
    "enable_scaler": False,
    "shuffle": True,
    "transform": None,
    "train_neg_sample_args": {"distribution": "none"},
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("warmup_steps", -1),
        ("learner", "lion"),
        ("clip_grad_norm", {"norm": 1}),
        ("enable_amp", True),
        ("enable_scaler", True),
        ("shuffle", False),
        ("transform", "mask_itemseq"),
        ("train_neg_sample_args", {"distribution": "uniform"}),
    ],
)
def test_what_the_trainer_would_not_do_is_refused(key, value):
    TrainingSettings(**SOUND)
    with pytest.raises(InputError, match=f"setting '{key}' is .*, but must be"):
        TrainingSettings(**SOUND | {key: value})
