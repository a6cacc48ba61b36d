"""The decoder of the auxiliary network: reconstructs the image, from features alone or from features and attributes.

Source: section 3.2.3 of the paper, I(h;x) by the reconstruction error R(x|h). Given the attributes z it estimates
I(h;x|z) instead (THEORY, repair 1): features then need not carry z to please the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from efface.heads.layout import as_map, map_shape
from efface.shapes import Features, Labels


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class FeatureDecoder(nn.Module):
    """Released features (and attributes) to the features of the model before unlearning, position by position.

    A linear map and one hidden layer beside it, both of 1×1: features are drawn where they are.

    Args:
        feature_shape: Shape of one sample's features, the same on both sides.
        width: Channels of the hidden layer.
        condition: Numbers of classes of the attributes that are given; empty: features alone.

    Example:
        >>> decoder = FeatureDecoder((128, 8, 8), width=32, condition=(5,))
        >>> decoder(torch.zeros(2, 128, 8, 8), [torch.tensor([0, 4])]).shape
        torch.Size([2, 128, 8, 8])
    """

    def __init__(self, feature_shape: Sequence[int], width: int = 64, condition: Sequence[int] = ()):
        super().__init__()
        channels = map_shape(feature_shape)[0]
        self.condition = tuple(condition)
        self.enter = nn.Conv2d(channels, 2 * width, 1)
        self.given = nn.ModuleList(nn.Embedding(classes + 1, 2 * width) for classes in self.condition)
        self.leave = nn.Conv2d(2 * width, channels, 1)
        self.straight = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, features: Features, attributes: Sequence[Labels] = ()) -> Float[Tensor, "B D H W"]:
        """Return the drawn features as maps, standardised per channel."""
        assert len(attributes) == len(self.condition)
        maps = as_map(features)
        hidden = self.enter(maps)
        for embedding, classes, labels in zip(self.given, self.condition, attributes, strict=True):
            known = torch.where(labels < 0, classes, labels)
            hidden = hidden + embedding(known)[:, :, None, None].to(hidden.dtype)
        return self.leave(F.relu(hidden)) + self.straight(maps)


class ImageDecoder(nn.Module):
    """Features (and attributes) to image logits, in a few convolutions.

    Two convolutions at the features' resolution, one at twice that, then sub-pixel upsampling to the image's: most of
    the work is done where pixels are few.

    Args:
        feature_shape: Shape of one sample's features: maps, tokens or vector.
        image_shape: Channels, height, width of the image.
        width: Channels of the hidden layers.
        condition: Numbers of classes of the attributes that are given; empty: features alone.

    Example:
        >>> decoder = ImageDecoder((128, 8, 8), (3, 64, 64), width=32, condition=(5,))
        >>> decoder(torch.zeros(2, 128, 8, 8), [torch.tensor([0, 4])]).shape
        torch.Size([2, 3, 64, 64])
    """

    def __init__(
        self,
        feature_shape: Sequence[int],
        image_shape: Sequence[int],
        width: int = 64,
        condition: Sequence[int] = (),
    ):
        super().__init__()
        channels, height, _ = map_shape(feature_shape)
        self.image_shape = tuple(image_shape)
        self.condition = tuple(condition)
        self.grow = 4 if height == 1 else 1
        doubled = 2 * height * self.grow
        factor = max(1, -(-self.image_shape[1] // doubled))
        self.enter = nn.Conv2d(channels, width * self.grow**2, 1)
        # Class indices enter at every position; the extra row is the unknown value.
        self.given = nn.ModuleList(nn.Embedding(classes + 1, width) for classes in self.condition)
        self.coarse = nn.Sequential(
            nn.BatchNorm2d(width), _convolution(width, 2 * width), _convolution(2 * width, 2 * width)
        )
        self.fine = nn.Sequential(
            _convolution(width // 2, width), nn.Conv2d(width, self.image_shape[0] * factor**2, 3, padding=1)
        )
        self.factor = factor

    def forward(self, features: Features, attributes: Sequence[Labels] = ()) -> Float[Tensor, "B C H W"]:
        """Return logits of the pixel values in [0, 1]."""
        assert len(attributes) == len(self.condition)
        hidden = F.pixel_shuffle(self.enter(as_map(features)), self.grow)
        for embedding, classes, labels in zip(self.given, self.condition, attributes, strict=True):
            known = torch.where(labels < 0, classes, labels)
            hidden = hidden + embedding(known)[:, :, None, None].to(hidden.dtype)
        hidden = F.pixel_shuffle(self.coarse(hidden), 2)
        logits = F.pixel_shuffle(self.fine(hidden), self.factor)
        size = self.image_shape[1:]
        if logits.shape[2:] == size:
            return logits
        return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
