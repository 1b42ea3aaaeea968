#!/usr/bin/env bash
# Guess: torch.sqrt of a float32 tensor takes the same time whatever is in it, as the processor's own instruction does.
# Seen: with 90 % exact zeros it takes about five times as long (denormals: about thirty), because torch calls Intel's
# vector mathematics (vmsSqrt), whose fast loop leaves zeros out. An optimizer whose second moments are mostly zero, as
# under masks, pays for that at every step; fused optimizers take roots by the instruction and do not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 torch==2.13.0
cat > "$folder/roots.py" <<'PYTHON'
import time

import numpy as np
import torch

torch.set_num_threads(1)
values = torch.rand(1 << 16, generator=torch.Generator().manual_seed(0)) + 0.1
zeros = values * (torch.arange(1 << 16) % 10 == 0)


def best(run):
    times = []
    for _ in range(500):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


print("torch", torch.__version__)
torch_ratio = best(lambda: torch.sqrt(zeros)) / best(lambda: torch.sqrt(values))
numpy_ratio = best(lambda: np.sqrt(zeros.numpy())) / best(lambda: np.sqrt(values.numpy()))
print(f"time with 90 % zeros over time with none: torch {torch_ratio:.1f}, numpy {numpy_ratio:.1f}")
assert torch.backends.mkl.is_available()
assert torch_ratio > 2, "torch takes roots of zeros as fast as others now"
assert numpy_ratio < 1.5
PYTHON
"$folder/venv/bin/python" "$folder/roots.py"
