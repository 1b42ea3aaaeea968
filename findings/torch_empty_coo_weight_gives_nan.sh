#!/usr/bin/env bash
# Guess: torch.addmm(input, a, b, beta=0) does not look at input, "and nan and inf in it will not be propagated", as its
# documentation says, whatever the layout of a and however few entries it has.
# Seen: so it is for dense, CSR and CSC matrices, and for COO matrices with at least one entry. For a COO matrix without
# entries, a layer of which everything is pruned, the result is 0 * input: nan where the buffer held nan or inf. It
# shows only when a layer has become empty.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/nan.py" <<'PYTHON'
import torch

b = torch.ones(2, 3)
unwritten = torch.full((2, 3), float("nan"))
print("torch", torch.__version__)
found = {}
for entries, a in ((1, torch.tensor([[1.0, 0.0], [0.0, 0.0]])), (0, torch.zeros(2, 2))):
    for name, matrix in (("dense", a), ("CSR", a.to_sparse_csr()), ("CSC", a.to_sparse_csc()), ("COO", a.to_sparse())):
        result = torch.addmm(unwritten, matrix, b, beta=0)
        found[entries, name] = bool(result.isnan().any())
        print(f"{entries} entries, {name}:", result.tolist())
wrong = [key for key, has_nan in found.items() if has_nan]
assert wrong == [(0, "COO")], "they agree now: this finding is out of date"
PYTHON
"$folder/venv/bin/python" "$folder/nan.py"
