"""A cheap, strong probe: linear and a perceptron on condensed features, picked on validation.

For figures that are wanted of many columns or layers at once, where the whole suite would take hours. Condensed
features are pooled, then rotated to their leading principal components, once for all columns.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from efface.audit.attackers import Budget, FeatureView, FittedAttacker, build_attacker
from efface.audit.attackers.mlp import PooledAttacker
from efface.audit.attackers.together import fit_together
from efface.audit.crew import in_turn_or_beside
from efface.audit.features import FeatureSet
from efface.audit.figures import Figure
from efface.audit.floors import joint_table
from efface.audit.intervals import Resampling, accuracy_interval, mean_interval, paired_interval
from efface.audit.metrics import pointwise_bits
from efface.audit.store import CHUNK, StoredFeatures, stored_from_arrays
from efface.data.schema import Column
from efface.errors import AuditError

COMPONENTS = 384
"""Most numbers per person that a probe reads."""
PEOPLE = 10_000
"""Most training people of a probe, drawn by seed."""


@dataclass(frozen=True)
class Probing:
    """How columns and layers are probed.

    Attributes:
        attackers: Names; validation picks one for each column and layer.
        split: The people read.
        epochs: Most epochs of an attacker.
        people: Most training people.
        how: Confidence and resamples of intervals.
        seed: Of people, weights and order.
        device: Where attackers are trained.
        tick: Called with what is going on and how many steps it went on; ``steps`` in all for each reading.
    """

    attackers: tuple[str, ...] = ("linear", "mlp")
    split: str = "test"
    epochs: int = 8
    people: int = PEOPLE
    how: Resampling = field(default_factory=Resampling)
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    tick: Callable[[str, int], None] = lambda *_: None

    @property
    def steps(self) -> int:
        """Steps of the progress bar for one reading."""
        return len(self.attackers) * self.epochs

    def seconds(self, people: int, width: int, classes: int) -> float:
        """Return about how long a reading takes on one core.

        Args:
            people: Training people; those above the most are not learned from.
            width: Numbers per person.
            classes: Of the column.
        """
        people = min(people, self.people)
        return sum(build_attacker(name).seconds(people, (width,), classes, self.epochs) for name in self.attackers)


@dataclass(frozen=True)
class Reading:
    """What the attacker that validation picked says of the people read; not for JSON: see ``figures``.

    Attributes:
        attacker: Its name.
        validation_accuracy: What it was picked by.
        labels: ``[n]`` the classes.
        correct: ``[n]`` whom it guesses right.
        bits: ``[n]`` log2 q(z|h) − log2 p(z) of each person.
        rows: ``[n]`` the people's rows in the split.
    """

    attacker: str
    validation_accuracy: float
    labels: Int[np.ndarray, " n"]
    correct: Bool[np.ndarray, " n"]
    bits: Float[np.ndarray, " n"]
    rows: Int[np.ndarray, " n"]

    def accuracy(self, how: Resampling) -> Figure:
        """Return the accuracy with its interval over people."""
        return Figure(float(self.correct.mean()), accuracy_interval(self.correct, *tools(how)))

    def information(self, how: Resampling) -> Figure:
        """Return I(h;z) from below, in bits, with its interval over people."""
        return Figure(float(self.bits.mean()), mean_interval(self.bits, *tools(how)))


def read(features: FeatureSet, column: Column, probing: Probing, of: str = "the model") -> Reading:
    """Train the probe's attackers on a column; read the one that validation picks.

    Args:
        features: Usually condensed.
        column: Labels of this name are read.
        probing: Who probes, and whom.
        of: Whose features, for the progress bar.

    Raises:
        AuditError: A split has nobody whose label is known, or training people of one class only.
    """
    return read_many(features, [column], probing, of)[0]


def view(features: FeatureSet, column: Column, split: str) -> FeatureView:
    """Return what an attacker sees of a split.

    Raises:
        AuditError: Nobody has a label.
    """
    found = FeatureView.of(features.features[split], features.labels[split][column.name], column.n_classes)
    if not len(found):
        raise AuditError(f"Nobody in the {split} split has a label of {column.name!r}: it can't be probed.")
    return found


def read_views(
    train: FeatureView, validation: FeatureView, audited: FeatureView, probing: Probing, what: str
) -> Reading:
    """Train on some people, pick on others, read on yet others."""
    people = some(_varied(train, what), probing.people, probing.seed)
    fitted = {name: _fitted(name, [people], [validation], probing, what)[0] for name in probing.attackers}
    return _reading(fitted, audited)


def read_many(
    features: FeatureSet, columns: Sequence[Column], probing: Probing, of: str = "the model"
) -> list[Reading]:
    """Read several columns as ``read`` does each; perceptrons of columns that the same people have are fitted together.

    Args:
        features: Usually condensed.
        columns: Labels of these names are read.
        probing: Who probes, and whom; ``len(columns) · probing.steps`` steps of its progress bar.
        of: Whose features, for the progress bar.

    Raises:
        AuditError: A split has nobody whose label is known, or training people of one class only.
    """
    splits = ("train", "validation", probing.split)
    views = [{name: view(features, column, name) for name in splits} for column in columns]
    alike: dict[bytes, list[int]] = {}
    for number, one in enumerate(views):
        one["train"] = some(_varied(one["train"], columns[number].name), probing.people, probing.seed)
        alike.setdefault(one["train"].rows.tobytes() + one["validation"].rows.tobytes(), []).append(number)
    fits: list[dict[str, FittedAttacker]] = [{} for _ in columns]
    for name in probing.attackers:
        for numbers in alike.values():
            people, judges = ([views[number][part] for number in numbers] for part in ("train", "validation"))
            what = f"{len(numbers)} columns from {of}" if len(numbers) > 1 else f"{columns[numbers[0]].name} from {of}"
            for number, found in zip(numbers, _fitted(name, people, judges, probing, what), strict=True):
                fits[number][name] = found
    return [_reading(found, one[probing.split]) for found, one in zip(fits, views, strict=True)]


def read_each(tasks: Sequence[Callable[[], Reading]], seconds: Callable[[], float], probing: Probing) -> list[Reading]:
    """Return readings that know nothing of each other; side by side where that is faster.

    Args:
        tasks: Each makes one reading.
        seconds: Returns what one takes on one core.
        probing: Who probes.
    """
    tell: Callable[[int], None] = lambda _: probing.tick("probes side by side", probing.steps)  # noqa: E731
    return in_turn_or_beside(tasks, lambda: [seconds()] * len(tasks), probing.device, tell)


def _varied(train: FeatureView, what: str) -> FeatureView:
    """Return training people, of two classes at least."""
    if len(train.labels.unique()) < 2:
        raise AuditError(f"Everybody who could be learned from is of one class: nothing can be probed ({what}).")
    return train


def _fitted(
    name: str, train: Sequence[FeatureView], validation: Sequence[FeatureView], probing: Probing, what: str
) -> list[FittedAttacker]:
    """Fit an attacker to each column of the same people; perceptrons all at once."""
    attacker, doing = build_attacker(name), f"{name} probes {what}"
    # The same seed before and after: two readings of a column differ in the features only.
    seed = zlib.crc32(f"{probing.seed} {name}".encode())
    used = 0

    def tick(columns: int = 1) -> None:
        nonlocal used
        used += columns
        probing.tick(doing, columns)

    budget = Budget(epochs=probing.epochs, seed=seed, device=probing.device, tick=tick)
    fitted: list[FittedAttacker] = []
    if isinstance(attacker, PooledAttacker) and len(train) > 1:
        fitted += fit_together(attacker, train, validation, replace(budget, tick=lambda: tick(len(train))))
    else:
        fitted += [attacker.fit(*views, budget) for views in zip(train, validation, strict=True)]
    probing.tick(doing, max(0, len(train) * probing.epochs - used))
    return fitted


def _reading(fitted: Mapping[str, FittedAttacker], audited: FeatureView) -> Reading:
    """Read people by the attacker that validation picks."""
    name, best = max(fitted.items(), key=lambda pair: pair[1].validation_accuracy)
    logits = best.predict_logits(audited)
    labels = audited.labels.numpy()
    prior = joint_table(np.zeros_like(labels), labels, audited.classes)[-1]
    return Reading(
        attacker=name,
        validation_accuracy=best.validation_accuracy,
        labels=labels,
        correct=(logits.argmax(1) == audited.labels).numpy(),
        bits=pointwise_bits(logits, audited.labels, torch.from_numpy(prior[labels])),
        rows=audited.rows,
    )


def some(people: FeatureView, most: int, seed: int) -> FeatureView:
    """Return at most so many people, drawn by seed and kept in order."""
    if len(people) <= most:
        return people
    chosen = np.sort(np.random.default_rng(seed).permutation(len(people))[:most])
    return FeatureView(people.source, people.rows[chosen], people.labels[torch.from_numpy(chosen)], people.classes)


def with_labels(features: FeatureSet, name: str, labels: Mapping[str, Int[np.ndarray, " n"]]) -> FeatureSet:
    """Return the features with one more column of labels, per split; a column of that name is replaced."""
    return replace(
        features, labels={split: {**columns, name: labels[split]} for split, columns in features.labels.items()}
    )


def condense(features: FeatureSet, components: int = COMPONENTS, seed: int = 0) -> FeatureSet:
    """Return features pooled and rotated to their leading principal components, as vectors.

    Pooled features of at most ``components`` numbers are kept as they are. Maps of up to four channels (images) are
    not pooled but flattened. The components are those of the training people.

    Source: Halko, Martinsson and Tropp (2011), for the randomised decomposition.

    Args:
        features: Maps, tokens or vectors.
        components: Most numbers per person.
        seed: Of the decomposition.

    Example:
        >>> from efface.audit.store import stored_from_arrays
        >>> maps = np.random.default_rng(0).normal(size=(50, 8, 4, 4)).astype(np.float32)
        >>> condense(FeatureSet(stored_from_arrays({"train": maps}), {"train": {}}, {}), 16).shape
        (16,)
    """
    pooled = {split: _pooled(stored) for split, stored in features.features.items()}
    width = next(iter(pooled.values())).shape[1]
    if width > components:
        mean, axes = _components(pooled["train"], components, seed)
        pooled = {split: _chunked(values, lambda part: (part - mean) @ axes) for split, values in pooled.items()}
    arrays = {split: values.float().numpy() for split, values in pooled.items()}
    return replace(features, features=stored_from_arrays(arrays))


def _pooled(stored: StoredFeatures) -> Float[Tensor, "n F"]:
    if len(stored.shape) == 3 and stored.shape[0] <= 4:
        starts = range(0, len(stored), CHUNK)
        return torch.cat([stored.standardised(slice(s, s + CHUNK)).flatten(1).bfloat16() for s in starts])
    return stored.pooled


def _components(
    values: Float[Tensor, "n F"], components: int, seed: int
) -> tuple[Float[Tensor, " F"], Float[Tensor, "F K"]]:
    """Mean and leading principal axes of at most 10,000 people."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(values))[:PEOPLE])
    known = values[torch.from_numpy(rows)].float()
    mean = known.mean(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Axes beyond the people's number would hold nothing.
        _, _, axes = torch.svd_lowrank(known - mean, min(components, len(known) - 1), niter=2)
    return mean, axes


def _chunked(
    values: Float[Tensor, "n F"], function: Callable[[Float[Tensor, "B F"]], Float[Tensor, "B K"]]
) -> Float[Tensor, "n K"]:
    return torch.cat([function(part.float()) for part in values.split(CHUNK)])


def difference(one: Bool[np.ndarray, " n"], other: Bool[np.ndarray, " n"], how: Resampling) -> Figure:
    """Return how much more often one guesser is right than another, of the same people.

    Example:
        >>> right = np.arange(1000) % 2 == 0
        >>> difference(right, right, Resampling()).to_dict()
        {'value': 0.0, 'ci': [0.0, 0.0]}
    """
    columns = np.stack([one, other], 1).astype(float)
    value = float(columns[:, 0].mean() - columns[:, 1].mean())
    return Figure(value, paired_interval(columns, lambda means: means[:, 0] - means[:, 1], *tools(how)))


def tools(how: Resampling) -> tuple[float, int, int]:
    """Return confidence, resamples and seed, in the order in which functions of ``intervals`` take them."""
    return how.confidence, how.resamples, how.seed


def plain(record: Any) -> dict[str, Any]:
    """Return the fields of a result as plain values for JSON.

    Example:
        >>> plain(Resampling(resamples=100))
        {'confidence': 0.95, 'resamples': 100, 'seed': 0}
    """
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {
        name: value.to_dict() if isinstance(value, Figure) else list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
    }
