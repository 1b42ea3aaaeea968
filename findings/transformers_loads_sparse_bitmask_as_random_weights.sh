#!/usr/bin/env bash
# Guess: a checkpoint in sparse-bitmask, a format that compressed-tensors 0.20.1 still lists and whose configuration it
# parses, is decompressed by transformers' from_pretrained, or refused with an error.
# Seen: neither. compressed-tensors dropped the decompressor in 0.15 and kept the configuration. from_pretrained returns a
# model whose sparse weights are drawn at random, others in every call; it logs MISSING and UNEXPECTED keys, as it does for
# a new head, and raises nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
pip torch==2.13.0 numpy==2.4.6 transformers==5.24.0 compressed-tensors==0.20.1
pip --no-deps compressed-tensors==0.14.0  # to write; it asks for an older transformers, and writes with this one too
cat > "$folder/write.py" <<'PYTHON'
import sys

import torch
from compressed_tensors import ModelCompressor
from compressed_tensors.config import SparsityCompressionConfig
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 24}
model = LlamaForCausalLM(LlamaConfig(**sizes))
for name, weight in model.named_parameters():
    if "proj" in name:
        weight.data *= torch.rand(weight.shape) < 0.3
torch.save(model.state_dict(), f"{sys.argv[1]}/dense.pt")
config = SparsityCompressionConfig.load_from_registry(
    "sparse-bitmask", sparsity_structure="unstructured", targets=["Linear"], ignore=["lm_head"], global_sparsity=0.7
)
compressor = ModelCompressor(sparsity_config=config)
model.save_pretrained(f"{sys.argv[1]}/model", state_dict=compressor.compress(model))
compressor.update_config(f"{sys.argv[1]}/model")
PYTHON
"$folder/venv/bin/python" "$folder/write.py" "$folder" > "$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
pip --no-deps compressed-tensors==0.20.1
cat > "$folder/read.py" <<'PYTHON'
import sys

import compressed_tensors
import torch
import transformers
from compressed_tensors.config import CompressionFormat

print("transformers", transformers.__version__, "compressed-tensors", compressed_tensors.__version__)
print("listed:", CompressionFormat("sparse-bitmask"))
saved = torch.load(f"{sys.argv[1]}/dense.pt")
loads = [transformers.AutoModelForCausalLM.from_pretrained(f"{sys.argv[1]}/model").state_dict() for _ in range(2)]
name = "model.layers.0.mlp.up_proj.weight"
print("zeros in the weight that was saved:", float((saved[name] == 0).float().mean()))
print("zeros in what is loaded:           ", [float((state[name] == 0).float().mean()) for state in loads])
print("the same in both loads:", torch.equal(loads[0][name], loads[1][name]))
assert torch.equal(loads[0]["lm_head.weight"], saved["lm_head.weight"])
assert not any(torch.equal(state[name], saved[name]) for state in loads), "it is loaded now: this finding is out of date"
assert not torch.equal(loads[0][name], loads[1][name]), "it is not random now: this finding is out of date"
PYTHON
"$folder/venv/bin/python" "$folder/read.py" "$folder" 2>/dev/null
