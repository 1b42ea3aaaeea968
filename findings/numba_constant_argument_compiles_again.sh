#!/usr/bin/env bash
# Guess: a compiled function that another compiled function calls once with a variable and once with the constant 0, both of
# them int64, is compiled once.
# Seen: it is compiled twice. The constant has a type of its own, Literal[int](0), and the function is specialised for it,
# although nothing in it asks for literals; with large kernels that doubles the time until the first call. An np.int64(0)
# held in a local variable instead of the constant does not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numba==0.68.1 numpy==2.4.6
cat > "$folder/constant.py" <<'PYTHON'
import numba
import numpy as np


@numba.njit
def kernel(x, start):
    return x + start


@numba.njit
def from_a_variable(x, start):
    return kernel(x, start)


@numba.njit
def from_a_constant(x):
    return kernel(x, 0)


@numba.njit
def from_a_local(x):
    zero = np.int64(0)
    return kernel(x, zero)


print("numba", numba.__version__)
from_a_variable(1, 2)
from_a_local(1)
print("variable and local:", kernel.signatures)
assert len(kernel.signatures) == 1, "a local is compiled for, too"
from_a_constant(1)
print("and a constant:    ", kernel.signatures)
assert len(kernel.signatures) == 2, "a constant is no longer compiled for by itself: this finding is out of date"
PYTHON
"$folder/venv/bin/python" "$folder/constant.py"
