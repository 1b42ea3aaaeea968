"""Exact Hessian spectra of a run's snapshots (Figures 10 and 11)."""

from __future__ import annotations

import pandas as pd
import torch
import torch.nn.functional as F

from sparseflow.analysis.flow import masked_gradient
from sparseflow.analysis.hessian import hessian
from sparseflow.analysis.layout import active_parameters
from sparseflow.analysis.spectrum import eigenvalues, rayleigh_quotient, summarize
from sparseflow.paper.measures.source import Source, Tables
from sparseflow.training.digits import DigitRun
from sparseflow.training.runs import read_snapshot
from sparseflow.training.setup import dense_network


def spectrum(source: Source, runs: tuple[DigitRun, ...], /, *, step: int, moment: str, examples: int) -> Tables:
    """All eigenvalues of the Hessian over active weights and biases, with a summary.

    Args:
        source: The runs and their data.
        runs: One run, with a snapshot of ``step``.
        step: Optimizer steps taken.
        moment: ``before`` that step's mask update, ``after`` it, or ``at`` the step where no update is.
        examples: Fixed training images behind the loss; no L2.

    Reference: protocol H.
    """
    (config,) = runs
    state = read_snapshot(config, step, root=source.root, before_update=moment == "before")
    model = dense_network(config).double()
    model.load_state_dict(state["model"])
    parts = zip(*source.training_batches(config, examples), strict=True)
    images, labels = (torch.cat(part) for part in parts)
    batches = [(x.double(), y) for x, y in zip(images.split(1000), labels.split(1000), strict=True)]
    found = hessian(model, batches, state["masks"], progress=lambda done, of: source.report(0.95 * done / of))
    values = eigenvalues(found)
    _, gradient = masked_gradient(model, F.cross_entropy, batches, state["masks"])
    flat = active_parameters(model, state["masks"]).flatten(gradient)
    summary = summarize(values)
    row = {
        "parameters": len(values),
        "largest": summary.lambda_max,
        "smallest": summary.lambda_min,
        "negative_sum": summary.sum_negative,
        "num_negative": summary.num_below,
        "trace": summary.trace,
        "rayleigh": rayleigh_quotient(found, flat),
    }
    return {"spectra": pd.DataFrame([row]), "eigenvalues": pd.DataFrame({"eigenvalue": values.numpy()})}
