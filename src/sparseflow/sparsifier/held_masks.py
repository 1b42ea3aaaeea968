"""The masks of a Sparsifier as users see them: to be read, not to be exchanged."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NoReturn

from torch import Tensor


class HeldMasks(dict[str, Tensor]):
    """Parameter name -> mask; only its owner replaces one. Copies and pickles are ordinary dicts.

    >>> import torch
    >>> masks = HeldMasks({"weight": torch.tensor([True, False])})
    >>> masks["weight"] = torch.tensor([True, True])
    Traceback (most recent call last):
    TypeError: the method alone moves the masks of a Sparsifier. To give others call ...
    """

    def hold(self, name: str, mask: Tensor) -> None:
        """Put another tensor in the place of a mask."""
        super().__setitem__(name, mask)

    def refuse(self, *_: Any, **__: Any) -> NoReturn:
        """Raise, in place of whatever would change the names or the tensors."""
        raise TypeError(
            "the method alone moves the masks of a Sparsifier. To give others call sparsifier.load_state_dict("
            "{**sparsifier.state_dict(), 'masks': masks}) with one for each of its weights."
        )

    __setitem__ = __delitem__ = __ior__ = refuse
    update = pop = popitem = clear = setdefault = refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, (), None, None, iter(self.items())  # torch.load takes it with weights_only=True
