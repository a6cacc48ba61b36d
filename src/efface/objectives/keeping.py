"""What released features keep: the image (the paper), or the features of the model before unlearning.

Source: section 3.2.3 of the paper, I(h;x) by a decoder's error, given z in the ``conditional`` variant (THEORY,
repair 1). Ours: the features t that the model released before are drawn in place of the image. They are a function of
x, so I(h;t|z) ≤ I(h;x|z): what is kept is that part of the image which the model had found worth telling, and not the
skin tone of every pixel, in which z hides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from efface.config import MethodConfig
from efface.data.batches import Batch
from efface.errors import ConfigError, expected
from efface.heads import FeatureDecoder, ImageDecoder, as_map, map_shape
from efface.information import reconstruction_nats
from efface.shapes import Features, Scalar


class ImageKeeping(nn.Module):
    """Binary cross-entropy of the image drawn from the features, in nats per image.

    Args:
        feature_shape: Shape of one sample's features.
        image_shape: Channels, height, width.
        width: Channels of the decoder.
        given: Numbers of classes of the attributes that the decoder is told.
    """

    metric = "reconstruction_nats"

    def __init__(self, feature_shape: Sequence[int], image_shape: Sequence[int], width: int, given: Sequence[int]):
        super().__init__()
        self.decoder = ImageDecoder(feature_shape, image_shape, width, given)

    def forward(self, features: Features, batch: Batch, attributes: Sequence[Tensor]) -> Scalar:
        """Return the error."""
        return reconstruction_nats(self.decoder(features, attributes), batch.raw01)


class FeatureKeeping(nn.Module):
    """Half the squared error of the former features, standardised per channel: nats of a Gaussian of unit variance.

    Args:
        before: Copies of the blocks below the cut as they were; never trained, and no part of a checkpoint.
        feature_shape: Shape of one sample's features.
        width: Channels of the decoder.
        given: Numbers of classes of the attributes that the decoder is told.
    """

    metric = "kept_features_nats"

    def __init__(self, before: Sequence[nn.Module], feature_shape: Sequence[int], width: int, given: Sequence[int]):
        super().__init__()
        self.decoder = FeatureDecoder(feature_shape, width, given)
        self.standardise = nn.BatchNorm2d(map_shape(feature_shape)[0], affine=False)
        frozen = nn.Sequential(*before).eval().requires_grad_(False)
        # In a tuple the former blocks stay out of parameters, state and train().
        self._before = (frozen.to(memory_format=torch.channels_last),)  # type: ignore[call-overload]

    def forward(self, features: Features, batch: Batch, attributes: Sequence[Tensor]) -> Scalar:
        """Return the error."""
        with torch.no_grad():
            former = self.standardise(as_map(self._before[0].to(features.device)(batch.images)).float())
        drawn = self.decoder(features, attributes).float()
        return 0.5 * (drawn - former).square().flatten(1).sum(1).mean()


def build_keeping(
    feature_shape: Sequence[int],
    image_shape: Sequence[int],
    config: MethodConfig,
    given: Sequence[int],
    before: Sequence[nn.Module],
) -> ImageKeeping | FeatureKeeping | None:
    """Return what ``method.keep`` says; None where it has no weight.

    Args:
        feature_shape: Shape of one sample's features.
        image_shape: Channels, height, width.
        config: Weights and sizes.
        given: Numbers of classes of the attributes that the decoder is told.
        before: Copies of the blocks below the cut as they were before unlearning.

    Raises:
        ConfigError: ``keep: features`` without ``before``: the method has no use for it.
    """
    if not config.input_weight:
        return None
    if config.keep == "features":
        if not before:
            why = "Only detachment and quantised draw former features."
            raise ConfigError(expected("method.keep", "'image' for this method", config.keep, why))
        return FeatureKeeping(before, feature_shape, config.decoder_width, given)
    return ImageKeeping(feature_shape, image_shape, config.decoder_width, given)


__all__ = ["FeatureKeeping", "ImageKeeping", "build_keeping"]
