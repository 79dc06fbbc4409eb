"""A small transformer encoder that classifies texts.

Padding changes nothing: no token attends to it, and it is not part of the mean. So texts of all
lengths share a batch, and exported programs take any length up to `max_tokens`.

Shapes: B = batch, T = tokens, D = width, H = heads, K = classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flambeau.tokenizer import PADDING_ID

_INITIAL_STD = 0.02  # of embeddings, as in BERT


class EncoderLayer(nn.Module):
    """Attention, then a perceptron, each after a norm and beside a shortcut (Xiong et al. 2020)."""

    def __init__(self, *, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_width = width // num_heads
        self.norm1 = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, is_text_B11T: Tensor) -> Tensor:
        mixed = self.queries_keys_values(self.norm1(x_BTD))
        parts_3BHTd = mixed.unflatten(-1, (3, self.num_heads, self.head_width)).permute(
            2, 0, 3, 1, 4
        )
        attended_BHTd = F.scaled_dot_product_attention(
            parts_3BHTd[0], parts_3BHTd[1], parts_3BHTd[2], attn_mask=is_text_B11T
        )
        x_BTD = x_BTD + self.dropout(self.joined(attended_BHTd.transpose(1, 2).flatten(2)))
        added_BTD: Tensor = self.dropout(self.fc2(F.gelu(self.fc1(self.norm2(x_BTD)))))
        return x_BTD + added_BTD


class TransformerTextClassifier(nn.Module):
    """Embeddings and learned positions, encoder layers, and the mean over a text's tokens.

    Args:
        num_classes: K.
        vocab_size: Of the tokenizer, padding and unknown included.
        max_tokens: Of the longest text.
        width: D, a multiple of `num_heads`.
        num_layers: Encoder layers.
        num_heads: H, of each layer.
        dropout: Of embeddings, and of what each layer adds.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        vocab_size: int,
        max_tokens: int,
        width: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.padding_id = PADDING_ID  # torch.jit.script reads no globals
        self.embedding = nn.Embedding(vocab_size, width, padding_idx=PADDING_ID)
        self.positions = nn.Parameter(torch.empty(max_tokens, width))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            EncoderLayer(width=width, num_heads=num_heads, dropout=dropout)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, num_classes)
        for weight in (self.embedding.weight, self.positions):
            nn.init.normal_(weight, std=_INITIAL_STD)
        with torch.no_grad():
            self.embedding.weight[PADDING_ID].zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Classify.

        Args:
            x: Numbers of tokens, int64, (B, T), T at most `max_tokens`; 0 behind a text's end.

        Returns:
            float32 logits, (B, K).
        """
        is_padding_BT = x == self.padding_id
        # A row of padding only counts as a text, or it would have nothing to attend to.
        is_text_BT = ~is_padding_BT | is_padding_BT.all(dim=1, keepdim=True)
        x_BTD = self.dropout(self.embedding(x) + self.positions[: x.shape[1]])
        for layer in self.layers:
            x_BTD = layer(x_BTD, is_text_BT.unsqueeze(1).unsqueeze(1))
        weight_BT1 = is_text_BT.unsqueeze(-1).to(x_BTD.dtype)
        mean_BD = (self.norm(x_BTD) * weight_BT1).sum(dim=1) / weight_BT1.sum(dim=1)
        logits_BK: Tensor = self.fc(mean_BD)
        return logits_BK
