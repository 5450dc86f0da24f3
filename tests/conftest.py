"""Shared by all tests: one thread, so that the numbers and the time do not depend on the machine."""

import torch

torch.set_num_threads(1)
