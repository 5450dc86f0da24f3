"""Shared by all tests: one thread, so that numbers and time do not depend on the machine."""

import os

import hypothesis
import pytest
import torch

import recbole_sid
from tests.runs import SMALL

torch.set_num_threads(1)
# A busy machine makes no test fail.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "patient"))
# What tests write need not outlive a loss of power; test_files.py sees to it that files do.
os.fsync = lambda handle: None


@pytest.fixture(autouse=True)
def _without_anomaly_detection():
    """Stock RecBole, once it is asked for a sequential model, leaves it on for the process."""
    torch.autograd.set_detect_anomaly(False)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A folder for caches that the session's runs share."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory, cache):
    """The result of one small run of TIGER, and its settings. Its folder is not to be changed."""
    settings = {
        **SMALL,
        "cache_dir": cache,
        "output": str(tmp_path_factory.mktemp("runs") / "trained"),
    }
    return recbole_sid.run("TIGER", "ml-100k", config_dict=settings), settings
