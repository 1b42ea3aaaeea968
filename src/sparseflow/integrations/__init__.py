"""Trainers of other libraries, one module each: its callback keeps the model sparse, and saves and resumes the masks.

Each module imports its library; nothing else of sparseflow does.
"""

from __future__ import annotations


def missing(package: str, error: ImportError) -> ImportError:
    """The error for a library that is not installed, or whose own import fails.

    >>> print(missing("peft", ModuleNotFoundError("No module named 'peft'", name="peft")))
    sparseflow.integrations.peft needs peft: pip install "sparseflow[integrations]".
    """
    reason = "" if error.name == package else f" Importing it failed: {error}."
    text = f'sparseflow.integrations.{package} needs {package}: pip install "sparseflow[integrations]".{reason}'
    return type(error)(text, name=error.name)
