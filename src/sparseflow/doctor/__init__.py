"""Why a sparse network does not learn: :func:`sparseflow.diagnose` and the causes that it knows."""

from sparseflow.doctor.causes import CAUSES, Cause
from sparseflow.doctor.diagnosing import diagnose
from sparseflow.doctor.finding import Diagnosis, Finding

__all__ = ["CAUSES", "Cause", "Diagnosis", "Finding", "diagnose"]
