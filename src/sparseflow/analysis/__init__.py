"""Why a sparse network learns or does not; nothing here changes the model it looks at."""

from sparseflow.analysis.flow import Descent, GradientFlow, UpdateFlow, descent, gradient_flow, record_update_flow
from sparseflow.analysis.signal import LayerSignal, signal

__all__ = [
    "Descent",
    "GradientFlow",
    "LayerSignal",
    "UpdateFlow",
    "descent",
    "gradient_flow",
    "record_update_flow",
    "signal",
]
