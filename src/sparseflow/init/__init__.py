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
from sparseflow.init.obd import fisher_diagonal, hutchinson_diagonal
from sparseflow.init.orthogonal import exact_orthogonal_, exact_orthogonal_model_, sparse_orthogonal
from sparseflow.init.supar import supar_groups, supar_initialize_, supar_ratios

__all__ = [
    "INITIALIZERS",
    "exact_orthogonal_",
    "exact_orthogonal_model_",
    "fisher_diagonal",
    "flip_silent_",
    "hutchinson_diagonal",
    "kaiming_normal_",
    "kaiming_truncated_normal_",
    "kaiming_uniform_",
    "scale_to_mask_",
    "silence_unit_",
    "sparse_orthogonal",
    "supar_groups",
    "supar_initialize_",
    "supar_ratios",
    "xavier_normal_",
    "xavier_uniform_",
]
