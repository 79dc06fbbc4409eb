"""A small transformer for texts, as its author would put it into an archive: one file, one class.

It has BERT-tiny's size: 2 layers of width 128. Only PyTorch is imported, so that any server can
load it.

Shapes: B = batch, T = tokens, D = width, H = heads, C = classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TextTransformer(nn.Module):
    """Classifies texts of 1 to `max_tokens` tokens."""

    def __init__(
        self,
        *,
        num_tokens: int = 4096,
        max_tokens: int = 128,
        num_classes: int = 4,
        num_layers: int = 2,
        width: int = 128,
        num_heads: int = 2,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.embedding = nn.Embedding(num_tokens, width)
        self.position = nn.Embedding(max_tokens, width)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "before_attention": nn.LayerNorm(width),
                    "attention_in": nn.Linear(width, 3 * width),
                    "attention_out": nn.Linear(width, width),
                    "before_mlp": nn.LayerNorm(width),
                    "mlp_in": nn.Linear(width, 4 * width),
                    "mlp_out": nn.Linear(4 * width, width),
                }
            )
            for _ in range(num_layers)
        )
        self.head = nn.Linear(width, num_classes)

    def forward(self, tokens_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Logits, (B, C).

        Args:
            tokens_BT: int64; whatever stands behind the end of a text does not count.
            mask_BT: bool, False behind the end of a text.
        """
        places = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        states_BTD = self.embedding(tokens_BT) + self.position(places)
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            states_BTD = states_BTD + self._attention(layer, states_BTD, mask_BT)
            hidden = F.gelu(layer["mlp_in"](layer["before_mlp"](states_BTD)))
            states_BTD = states_BTD + layer["mlp_out"](hidden)
        counts_BT1 = mask_BT.unsqueeze(-1).to(states_BTD.dtype)
        logits_BC: Tensor = self.head((states_BTD * counts_BT1).sum(1) / counts_BT1.sum(1))
        return logits_BC

    def _attention(self, layer: nn.ModuleDict, states_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        batch, length, width = states_BTD.shape
        projected = layer["attention_in"](layer["before_attention"](states_BTD))
        queries, keys, values = projected.view(
            batch, length, 3, self.num_heads, width // self.num_heads
        ).permute(2, 0, 3, 1, 4)
        seen_BHTD = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask_BT[:, None, None, :]
        )
        out: Tensor = layer["attention_out"](
            seen_BHTD.transpose(1, 2).reshape(batch, length, width)
        )
        return out
