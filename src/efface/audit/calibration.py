"""Features that tell z exactly as well as is known: what attackers find of the truth can be measured.

Each problem draws people with the posterior p(z|h) of each, and says three figures of the whole population: the
accuracy of a blind guess, that of the best of all attackers (Bayes), and I(h; z). Benchmark: benchmarks/calibration.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit, i0e, logsumexp, xlogy
from scipy.stats import norm, rice

from efface.errors import AuditError, did_you_mean

Generator = np.random.Generator
LogOdds = Float[np.ndarray, " n"]
FeatureArray = Float[np.ndarray, "n *D"]
NODES = np.linspace(-9, 9, 1801)
"""Where integrals over a standard normal are summed."""
WEIGHTS = norm.pdf(NODES) / norm.pdf(NODES).sum()
SAMPLED = 2**16
"""People from whom figures without a formula are taken, by seed; z itself is integrated out."""


@dataclass(frozen=True)
class Sample:
    """People of a problem.

    Attributes:
        features: ``[n, *D]`` float32.
        labels: ``[n]`` z.
        posterior: ``[n, A]`` p(z|h): what an attacker who knows everything but z thinks.
    """

    features: FeatureArray
    labels: Int[np.ndarray, " n"]
    posterior: Float[np.ndarray, "n A"]


class KnownProblem(ABC):
    """A population of (h, z) with known figures.

    Attributes:
        name: In the benchmark's tables.
        shape: Of one person's features.
        shares: p(z).
    """

    name: ClassVar[str]
    shape: ClassVar[tuple[int, ...]] = (16,)
    shares: ClassVar[tuple[float, ...]] = (0.5, 0.5)

    @property
    def classes(self) -> int:
        """A."""
        return len(self.shares)

    @property
    def floor(self) -> float:
        """Accuracy of a blind guess, max_z p(z)."""
        return max(self.shares)

    @property
    @abstractmethod
    def bayes(self) -> float:
        """Accuracy of the best of all attackers, a fraction."""

    @property
    @abstractmethod
    def bits(self) -> float:
        """I(h; z) in bits."""

    @abstractmethod
    def draw(self, n: int, generator: Generator) -> Sample:
        """Draw people."""

    def _labels(self, n: int, generator: Generator) -> Int[np.ndarray, " n"]:
        return generator.choice(self.classes, n, p=self.shares)


class TwoClasses(KnownProblem):
    """z = ±1 shifts one direction of Gaussian noise by ±``distance`` of its own spread.

    Attributes:
        distance: Half of d′.
    """

    distance: ClassVar[float]

    @property
    def bayes(self) -> float:
        """Φ(distance)."""
        return float(norm.cdf(self.distance))

    @property
    def bits(self) -> float:
        """An integral over the noise."""
        return binary_bits(self.distance)


class GaussianMixture(KnownProblem):
    """Four Gaussians, in two directions that no single feature shows."""

    name = "gaussian"
    shares = (0.25,) * 4
    distance = 1.2

    @property
    def bayes(self) -> float:
        """Both signs are guessed right."""
        return float(norm.cdf(self.distance)) ** 2

    @property
    def bits(self) -> float:
        """The two signs are independent."""
        return 2 * binary_bits(self.distance)

    def draw(self, n: int, generator: Generator) -> Sample:
        """Draw people; z counts the two signs."""
        labels = self._labels(n, generator)
        signs = 2 * np.stack([labels // 2, labels % 2], 1) - 1
        axes = directions(self.shape[0], 2)
        features = generator.standard_normal((n, *self.shape)) + self.distance * signs @ axes.T
        up = expit(2 * self.distance * features @ axes)
        pairs = [(1 - up[:, 0], up[:, 0]), (1 - up[:, 1], up[:, 1])]
        return Sample(_single(features), labels, np.stack([a * b for a in pairs[0] for b in pairs[1]], 1))


class Xor(KnownProblem):
    """z is the parity of two noisy bits, each in a feature of its own: no feature alone says anything."""

    name = "xor"
    count: ClassVar[int] = 2
    distance: ClassVar[float] = 1.5

    @property
    def bayes(self) -> float:
        """An even number of wrong signs does no harm."""
        return 0.5 + 0.5 * (2 * float(norm.cdf(self.distance)) - 1) ** self.count

    @property
    def bits(self) -> float:
        """By the posterior p(z|h) = (1 ± Π tanh)/2, integrated over the noise of every bit."""
        # Every 30th node: the integrand is smooth, and the grid has as many dimensions as bits.
        nodes, weights = NODES[::30], WEIGHTS[::30] / WEIGHTS[::30].sum()
        product, weight = np.ones(1), np.ones(1)
        for _ in range(self.count):
            product = np.outer(product, np.tanh(self.distance * (nodes + self.distance))).ravel()
            weight = np.outer(weight, weights).ravel()
        return float(weight @ (1 - binary_entropy((1 + product) / 2)))

    def draw(self, n: int, generator: Generator) -> Sample:
        """Draw people; the first features hold the bits."""
        bits = generator.integers(0, 2, (n, self.count))
        features = generator.standard_normal((n, *self.shape))
        features[:, : self.count] += self.distance * (2 * bits - 1)
        even = np.prod(-np.tanh(self.distance * features[:, : self.count]), 1)
        return Sample(_single(features), bits.sum(1) % 2, np.stack([1 + even, 1 - even], 1) / 2)


class Parity(Xor):
    """z is the parity of three noisy bits: no two features say anything."""

    name = "parity"
    shape = (8,)
    count = 3
    distance = 2.0


class Colour(TwoClasses):
    """z tints one channel of a map by a fifth of a pixel's noise, under a brightness that varies ten times as much."""

    name = "colour"
    shape = (6, 8, 8)
    channel, shift, brightness = 2, 0.2, 2.0
    # All that tells z is the channel's mean less what the other channels say of the brightness.
    _noise = np.eye(6) / 64 + brightness**2
    _weight = np.linalg.solve(_noise, shift * np.eye(6)[channel])
    distance = float(np.sqrt(shift * _weight[channel]))

    def draw(self, n: int, generator: Generator) -> Sample:
        """Draw people."""
        labels = self._labels(n, generator)
        features = generator.standard_normal((n, *self.shape))
        features += self.brightness * generator.standard_normal(n)[:, None, None, None]
        features[:, self.channel] += (self.shift * (2 * labels - 1))[:, None, None]
        return Sample(_single(features), labels, _two(2 * features.mean((2, 3)) @ self._weight))


class Phase(KnownProblem):
    """Two channels show the same grating at a random phase, in step or against it: no pixel's mean or spread tells z.

    Source: detection of one of two orthogonal signals of unknown phase; Proakis (2001), section 5.4.
    """

    name = "phase"
    shape = (4, 8, 8)
    height, cycles = 0.4, 2

    @property
    def amplitude(self) -> float:
        """Of the sum of the two gratings' coefficients, where noise has spread 1 in each part."""
        return self.height * np.sqrt(self.shape[1] * self.shape[2])

    @property
    def bayes(self) -> float:
        """1 − exp(−m²/4)/2."""
        return 1 - 0.5 * float(np.exp(-(self.amplitude**2) / 4))

    @property
    def bits(self) -> float:
        """An integral over the two moduli: Rice where the signal is, Rayleigh where it is not."""
        moduli = np.linspace(0.01, self.amplitude + 7, 700)
        there, absent = rice.pdf(moduli, self.amplitude), rice.pdf(moduli, 0)
        weight = np.outer(there / there.sum(), absent / absent.sum())
        odds = _log_i0(self.amplitude * moduli)
        return float((weight * (1 - binary_entropy(expit(odds[:, None] - odds[None, :])))).sum())

    def draw(self, n: int, generator: Generator) -> Sample:
        """Draw people; the other channels are noise."""
        labels = self._labels(n, generator)
        side = self.shape[2]
        angle = 2 * np.pi * self.cycles * np.arange(side) / side
        grating = self.height * np.cos(angle + generator.uniform(0, 2 * np.pi, n)[:, None])[:, None]
        features = generator.standard_normal((n, *self.shape))
        features[:, 0] += grating
        features[:, 1] += (1 - 2 * labels)[:, None, None] * grating
        first, second = (features[:, k].sum(1) @ np.exp(-1j * angle) for k in (0, 1))
        scale = 1 / np.sqrt(self.shape[1] * side)
        against, in_step = (np.abs(first + sign * second) * scale for sign in (-1, 1))
        return Sample(
            _single(features), labels, _two(_log_i0(self.amplitude * against) - _log_i0(self.amplitude * in_step))
        )


class RarestClass(KnownProblem):
    """Four classes; the features tell one person in twenty, of the rarest class, from all others, and nothing else."""

    name = "rare"
    shares = (0.5, 0.3, 0.15, 0.05)
    distance = 4.0

    @property
    def bayes(self) -> float:
        """The rarest is named beyond the point where it is as likely as the most frequent."""
        common, rare = self.shares[0], self.shares[-1]
        point = self.distance / 2 + np.log(common / rare) / self.distance
        return float(common * norm.cdf(point) + rare * norm.cdf(self.distance - point))

    @property
    def bits(self) -> float:
        """Of being the rarest; the others look the same."""
        rare = self.shares[-1]

        def left(signal: np.ndarray) -> np.ndarray:
            odds = np.log(rare / (1 - rare)) + self.distance * signal - self.distance**2 / 2
            return binary_entropy(expit(odds))

        remains = (1 - rare) * WEIGHTS @ left(NODES) + rare * WEIGHTS @ left(NODES + self.distance)
        return float(binary_entropy(np.array(rare)) - remains)

    def draw(self, n: int, generator: Generator) -> Sample:
        """Draw people."""
        labels = self._labels(n, generator)
        axis = directions(self.shape[0], 1)[:, 0]
        features = generator.standard_normal((n, *self.shape))
        features += self.distance * (labels == self.classes - 1)[:, None] * axis
        weight = np.tile(np.array(self.shares), (n, 1))
        weight[:, -1] *= np.exp(self.distance * features @ axis - self.distance**2 / 2)
        return Sample(_single(features), labels, weight / weight.sum(1, keepdims=True))


class TinyVariance(TwoClasses):
    """z lies in the difference of two features that are all but equal: a direction of a 300th of their spread."""

    name = "tiny-variance"
    shape = (12,)
    distance = 2.0
    small = 3e-3

    def draw(self, n: int, generator: Generator) -> Sample:
        """Draw people; the first two features are shared ± told."""
        labels = self._labels(n, generator)
        told = (2 * labels - 1) + generator.standard_normal(n) / self.distance
        features = generator.standard_normal((n, *self.shape))
        shared = features[:, 0].copy()
        features[:, 0], features[:, 1] = shared + self.small * told, shared - self.small * told
        return Sample(_single(features), labels, _two(2 * self.distance**2 * told))


class Patch(KnownProblem):
    """An edge of 2×2 pixels at a random place of one channel, lying or standing: means tell z at the rim alone."""

    name = "patch"
    shape = (4, 8, 8)
    height = 2.0
    _edges = np.array([[[1, 1], [-1, -1]], [[1, -1], [1, -1]]])

    @property
    def bayes(self) -> float:
        """From drawn people (standard error 0.0005): the sum over places has no formula."""
        return _figures_of_patch()[0]

    @property
    def bits(self) -> float:
        """From drawn people."""
        return _figures_of_patch()[1]

    def draw(self, n: int, generator: Generator) -> Sample:
        """Draw people; the other channels are noise."""
        labels = self._labels(n, generator)
        features = generator.standard_normal((n, *self.shape), dtype=np.float32)
        people, rows, columns = np.arange(n), *generator.integers(0, self.shape[1] - 1, (2, n))
        for i, j in np.ndindex(2, 2):
            features[people, 0, rows + i, columns + j] += self.height * self._edges[labels, i, j]
        first = features[:, 0]
        corners = [[first[:, :-1, :-1], first[:, :-1, 1:]], [first[:, 1:, :-1], first[:, 1:, 1:]]]
        found = [self.height * sum(edge[i, j] * corners[i][j] for i, j in np.ndindex(2, 2)) for edge in self._edges]
        likely = logsumexp(np.stack(found, -1), axis=(1, 2))
        return Sample(features, labels, _two(likely[:, 1] - likely[:, 0]))


class Independent(KnownProblem):
    """Features that say nothing of z: whoever finds something here deceives himself."""

    name = "independent"
    shares = (0.6, 0.4)

    @property
    def bayes(self) -> float:
        """The floor."""
        return self.floor

    @property
    def bits(self) -> float:
        """None."""
        return 0.0

    def draw(self, n: int, generator: Generator) -> Sample:
        """Draw people."""
        features = generator.standard_normal((n, *self.shape))
        return Sample(_single(features), self._labels(n, generator), np.tile(np.array(self.shares), (n, 1)))


PROBLEMS: dict[str, Callable[[], KnownProblem]] = {
    problem.name: problem
    for problem in (
        GaussianMixture, Xor, Parity, Colour, Phase, RarestClass, TinyVariance, Patch, Independent,
    )
}  # fmt: skip


def build_problem(name: str) -> KnownProblem:
    """Return a problem by name.

    Raises:
        AuditError: The name is unknown.

    Example:
        >>> problem = build_problem("xor")
        >>> round(problem.bayes, 3), round(problem.bits, 3)
        (0.875, 0.586)
    """
    if name not in PROBLEMS:
        raise AuditError(f"Unknown problem {name!r}. {did_you_mean(name, PROBLEMS)}")
    return PROBLEMS[name]()


def binary_bits(distance: float) -> float:
    """Return I(x; z) in bits of x = ±distance + N(0, 1), both signs equally likely.

    Example:
        >>> binary_bits(0.0), round(binary_bits(1.0), 3), round(binary_bits(6.0), 3)
        (0.0, 0.486, 1.0)
    """
    return float(WEIGHTS @ (1 - binary_entropy(expit(2 * distance * (NODES + distance)))))


def binary_entropy(p: Float[np.ndarray, "*N"]) -> Float[np.ndarray, "*N"]:
    """Return the entropy of a coin in bits.

    Example:
        >>> binary_entropy(np.array([0.0, 0.5])).tolist()
        [0.0, 1.0]
    """
    return np.asarray(-(xlogy(p, p) + xlogy(1 - p, 1 - p)) / np.log(2) + 0.0)


def directions(width: int, count: int) -> Float[np.ndarray, "F K"]:
    """Return orthonormal directions that lie along no feature; always the same."""
    drawn = np.random.default_rng(0).standard_normal((width, count))
    return np.asarray(np.linalg.qr(drawn)[0])


@cache
def _figures_of_patch() -> tuple[float, float]:
    posterior = Patch().draw(SAMPLED, np.random.default_rng(0)).posterior
    return float(posterior.max(1).mean()), float(1 - binary_entropy(posterior[:, 0]).mean())


def _two(odds: LogOdds) -> Float[np.ndarray, "n 2"]:
    """Posterior from log p(z=1|h)/p(z=0|h)."""
    return np.stack([expit(-odds), expit(odds)], 1).astype(np.float64)


def _single(features: FeatureArray) -> FeatureArray:
    return features.astype(np.float32)


def _log_i0(values: np.ndarray) -> np.ndarray:
    """Logarithm of the modified Bessel function of order 0, without overflow."""
    return np.log(i0e(values)) + values
