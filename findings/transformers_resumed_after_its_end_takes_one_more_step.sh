#!/usr/bin/env bash
# Guess: a Trainer that resumes from the checkpoint of a run's last step, max_steps, has nothing left to do and trains nothing.
# Seen: it takes one more step, and one more each time: whether max_steps is reached is asked after a step, never before the
# first. The step count goes beyond max_steps and, unless the schedule has brought the learning rate to zero, weights move. So a
# script that resumes whenever there is a checkpoint does not give the same model when it is typed a second time.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 transformers==5.24.0 accelerate==1.15.0
cat > "$folder/again.py" <<'PYTHON'
import sys

import torch
import transformers


class Line(torch.nn.Module):
    """y = w x."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1, bias=False)

    def forward(self, x, labels):
        return {"loss": (self.layer(x) - labels).square().mean()}


def train(resume):
    """The step count and the weight at the end of a run of four steps."""
    torch.manual_seed(0)
    options = {"max_steps": 4, "save_steps": 2, "lr_scheduler_type": "constant", "learning_rate": 0.1, "use_cpu": True}
    arguments = transformers.TrainingArguments(sys.argv[1], report_to="none", disable_tqdm=True, **options)
    rows = [{"x": torch.ones(1), "labels": torch.full((1,), 9.0)} for _ in range(100)]
    trainer = transformers.Trainer(Line(), arguments, train_dataset=rows)
    trainer.train(resume_from_checkpoint=resume)
    return trainer.state.global_step, round(trainer.model.layer.weight.item(), 4)


ends = [train(resume) for resume in (False, True, True)]
print("transformers", transformers.__version__)
print("steps and weight of a run of 4 steps:", ends[0])
print("resumed after its end:               ", ends[1])
print("once more:                           ", ends[2])
assert ends[0][0] == 4
assert [end[0] for end in ends[1:]] != [4, 4], "nothing is trained any more: this finding is out of date"
assert ends[1][1] != ends[0][1], "the weight stays now: this finding is out of date"
PYTHON
"$folder/venv/bin/python" "$folder/again.py" "$folder/runs"
