"""Checks for methods of your own, as scikit-learn's ``check_estimator`` is for estimators.

The library's own methods are held to the same promises by the same functions, under eight optimizers.
"""

from sparseflow.testing.method import check_method
from sparseflow.testing.promises import PROMISES
from sparseflow.testing.trial import Trial

__all__ = ["PROMISES", "Trial", "check_method"]
