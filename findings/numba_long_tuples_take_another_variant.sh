#!/usr/bin/env bash
# Guess: a compiled function that takes *arguments runs the variant that was compiled for the types it is given.
# Seen: with 25 arrays Numba 0.60 does not. Called with int16 first, it stops at the same call with int32 or float32, for
# which it has compiled variants of their own: "can't unbox array". 9 arrays are told apart, and 0.61 tells 25 apart.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/variants.py" <<'PYTHON'
import sys

import numba
import numpy as np


def answers(extra):
    """What a function says of an array of each type, called with `extra` more arrays."""

    @numba.njit
    def first(*arguments):
        return arguments[0][0]

    def said(dtype):
        try:
            return float(first(np.ones(4, dtype), *[np.ones(4)] * extra))
        except TypeError:
            return "refused"

    kinds = ("int16", "int32", "float32")
    for kind in kinds:
        said(kind)
    return [said(kind) for kind in kinds]


few, many = answers(8), answers(24)
print("numba", numba.__version__, "9 arrays:", few, "25 arrays:", many)
assert few == [1, 1, 1]
if sys.argv[1] == "wrong":
    assert many == [1, "refused", "refused"], "25 arrays are told apart now: this finding is out of date"
else:
    assert many == [1, 1, 1]
PYTHON
for release in 0.60.0 0.61.0; do
  python3 -m venv "$folder/$release"
  "$folder/$release/bin/pip" install --quiet --disable-pip-version-check numba==$release numpy==1.26.4
done
"$folder/0.60.0/bin/python" "$folder/variants.py" wrong
"$folder/0.61.0/bin/python" "$folder/variants.py" right
