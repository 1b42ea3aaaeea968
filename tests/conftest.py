"""Every test runs on one thread and from the same global seed; what draws takes its own generator."""

import pytest
import torch
from hypothesis import settings

# The same examples every time, and no time limit that a busy machine could break.
settings.register_profile("reproducible", derandomize=True, deadline=None)
settings.load_profile("reproducible")


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
