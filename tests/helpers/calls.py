"""A valid call of every public function, whose arguments are then made wrong one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparseflow as sf
from sparseflow import analysis, init, tickets

Arguments = Callable[[], dict[str, Any]]


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def batches() -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(4, 6), torch.randint(3, (4,)))]


def masks() -> dict[str, Tensor]:
    return sf.random_masks(model(), 0.5, seed=0)


def masked() -> nn.Module:
    return sf.apply_masks_(model(), masks())


def state() -> dict[str, Tensor]:
    return {name: value.clone() for name, value in masked().state_dict().items()}


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def weight() -> dict[str, Any]:
    return {"weight": torch.zeros(5, 6), "mask": torch.ones(5, 6, dtype=torch.bool), "generator": draws()}


def hessian() -> Tensor:
    return torch.diag(torch.arange(1.0, 7.0, dtype=torch.float64))


def ratios() -> dict[str, Any]:
    return init.supar_ratios(model(), masks(), model(), output=["2.weight"])


def logits() -> Tensor:
    return torch.randn(3, 8, 4)


CALLS: Mapping[str, tuple[Callable[..., Any], Arguments]] = {
    "sf.apply_masks_": (sf.apply_masks_, lambda: {"model": model(), "masks": masks()}),
    "sf.check_n_of_m": (sf.check_n_of_m, lambda: {
        "masks": sf.n_of_m_masks(model(), {"0.*": (1, 2)}), "model": model(), "pattern": {"0.*": (1, 2)}}),
    "sf.n_of_m_masks": (sf.n_of_m_masks, lambda: {"model": model(), "pattern": {"0.*": (1, 2)}}),
    "sf.dense_masks": (sf.dense_masks, lambda: {"model": model()}),
    "sf.diagnose": (sf.diagnose, lambda: {
        "model": masked(), "masks": masks(), "batches": batches(), "total_steps": 100}),
    "sf.masks_from_edges": (sf.masks_from_edges, lambda: {"model": model(), "edges": {"0.weight": [
        (index, index % 5) for index in range(6)]}}),
    "sf.drop_and_grow": (sf.drop_and_grow, lambda: {
        "mask": torch.eye(4, dtype=torch.bool), "drop_score": torch.rand(4, 4), "grow_score": torch.rand(4, 4),
        "num_drop": 1, "num_grow": 1}),
    "sf.gradient_flow": (sf.gradient_flow, lambda: {
        "model": masked(), "loss_fn": F.cross_entropy, "batches": batches(), "masks": masks()}),
    "sf.grasp": (sf.grasp, lambda: {"model": model(), "loss_fn": F.cross_entropy, "batches": batches()}),
    "sf.snip": (sf.snip, lambda: {"model": model(), "loss_fn": F.cross_entropy, "batches": batches()}),
    "sf.fisher_obd": (sf.fisher_obd, lambda: {"model": model(), "loss_fn": F.cross_entropy, "batches": batches()}),
    "sf.hutchinson_obd": (sf.hutchinson_obd, lambda: {
        "model": model(), "loss_fn": F.cross_entropy, "batches": batches(), "samples": 2, "seed": 0}),
    "sf.initialize_": (sf.initialize_, lambda: {
        "model": model(), "masks": masks(), "scheme": "sparse", "seed": 0, "base": "kaiming_normal"}),
    "sf.live_inputs": (sf.live_inputs, lambda: {
        "model": model(), "masks": masks(), "example_inputs": torch.ones(1, 6)}),
    "sf.magnitude_masks": (sf.magnitude_masks, lambda: {
        "model": model(), "sparsity": 0.5, "scope": "layer", "allocation": "uniform"}),
    "sf.mask_statistics": (sf.mask_statistics, lambda: {"mask": torch.ones(3, 4, dtype=torch.bool)}),
    "sf.overlap": (sf.overlap, lambda: {"a": masks(), "b": masks()}),
    "sf.prunable": (sf.prunable, lambda: {"model": model()}),
    "sf.constant_fan_in_masks": (sf.constant_fan_in_masks, lambda: {
        "model": model(), "sparsity": 0.5, "allocation": "uniform", "seed": 0}),
    "sf.receptive_field_masks": (sf.receptive_field_masks, lambda: {
        "model": model(), "sparsity": 0.5, "randomness": 0.25, "degrees": "fixed", "allocation": "uniform", "seed": 0}),
    "sf.random_masks": (sf.random_masks, lambda: {
        "model": model(), "sparsity": 0.5, "allocation": "uniform", "seed": 0}),
    "sf.score_masks": (sf.score_masks, lambda: {
        "scores": {"a": torch.rand(3, 4)}, "sparsity": 0.5, "scope": "global", "allocation": "uniform"}),
    "sf.sparsity_of": (sf.sparsity_of, lambda: {"masks": masks()}),
    "sf.sparsity_report": (sf.sparsity_report, lambda: {"model": masked(), "masks": masks(), "target": 0.5}),
    "sf.synflow_masks": (sf.synflow_masks, lambda: {
        "model": model(), "sparsity": 0.5, "example_inputs": torch.ones(1, 6), "rounds": 2}),
    "analysis.dead_units": (analysis.dead_units, lambda: {
        "model": masked(), "batches": batches(), "masks": masks()}),
    "analysis.area_under_log_loss": (analysis.area_under_log_loss, lambda: {
        "alphas": [0.0, 0.5, 1.0], "losses": [1.0, 2.0, 1.0]}),
    "analysis.barrier": (analysis.barrier, lambda: {"alphas": [0.0, 0.5, 1.0], "losses": [1.0, 2.0, 1.0]}),
    "analysis.bulk_distance": (analysis.bulk_distance, lambda: {
        "a": torch.rand(30) + 1, "b": torch.rand(30) + 1, "threshold": 0.01, "outliers": 2}),
    "analysis.collect_logits": (analysis.collect_logits, lambda: {"model": model(), "batches": batches()}),
    "analysis.compare_functions": (analysis.compare_functions, lambda: {
        "logits": logits(), "labels": torch.randint(4, (8,))}),
    "analysis.cosine_similarity": (analysis.cosine_similarity, lambda: {"a": torch.ones(4), "b": torch.ones(4)}),
    "analysis.descent": (analysis.descent, lambda: {
        "model": model(), "loss_fn": F.cross_entropy, "batches": batches(), "learning_rate": 0.1}),
    "analysis.disagreement": (analysis.disagreement, lambda: {"a": torch.rand(8, 4), "b": torch.rand(8, 4)}),
    "analysis.distance_matrix": (analysis.distance_matrix, lambda: {"vectors": [torch.ones(3), torch.zeros(3)]}),
    "analysis.eigenvalues": (analysis.eigenvalues, lambda: {"hessian": hessian()}),
    "analysis.ensemble_accuracy": (analysis.ensemble_accuracy, lambda: {
        "logits": logits(), "labels": torch.randint(4, (8,)), "how": "probabilities"}),
    "analysis.ensemble_predictions": (analysis.ensemble_predictions, lambda: {
        "logits": logits(), "how": "probabilities"}),
    "analysis.hessian": (analysis.hessian, lambda: {
        "model": masked(), "batches": batches(), "masks": masks(), "loss_fn": F.cross_entropy, "method": "auto",
        "max_bytes": 2**30}),
    "analysis.hessian_product": (analysis.hessian_product, lambda: {
        "model": masked(), "batches": batches(), "masks": masks(), "graph_bytes": 2**30}),
    "analysis.kl_divergence": (analysis.kl_divergence, lambda: {
        "p_logits": torch.rand(8, 4), "q_logits": torch.rand(8, 4)}),
    "analysis.l2_distance": (analysis.l2_distance, lambda: {"a": torch.ones(4), "b": torch.ones(4)}),
    "analysis.lanczos": (analysis.lanczos, lambda: {
        "product": lambda x: hessian() @ x, "size": 6, "steps": 3, "generator": draws(), "dtype": torch.float64}),
    "analysis.lanczos_density": (analysis.lanczos_density, lambda: {
        "product": lambda x: hessian() @ x, "size": 6, "steps": 3, "probes": 2, "points": 500, "margin": 0.01,
        "relative_variance": 1e-4, "generator": draws(), "dtype": torch.float64}),
    "analysis.extreme_eigenpairs": (analysis.extreme_eigenpairs, lambda: {
        "product": lambda x: hessian() @ x, "size": 6, "generator": draws(), "dtype": torch.float64, "largest": 1,
        "smallest": 1, "tolerance": 1e-5, "max_products": 100, "basis_size": 5}),
    "analysis.metric_mds": (analysis.metric_mds, lambda: {
        "distances": torch.ones(4, 4) - torch.eye(4), "dimensions": 2, "restarts": 2, "generator": draws(),
        "tolerance": 1e-6, "max_iterations": 20}),
    "analysis.norm_matched_distance": (analysis.norm_matched_distance, lambda: {
        "vector": torch.ones(4), "reference": torch.zeros(4), "generator": draws()}),
    "analysis.pairwise_disagreement": (analysis.pairwise_disagreement, lambda: {"logits": logits()}),
    "analysis.disagreement_with_reference": (analysis.disagreement_with_reference, lambda: {
        "logits": logits(), "reference": torch.rand(8, 4)}),
    "analysis.parameter_vector": (analysis.parameter_vector, lambda: {"state": state(), "masks": masks()}),
    "analysis.plane": (analysis.plane, lambda: {
        "origin": state(), "a": {k: v + 1 for k, v in state().items()},
        "b": {k: v + torch.rand_like(v) for k, v in state().items()}}),
    "analysis.linear_path": (analysis.linear_path, lambda: {
        "model": model(), "start": state(), "end": state(), "batches": batches(), "alphas": (0.0, 1.0)}),
    "analysis.positive_bulk": (analysis.positive_bulk, lambda: {
        "eigenvalues": torch.rand(30), "floor": 0.01, "outliers": 2}),
    "analysis.rayleigh_quotient": (analysis.rayleigh_quotient, lambda: {
        "hessian": hessian(), "gradient": torch.ones(6, dtype=torch.float64)}),
    "analysis.signal": (analysis.signal, lambda: {"model": masked(), "inputs": torch.ones(4, 6), "masks": masks()}),
    "analysis.spectral_density": (analysis.spectral_density, lambda: {
        "eigenvalues": torch.rand(30), "relative_variance": 1e-4, "points": 500, "margin": 0.01}),
    "analysis.summarize": (analysis.summarize, lambda: {"eigenvalues": torch.rand(30), "threshold": 0.01}),
    "analysis.active_parameters": (analysis.active_parameters, lambda: {"model": masked(), "masks": masks()}),
    "engine.convert": (sf.engine.convert, lambda: {"model": masked(), "masks": masks()}),
    "engine.convertible": (sf.engine.convertible, lambda: {"model": masked(), "masks": masks()}),
    "engine.dense_state_dict": (sf.engine.dense_state_dict, lambda: {"model": model()}),
    "engine.masks_of": (sf.engine.masks_of, lambda: {"model": model()}),
    "engine.to_dense": (sf.engine.to_dense, lambda: {"model": model()}),
    "engine.sparse_layers": (sf.engine.sparse_layers, lambda: {"model": model()}),
    "tickets.keep_signs_": (tickets.keep_signs_, lambda: {"model": masked(), "masks": masks()}),
    "tickets.perturb_": (tickets.perturb_, lambda: {
        "model": masked(), "masks": masks(), "relative_std": 0.1, "seed": 0}),
    "tickets.rewind_": (tickets.rewind_, lambda: {"model": masked(), "state": state(), "masks": masks()}),
    "tickets.shuffle_masks": (tickets.shuffle_masks, lambda: {"masks": masks(), "seed": 0}),
    "tickets.shuffle_weights_": (tickets.shuffle_weights_, lambda: {"model": masked(), "masks": masks(), "seed": 0}),
    "tickets.snapshot": (tickets.snapshot, lambda: {"model": model()}),
    "tickets.reset_optimizer_": (tickets.reset_optimizer_, lambda: {
        "optimizer": torch.optim.SGD(model().parameters(), lr=0.1)}),
    "init.exact_orthogonal_": (init.exact_orthogonal_, lambda: {
        "weight": torch.zeros(5, 6), "count": 12, "gain": 1.0, "generator": draws()}),
    "init.exact_orthogonal_model_": (init.exact_orthogonal_model_, lambda: {
        "model": model(), "masks": masks(), "gain": 1.0, "seed": 0}),
    "init.sparse_orthogonal": (init.sparse_orthogonal, lambda: {
        "rows": 5, "columns": 6, "count": 12, "generator": draws()}),
    "init.fisher_diagonal": (init.fisher_diagonal, lambda: {
        "model": model(), "loss_fn": F.cross_entropy, "batches": batches()}),
    "init.hutchinson_diagonal": (init.hutchinson_diagonal, lambda: {
        "model": model(), "loss_fn": F.cross_entropy, "batches": batches(), "samples": 2, "seed": 0}),
    "init.supar_ratios": (init.supar_ratios, lambda: {
        "model": model(), "masks": masks(), "base": model(), "output": ["2.weight"]}),
    "init.supar_initialize_": (init.supar_initialize_, lambda: {
        "model": model(), "masks": masks(), "ratios": ratios(), "std": 0.1, "seed": 0}),
    "init.supar_groups": (init.supar_groups, lambda: {"model": model(), "ratios": ratios(), "lr": 0.1}),
    "init.xavier_normal_": (init.xavier_normal_, lambda: {**weight(), "gain": 1.0, "scaling": "unit"}),
    "init.xavier_uniform_": (init.xavier_uniform_, lambda: {**weight(), "gain": 1.0, "scaling": "unit"}),
    **{f"init.{name}": (getattr(init, name), lambda: {
        **weight(), "a": 0.0, "mode": "fan_in", "nonlinearity": "relu", "scaling": "unit"})
       for name in ("kaiming_normal_", "kaiming_uniform_", "kaiming_truncated_normal_")},
    "init.flip_silent_": (init.flip_silent_, lambda: {
        "weight": -torch.ones(5, 6), "outputs": -torch.ones(3, 5)}),
    "init.silence_unit_": (init.silence_unit_, lambda: {
        "weight": torch.ones(5, 6), "generator": torch.Generator().manual_seed(0)}),
    "init.scale_to_mask_": (init.scale_to_mask_, lambda: {
        "weight": torch.ones(5, 6), "mask": torch.eye(5, 6, dtype=torch.bool), "mode": "fan_in", "scaling": "unit"}),
    "methods.GMP": (sf.GMP, lambda: {
        "sparsity": 0.9, "begin": 0, "end": 10, "update_every": 2, "initial_sparsity": 0.1, "scope": "layer"}),
    "methods.OneShot": (sf.OneShot, lambda: {"sparsity": 0.9, "at": 3, "scope": "layer"}),
    **{f"methods.{name}": (getattr(sf, name), lambda: {
        "drop_fraction": 0.3, "update_every": 10, "update_until": 100, "schedule": "cosine"})
       for name in ("MEST", "RigL", "RigLInverted", "SET")},
    "methods.SNFS": (sf.SNFS, lambda: {"decay": 0.9, "drop_fraction": 0.3, "update_every": 10, "update_until": 90,
        "schedule": "cosine"}),
}  # fmt: skip
