"""Transformer encoders around sparse layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TransformerEncoder(nn.TransformerEncoder):
    """torch's encoder without nested tensors, which only its own kernels of dense layers take.

    Where torch would use them, in eval mode without gradients, they leave zeros in the place of padding; so does this.
    """

    use_nested_tensor = property(lambda self: False)

    def forward(
        self, src: Tensor, mask: Tensor | None = None, src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:  # fmt: skip
        """As :class:`torch.nn.TransformerEncoder`."""
        out: Tensor = super().forward(src, mask, src_key_padding_mask, is_causal)
        if src_key_padding_mask is None or mask is not None or not self._would_nest(src, src_key_padding_mask):
            return out
        zero = src.new_zeros(src.shape[-1])
        empty: Tensor = zero if self.norm is None else self.norm(zero)
        return torch.where(src_key_padding_mask.bool().unsqueeze(-1), empty, out)

    def _would_nest(self, src: Tensor, padding: Tensor) -> bool:
        """Whether torch's encoder would compute with nested tensors."""
        return (
            vars(self)["use_nested_tensor"]
            and torch.backends.mha.get_fastpath_enabled()
            and not self.layers[0].training
            and src.dim() == 3
            and not torch.is_autocast_enabled()
            and not (torch.is_grad_enabled() and (src.requires_grad or any(p.requires_grad for p in self.parameters())))
            and not (self.mask_check and bool((padding.bool().int().diff(dim=1) < 0).any()))
        )
