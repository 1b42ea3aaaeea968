"""The beginning of the real text, for runs of which a test looks at other things than how well they predict."""

from __future__ import annotations

from sparseflow.data.text import Text, load_text


def short_text(package: str) -> Text:
    """The first 200,000 bytes for training, and 5,000 each for validation and test."""
    text = load_text(package)
    return Text(text.training[:200_000], text.validation[:5_000], text.test[:5_000])
