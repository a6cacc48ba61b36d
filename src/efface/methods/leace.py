"""LEACE at the cut: the smallest affine change after which no linear attacker of the features does better than chance.

Alone, on the features of a trained model, and after detachment.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from efface.config import EngineConfig, MethodConfig
from efface.data.batches import Batch
from efface.data.dataset import AttributeDataset
from efface.engine import Job
from efface.heads.eraser import AffineEraser
from efface.information import prior_means
from efface.methods.base import Method, UnlearnedModel
from efface.methods.detachment import Detachment, attribute_priors
from efface.methods.layers import both
from efface.methods.posthoc import ROUNDING, PostHocMethod, Stream


class Leace(PostHocMethod):
    """Source: Belrose et al. (2023), by concept-erasure."""

    name: ClassVar[str] = "leace"
    summary: ClassVar[str] = "LEACE at the cut (Belrose et al.): closed-form linear erasure, kept in the model"
    suggested: ClassVar[Mapping[str, object]] = {"variant": "paper"}

    def learn(self, stream: Stream, shape: tuple[int, ...]) -> AffineEraser:
        """Stream the train split once through concept-erasure's fitter, in float64."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it compiles with torch.jit.script as it is imported
            from concept_erasure import LeaceFitter

        priors, scales = attribute_priors(stream.data, stream.config), number_scales(stream.data, stream.config)
        labels = sum(prior.shape[1] for prior in priors.values()) + len(scales)
        reader = AffineEraser(shape, stream.config.eraser.dimensions, rank=1).double().to(stream.device)
        fitter = LeaceFitter(reader.size, labels, device=stream.device, dtype=torch.float64)
        for features, batch in stream:
            fitter.update(reader.read(features), concept(batch, priors, scales))
        found = fitter.eraser
        layer = AffineEraser(shape, stream.config.eraser.dimensions, rank=found.proj_left.shape[1])
        assert found.bias is not None
        layer.fill(found.proj_left.float().cpu(), found.proj_right.float().cpu(), found.bias.float().cpu())
        return layer


class DetachmentLeace(Method):
    """Detachment first; LEACE takes what a linear attacker still finds."""

    name: ClassVar[str] = "detachment_leace"
    summary: ClassVar[str] = "detachment, then LEACE at the cut"
    preserves: ClassVar[bool] = True
    sections: ClassVar[tuple[str, ...]] = ("eraser",)

    def check(self, config: MethodConfig, data: AttributeDataset) -> None:
        """Raise ConfigError for what detachment refuses."""
        Detachment().check(config, data)

    def fit(
        self,
        model: nn.Module,
        data: AttributeDataset,
        at: Sequence[str],
        config: MethodConfig,
        engine: EngineConfig,
        job: Job,
    ) -> UnlearnedModel:
        """Run both, one after the other; the second training is named ``…-settled`` in logs and checkpoints."""
        first = Detachment().fit(model, data, at, config, engine, job)
        plain = config.model_copy(update={"preserve": ()})  # LEACE has no head that could keep a column
        second = Leace().fit(model, data, at, plain, engine, replace(job, model=f"{job.model}-settled"))
        return replace(first, method=self.name, history=both(first.history, second.history))


@dataclass(frozen=True)
class NumberScale:
    """What makes an attribute's numbers rows of the concept.

    Attributes:
        means: ``[Y]`` E[v|y] of the train split; E[v] in every place for the ``paper`` variant.
        spread: Of v − E[v|y], in units of v.
    """

    means: Float[Tensor, " Y"]
    spread: float


def number_scales(data: AttributeDataset, config: MethodConfig) -> dict[str, NumberScale]:
    """Return means and spread of the numbers behind each attribute that has any, on the train split.

    A number that y tells but for rounding has no row of its own: divided by next to nothing, the rounding would be y.
    """
    target, scales = torch.from_numpy(data.split_labels("train", data.target.name)), {}
    given = target if config.conditional_removal else torch.zeros_like(target)
    for column in data.attributes:
        if column.name in data.numbers:
            values = torch.from_numpy(data.split_numbers("train", column.name))
            means = prior_means(values, given, data.target.n_classes)
            left = (values - means[given.clamp_min(0)])[~values.isnan() & (target >= 0)]
            spread = float(left.std(correction=0)) if len(left) else 0.0
            if spread > ROUNDING * float(values[~values.isnan()].abs().max()):
                scales[column.name] = NumberScale(means, spread)
    return scales


def concept(
    batch: Batch,
    priors: Mapping[str, Float[Tensor, "Y A"]],
    scales: Mapping[str, NumberScale] | None = None,
) -> Float[Tensor, "B Z"]:
    """Return z − p(z|y) as one-hot rows, all attributes side by side; then v − E[v|y], for those that are numbers, cut.

    The rows of ``priors`` are equal in the ``paper`` variant: then it is z, but for a shift. An unknown label is 0, the
    mean: the covariance with the features is that of the known ones, times their share.

    Args:
        batch: Labels, numbers and targets.
        priors: Per attribute.
        scales: Of the numbers; those without are erased as classes alone.
    """
    columns = []
    for name, prior in priors.items():
        labels, table = batch.attributes[name], prior.to(batch.target.device, torch.float64)
        known = (labels >= 0) & (batch.target >= 0)
        rows = F.one_hot(labels.clamp_min(0), prior.shape[1]) - table[batch.target.clamp_min(0)]
        columns.append(rows * known[:, None])
    for name, scale in (scales or {}).items():
        values = batch.numbers[name].double()
        means = scale.means.to(values.device)[batch.target.clamp_min(0)]
        known = ~values.isnan() & (batch.target >= 0)
        columns.append(torch.where(known, (values - means) / scale.spread, 0.0)[:, None])
    return torch.cat(columns, 1)


__all__ = ["DetachmentLeace", "Leace", "NumberScale", "concept", "number_scales"]
