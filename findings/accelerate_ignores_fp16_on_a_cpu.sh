#!/usr/bin/env bash
# Guess: on a CPU, TrainingArguments(fp16=True) either trains in float16 with a GradScaler, as torch does there with torch.autocast("cpu",
# torch.float16), or is refused, as accelerate refuses fp16 on a device that it does not know.
# Seen: neither. A Linear gives float32, there is no scaler, no warning, and the Accelerator says mixed_precision "fp16". bf16=True does give
# bfloat16. accelerate leaves a CPU out of the branch that would refuse it, so what a run of fp16 shows on a CPU is float32.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 transformers==5.24.0 accelerate==1.15.0
cat > "$folder/half.py" <<'PYTHON'
import sys
import warnings

import accelerate
import torch
import transformers


class Line(torch.nn.Module):
    """y = w x."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1, bias=False)

    def forward(self, x, labels):
        found = self.layer(x)
        dtypes.add(found.dtype)
        return {"loss": (found - labels).square().mean()}


print("transformers", transformers.__version__, "accelerate", accelerate.__version__, "torch", torch.__version__)
ones = torch.ones(1, 1)
with torch.autocast("cpu", torch.float16):
    by_torch = torch.nn.functional.linear(ones, ones).dtype
print("torch.autocast on a CPU:", by_torch)
rows = [{"x": torch.ones(1), "labels": torch.ones(1)} for _ in range(40)]
ends = {}
for name in ("fp16", "bf16"):
    dtypes = set()
    options = {name: True, "max_steps": 2, "use_cpu": True, "save_strategy": "no", "report_to": "none"}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer = transformers.Trainer(
            Line(), transformers.TrainingArguments(sys.argv[1], disable_tqdm=True, **options), train_dataset=rows
        )
        trainer.train()
    about = [str(each.message) for each in said if "16" in str(each.message) or "precision" in str(each.message)]
    ends[name] = (dtypes, trainer.accelerator.mixed_precision, trainer.accelerator.scaler, about)
    print(f"{name}: a Linear gives {dtypes}, mixed_precision={ends[name][1]!r}, scaler={ends[name][2]}, warnings={about}")
assert by_torch == torch.float16, "torch has no float16 on a CPU"
assert ends["bf16"][0] == {torch.bfloat16}, "bf16 is not honoured either"
assert ends["fp16"] == ({torch.float32}, "fp16", None, []), "fp16 is honoured, refused or warned of: out of date"
PYTHON
"$folder/venv/bin/python" "$folder/half.py" "$folder/runs"
