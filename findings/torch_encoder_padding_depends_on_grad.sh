#!/usr/bin/env bash
# Guess: in eval mode nn.TransformerEncoder gives the same numbers under torch.no_grad() as without it, up to rounding.
# Seen: in the place of padding it gives zeros under no_grad, and the numbers of the last layer norm without it: its fast path
# for inference packs the tokens and unpacks them with zeros. It is taken if padding is at the end and batch_first=True. So a
# mean over tokens that forgets the padding mask changes with no_grad, and so does a comparison of two models of which one
# has parameters that require gradients.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/padding.py" <<'PYTHON'
import torch
from torch import nn

torch.manual_seed(0)
encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
x = torch.randn(2, 4, 8)
padding = torch.tensor([[False] * 4, [False, False, True, True]])
with torch.no_grad():
    fast = encoder(x, src_key_padding_mask=padding)
slow = encoder(x, src_key_padding_mask=padding).detach()
tokens = (fast - slow)[~padding].abs().max().item()
print("torch", torch.__version__)
print("largest difference at tokens:", tokens, "; at padding:", (fast - slow)[padding].abs().max().item())
print("largest number at padding under no_grad:", fast[padding].abs().max().item())
assert tokens < 1e-5, "the two ways differ at tokens too"
assert fast[padding].abs().max() == 0, "the fast path leaves no zeros any more: this finding is out of date"
assert slow[padding].abs().max() > 0.1, "the other way leaves zeros too: this finding is out of date"
PYTHON
"$folder/venv/bin/python" "$folder/padding.py"
