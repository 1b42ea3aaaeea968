#!/usr/bin/env bash
# Guess: in a compiled function y[:] = x copies an array at least as fast as a loop over its numbers does, as it is one copy
# of memory in NumPy.
# Seen: it takes four times as long: about one number a cycle, where the loop moves vectors.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numba==0.68.1 numpy==2.4.6
cat > "$folder/copies.py" <<'PYTHON'
import time

import numba
import numpy as np


@numba.njit
def by_slice(x, y):
    y[:] = x


@numba.njit
def by_loop(x, y):
    for i in range(x.shape[0]):
        y[i] = x[i]


def shortest(copy, x, y):
    copy(x, y)
    found = []
    for _ in range(200):
        begin = time.perf_counter()
        copy(x, y)
        found.append(time.perf_counter() - begin)
    return min(found)


x, y = np.ones(50_000, np.float32), np.zeros(50_000, np.float32)  # 200 KB: in the cache
seconds = {copy.__name__: shortest(copy, x, y) for copy in (by_slice, by_loop)}
assert np.array_equal(x, y)
print("numba", numba.__version__, {name: f"{x.nbytes / s / 1e9:.0f} GB/s" for name, s in seconds.items()})
ratio = seconds["by_slice"] / seconds["by_loop"]
print(f"the assignment takes {ratio:.1f} times as long as the loop")
assert ratio > 1.5, "the assignment is as fast as the loop: this finding is out of date"
PYTHON
"$folder/venv/bin/python" "$folder/copies.py"
