"""Numbers and lists as they stand in a sentence or a cell."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: Data set -> (contents, training images, test images), for a page's first paragraph.
DATASETS_IN_WORDS = {
    "mnist-5k": ("real handwritten digits (5000 of MNIST's)", 4000, 1000),
    "mnist": ("real handwritten digits (MNIST)", 60000, 10000),
    "fashion-mnist": ("pictures of clothes (Fashion-MNIST)", 60000, 10000),
    "cifar10": ("small photographs (CIFAR-10)", 50000, 10000),
}
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power_of_ten(exponent: int) -> str:
    """A power of ten in plain text, which unlike mathematical layout takes any font.

    >>> power_of_ten(-12)
    '10⁻¹²'
    """
    return f"10{str(exponent).translate(_SUPERSCRIPTS)}"


def number(value: float, digits: int = 3) -> str:
    """A number to ``digits`` significant digits, without an ``e``.

    >>> number(0.03412), number(-12.0), number(1234.5, 2), number(0.0000131)
    ('0.0341', '−12', '1200', '1.31 × 10⁻⁵')
    """
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        text = f"{float(f'{value:.{digits}g}'):f}"
        return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa} × {power_of_ten(int(exponent))}".replace("-", "−")


def listed(parts: Sequence[str]) -> str:
    """Parts joined by commas and an "and".

    >>> listed(["SET"]), listed(["Scratch", "SET", "RigL"])
    ('SET', 'Scratch, SET and RigL')
    """
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def plus_minus(mean: float, std: float, digits: int) -> str:
    """A mean with its standard deviation, or without where there is none; "-" for no number.

    >>> plus_minus(97.7, 0.09, 2), plus_minus(98.53, math.nan, 2), plus_minus(math.nan, math.nan, 2)
    ('97.70 ± 0.09', '98.53', '-')
    """
    if math.isnan(mean):
        return "-"
    return fixed(mean, digits) + ("" if math.isnan(std) else f" ± {fixed(std, digits)}")


def fixed(value: float, digits: int) -> str:
    """A number with ``digits`` decimals, and a true minus.

    >>> fixed(-0.0312, 2)
    '−0.03'
    """
    return f"{value:.{digits}f}".replace("-", "−")


def interval(low: float, high: float, digits: int) -> str:
    """An interval, or nothing where there is none.

    >>> interval(-1.0, 2.0, 1), interval(math.nan, math.nan, 1)
    ('−1.0 to 2.0', '')
    """
    return "" if math.isnan(low) else f"{fixed(low, digits)} to {fixed(high, digits)}"


def times(ratio: float) -> str:
    """A ratio, as a number of times.

    >>> times(3.217), times(0.25), times(1234.0)
    ('3.2 times', '0.25 times', '1200 times')
    """
    return f"{number(ratio, 2)} times"


def yes_no(answer: bool | None) -> str:
    """An answer, or "-" where there is none."""
    return "-" if answer is None else "yes" if answer else "no"


def signed(value: float) -> str:
    """A change, with its sign.

    >>> signed(0.08), signed(-0.08)
    ('+0.08', '−0.08')
    """
    return ("+" if value > 0 else "") + number(value, 2)


def count(found: int, noun: str, plural: str = "") -> str:
    """A count with its noun.

    >>> count(1, "claim"), count(3, "claim"), count(2, "search", "searches")
    ('1 claim', '3 claims', '2 searches')
    """
    return f"{found} {noun if found == 1 else plural or f'{noun}s'}"
