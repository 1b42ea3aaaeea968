"""Tasks with two answers that real text poses: which quote, or which bracket, closes what is open."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Name of a task -> its two answers, and what closes with each, as a pattern whose last byte is the answer. What stands
#: between is short and has neither quotes nor brackets, so that the opening one alone decides.
TASKS: dict[str, tuple[tuple[bytes, bytes], tuple[bytes, bytes]]] = {
    "quote": ((b"'", b'"'), (rb"(?<![\w'\"])'[\w ,.-]{2,20}'(?!')", rb"(?<![\w'\"])\"[\w ,.-]{2,20}\"(?!\")")),
    "bracket": ((b")", b"]"), (rb"\([\w ,.]{2,20}\)", rb"\[[\w ,.]{2,20}\]")),
}


@dataclass(frozen=True)
class Prompts:
    """Windows of text and which of two bytes follows each."""

    windows: Tensor
    """``(prompts, context)``, int64."""
    answers: Tensor
    """``(prompts,)``: 0 or 1."""
    choices: tuple[int, int]
    """The two bytes."""

    def loss(self, model: nn.Module) -> Tensor:
        r"""Mean cross-entropy in nats over the two answers alone, :math:`\ln 2` for a guess."""
        logits = model(self.windows)[:, -1, list(self.choices)]
        return F.cross_entropy(logits, self.answers)

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> float:
        """Share of prompts whose right answer has the larger logit."""
        logits = model(self.windows)[:, -1, list(self.choices)]
        return float((logits.argmax(1) == self.answers).double().mean())

    def drawn(self, count: int, generator: torch.Generator) -> Prompts:
        """So many of them, with replacement."""
        chosen = torch.randint(len(self.answers), (count,), generator=generator)
        return Prompts(self.windows[chosen], self.answers[chosen], self.choices)


def prompts_of(text: Tensor, task: str, *, context: int, most: int, generator: torch.Generator) -> Prompts:
    r"""Places of a text where a task is posed, equally many with each answer.

    Args:
        text: uint8.
        task: Key of ``TASKS``.
        context: Bytes of a window, which ends before the answer.
        most: Prompts of each answer; drawn without replacement where there are more.
        generator: Draws them.

    Raises:
        ValueError: if the text does not pose the task.

    >>> text = torch.frombuffer(bytearray(b"f('one two') or g(\"three four\") " * 3), dtype=torch.uint8)
    >>> found = prompts_of(text, "quote", context=9, most=2, generator=torch.Generator().manual_seed(0))
    >>> [bytes(row.tolist()) for row in found.windows], found.answers.tolist()
    ([b"('one two", b"('one two", b'hree four', b'hree four'], [0, 0, 1, 1])
    """
    choices, patterns = TASKS[task]
    data = text.numpy().tobytes()
    windows, answers = [], []
    for answer, pattern in enumerate(patterns):
        ends = torch.tensor([found.end() - 1 for found in re.finditer(pattern, data) if found.end() > context])
        if not len(ends):
            raise ValueError(f"the text has no place for the task {task!r} with the answer {choices[answer]!r}.")
        ends = ends[torch.randperm(len(ends), generator=generator)[:most]]
        windows.append(text[ends.unsqueeze(1) + torch.arange(-context, 0)].long())
        answers.append(torch.full((len(ends),), answer))
    least = min(map(len, answers))
    first, second = choices
    return Prompts(
        torch.cat([each[:least] for each in windows]),
        torch.cat([each[:least] for each in answers]),
        (first[0], second[0]),
    )
