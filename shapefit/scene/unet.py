"""MONAI's U-Net, at whose lowest level every place attends to all the others.

Where a bone is turned to shows in all of it at once; convolutions alone see a part. As in TransUNet (Chen
et al. 2021, arXiv 2102.04306), with the blocks of Vaswani et al. 2017 (NeurIPS), normalised beforehand.
"""

import math
from collections import OrderedDict

import torch
from jaxtyping import Float
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.nn import functional

HEADS = 8  # at most, as many as share the channels evenly
_LONGEST = 100.0  # places, of the waves that tell them apart: more than an image has at the lowest level


class AttentiveUNet(UNet):
    """A U-Net with so many blocks of `Attention` at its lowest level; they begin without effect.

    Raises ValueError for a negative number of them.
    """

    def __init__(self, attention: int, **layout) -> None:
        if attention < 0:
            raise ValueError(f"a network has no or some blocks of attention, got {attention}")
        self.attention = attention
        super().__init__(**layout)

    def _get_bottom_layer(self, in_channels: int, out_channels: int) -> nn.Module:
        bottom = super()._get_bottom_layer(in_channels, out_channels)
        if not self.attention:
            return bottom
        blocks = nn.Sequential(*(Attention(out_channels) for _ in range(self.attention)))
        return nn.Sequential(OrderedDict(bottom=bottom, attention=blocks))


class Attention(nn.Module):
    """Each place of an image takes from all of them what its question finds, and thinks it over."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = math.gcd(HEADS, channels)
        self.before, self.between = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.ask, self.take = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.widen, self.narrow = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)
        for last in (self.take, self.narrow):  # a network that gets such a block stays what it was
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, image: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        rows, columns = image.shape[-2:]
        x = image.flatten(2).transpose(1, 2)
        asked = self.ask(self.before(x) + places(rows, columns, x.shape[-1]).to(x))
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in asked.chunk(3, -1)
        )
        weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        x = x + self.take((weights @ value).transpose(1, 2).flatten(2))
        x = x + self.narrow(functional.gelu(self.widen(self.between(x))))
        return x.transpose(1, 2).unflatten(-1, (rows, columns)).contiguous(memory_format=torch.channels_last)


def places(rows: int, columns: int, channels: int) -> Float[Tensor, "N C"]:
    """Sines and cosines of each row and column, from the middle, in waves of 2 places to `_LONGEST`."""
    waves = torch.pi * (2 / _LONGEST) ** torch.linspace(0, 1, -(-channels // 4))
    i, j = (torch.arange(size) - (size - 1) / 2 for size in (rows, columns))
    down = (i[:, None] * waves).repeat_interleave(columns, 0)
    right = (j[:, None] * waves).repeat(rows, 1)
    return torch.cat([down.sin(), down.cos(), right.sin(), right.cos()], 1)[:, :channels]
