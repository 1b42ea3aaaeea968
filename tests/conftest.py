"""Every test runs on one thread and from the same global seed; what draws takes its own generator."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
