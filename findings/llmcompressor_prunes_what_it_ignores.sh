#!/usr/bin/env bash
# Guess: SparseGPTModifier(ignore=["lm_head"]) leaves lm_head as it is, as QuantizationModifier(ignore=["lm_head"]) of the same library does
# and as the docstring says ("submodule names to not" prune).
# Seen: it prunes lm_head like every other layer, and says nothing. The modifier looks a name up as f"{layer}.{inside}", and of a layer that
# is itself the target the inside is empty: "lm_head." is no name in the list. Its own warning about lm_head, which tests the end of
# the same string, does not come either. Only a pattern is honoured: "re:.*lm_head".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check llmcompressor==0.14.0.1 torch==2.13.0
cat > "$folder/ignore.py" <<'PYTHON'
import sys

import llmcompressor
import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import SparseGPTModifier
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

folder = sys.argv[1]
torch.manual_seed(0)
sizes = {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 1, "vocab_size": 24, "head_dim": 6}
LlamaForCausalLM(LlamaConfig(num_attention_heads=2, num_key_value_heads=1, **sizes)).save_pretrained(folder)
vocabulary = WordLevel({str(number): number for number in range(24)}, unk_token="0")
words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(vocabulary), unk_token="0", pad_token="0")
words.save_pretrained(folder)
tokens = torch.randint(24, (8, 16))
data = Dataset.from_dict({"input_ids": tokens.tolist(), "attention_mask": torch.ones_like(tokens).tolist()})


def zeros(ignore: str) -> float:
    """Share of zeros in lm_head of a model pruned to 70 % with it left out."""
    recipe = SparseGPTModifier(sparsity=0.7, ignore=[ignore])
    pruned = oneshot(
        model=folder, processor=words, dataset=data, recipe=recipe, num_calibration_samples=8, max_seq_length=16
    )
    return float((pruned.lm_head.weight == 0).float().mean())


found = {ignore: zeros(ignore) for ignore in ("lm_head", "re:.*lm_head")}
print("llm-compressor", llmcompressor.__version__, "torch", torch.__version__)
for ignore, share in found.items():
    print(f"ignore=[{ignore!r}]: {share:.0%} of lm_head are zero")
assert found["re:.*lm_head"] == 0, "the pattern is not honoured either"
assert found["lm_head"] > 0.6, "the plain name is honoured: this finding is out of date"
PYTHON
PYTHONWARNINGS=ignore "$folder/venv/bin/python" "$folder/ignore.py" "$folder/model" 2> "$folder/log" || { tail -n 20 "$folder/log" >&2; exit 1; }
