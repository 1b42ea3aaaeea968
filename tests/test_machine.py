"""200 steps of the state machine; ``make soak`` runs 100,000."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from machine import Machine


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_whatever_a_user_does_the_promise_holds_or_an_error_has_a_name() -> None:
    torch.set_num_threads(1)
    before = sum(Machine.counts.values())
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=10,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert sum(Machine.counts.values()) - before >= 150
