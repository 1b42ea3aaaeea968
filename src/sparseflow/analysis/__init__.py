"""Why a sparse network learns or does not; nothing here changes the model it looks at."""

from sparseflow.analysis.dead_units import DeadUnits, dead_units
from sparseflow.analysis.distances import (
    NormMatched,
    cosine_similarity,
    distance_matrix,
    l2_distance,
    norm_matched_distance,
    parameter_vector,
)
from sparseflow.analysis.divergences import js_divergence, kl_divergence
from sparseflow.analysis.eigenpairs import Eigenpairs, extreme_eigenpairs
from sparseflow.analysis.embedding import Embedding, metric_mds
from sparseflow.analysis.ensembles import ENSEMBLES, collect_logits, ensemble_accuracy, ensemble_predictions
from sparseflow.analysis.flow import Descent, GradientFlow, UpdateFlow, descent, gradient_flow, record_update_flow
from sparseflow.analysis.hessian import hessian
from sparseflow.analysis.lanczos import (
    Estimate,
    LanczosDensity,
    LanczosSpectrum,
    Tridiagonal,
    lanczos,
    lanczos_density,
    lanczos_spectrum,
)
from sparseflow.analysis.landscape import ALPHAS, PathLosses, area_under_log_loss, barrier, linear_path
from sparseflow.analysis.layout import ActiveLayout, active_parameters
from sparseflow.analysis.planes import Plane, PlaneLosses, plane, plane_losses
from sparseflow.analysis.products import HessianProduct, hessian_product
from sparseflow.analysis.signal import LayerSignal, signal
from sparseflow.analysis.similarity import (
    Similarity,
    Spread,
    compare_functions,
    disagreement,
    disagreement_with_reference,
    pairwise_disagreement,
)
from sparseflow.analysis.smoothing import Density, spectral_density
from sparseflow.analysis.spectrum import (
    SpectrumSummary,
    bulk_distance,
    eigenvalues,
    positive_bulk,
    rayleigh_quotient,
    summarize,
)

__all__ = [
    "ALPHAS",
    "ENSEMBLES",
    "ActiveLayout",
    "DeadUnits",
    "Density",
    "Descent",
    "Eigenpairs",
    "Embedding",
    "Estimate",
    "GradientFlow",
    "HessianProduct",
    "LanczosDensity",
    "LanczosSpectrum",
    "LayerSignal",
    "NormMatched",
    "PathLosses",
    "Plane",
    "PlaneLosses",
    "Similarity",
    "SpectrumSummary",
    "Spread",
    "Tridiagonal",
    "UpdateFlow",
    "active_parameters",
    "area_under_log_loss",
    "barrier",
    "bulk_distance",
    "collect_logits",
    "compare_functions",
    "cosine_similarity",
    "dead_units",
    "descent",
    "disagreement",
    "disagreement_with_reference",
    "distance_matrix",
    "eigenvalues",
    "ensemble_accuracy",
    "ensemble_predictions",
    "extreme_eigenpairs",
    "gradient_flow",
    "hessian",
    "hessian_product",
    "js_divergence",
    "kl_divergence",
    "l2_distance",
    "lanczos",
    "lanczos_density",
    "lanczos_spectrum",
    "linear_path",
    "metric_mds",
    "norm_matched_distance",
    "pairwise_disagreement",
    "parameter_vector",
    "plane",
    "plane_losses",
    "positive_bulk",
    "rayleigh_quotient",
    "record_update_flow",
    "signal",
    "spectral_density",
    "summarize",
]
