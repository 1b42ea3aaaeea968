#!/usr/bin/env bash
# Guess: torch.linalg.vector_norm(x, 1, dim=1) over an axis of four costs no more than x.abs().sum(1), which also writes
# all absolute values to memory; a norm exists to spare that pass.
# Seen: it takes some fifty to a hundred times as long, on one thread, in float32, for the orders 1 and 2 alike and along
# the last axis too: the kernel sets up a reduction for each of the results, which here are a quarter of the numbers.
# Block scores of masks (four outputs that share an input) are such sums; add the four rows up one by one instead.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 torch==2.13.0
cat > "$folder/norms.py" <<'PYTHON'
import time

import torch

torch.set_num_threads(1)
values = torch.rand(256, 4, 1024, generator=torch.Generator().manual_seed(0))
last = values.transpose(1, 2).contiguous()


def best(run):
    times = []
    for _ in range(20):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


print("torch", torch.__version__)
plain = best(lambda: values.abs().sum(1))
for name, run in {
    "order 1": lambda: torch.linalg.vector_norm(values, 1, dim=1),
    "order 2": lambda: torch.linalg.vector_norm(values, 2, dim=1),
    "order 1, last axis": lambda: torch.linalg.vector_norm(last, 1, dim=2),
}.items():
    ratio = best(run) / plain
    print(f"{name}: {ratio:.0f} times as long as abs().sum()")
    assert ratio > 10, "norms over a short axis are no slower than sums by an order of magnitude now"
assert torch.allclose(torch.linalg.vector_norm(values, 1, dim=1), values.abs().sum(1))
PYTHON
"$folder/venv/bin/python" "$folder/norms.py"
