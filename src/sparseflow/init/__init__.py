"""Initialisers that count each unit's own active inputs; they mirror :mod:`torch.nn.init`."""

from sparseflow.init.fill import (
    INITIALIZERS,
    kaiming_normal_,
    kaiming_truncated_normal_,
    kaiming_uniform_,
    scale_to_mask_,
    xavier_normal_,
    xavier_uniform_,
)
from sparseflow.init.firing import flip_silent_, silence_unit_

__all__ = [
    "INITIALIZERS",
    "flip_silent_",
    "kaiming_normal_",
    "kaiming_truncated_normal_",
    "kaiming_uniform_",
    "scale_to_mask_",
    "silence_unit_",
    "xavier_normal_",
    "xavier_uniform_",
]
