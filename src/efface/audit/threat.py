"""The threat: what an attacker sees, knows and was trained on, in words that the report can print."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from efface.errors import AuditError, Problems, did_you_mean, expected

VIEWS = {
    "features": "the features at {layer}",
    "logits": "the model's logits",
    "probabilities": "the model's class probabilities",
    "embeddings": "the embeddings",
}
"""What of a model may be released, and how a sentence says so."""
OWN = "the people the encoder was trained on"
UNSEEN = "people the encoder never saw"
UNKNOWN = "labelled people of whom it is not known whether the encoder saw them"
TRAINED_ON = (OWN, UNSEEN, UNKNOWN)
KINDS = ("one", "augmented", "stochastic")
DRAWS = {"one": 1, "augmented": 10, "stochastic": 50}
"""Releases of each person, by kind, unless a number is given."""


@dataclass(frozen=True)
class Releases:
    """How often each person is released, and how the releases differ.

    Attributes:
        kind: ``one``; ``augmented``: of the image as it is, mirrored, and shifted; ``stochastic``: draws of an encoder
            that answers the same image differently each time.
        count: Releases of each person that the attacker averages; 0: 1, 10 or 50, by kind.
        shift: Pixels by which augmented images are shifted.
        dropout: Whether dropout stays on while a stochastic encoder is drawn from.
        seed: Of the draws.

    Raises:
        AuditError: A value is out of range; all are told at once.

    Example:
        >>> Releases("stochastic").draws, Releases().draws
        (50, 1)
    """

    kind: str = "one"
    count: int = 0
    shift: int = 2
    dropout: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        problems = Problems(AuditError)
        if self.kind not in KINDS:
            problems.add(expected("releases", "a kind of release", self.kind, did_you_mean(self.kind, KINDS)))
        top = {"one": 1, "augmented": DRAWS["augmented"]}.get(self.kind)
        if self.count < 0 or (top is not None and self.count > top):
            wanted = "0 or larger" if top is None else f"from 0 to {top} where releases are {self.kind!r}"
            problems.add(expected("count", wanted, self.count))
        if self.shift < 0:
            problems.add(expected("shift", "a number of pixels, 0 or larger", self.shift))
        if self.dropout and self.kind != "stochastic":
            problems.add(expected("dropout", "False unless releases are 'stochastic'", self.dropout))
        problems.raise_if_any()

    @property
    def draws(self) -> int:
        """Releases of each person."""
        return self.count or DRAWS[self.kind]

    def describe(self) -> str:
        """Return the assumption as the end of a sentence."""
        if self.kind == "augmented":
            what = "the image as it is, mirrored and shifted"
            return f"averages {self.draws} releases of each person ({what} by {self.shift} pixels)"
        if self.kind == "stochastic":
            return f"averages {self.draws} draws of the stochastic encoder for each person"
        return "sees one release of each person"


@dataclass(frozen=True)
class Threat:
    """What is assumed of the attacker.

    Attributes:
        layer: Named layer whose output is released.
        view: What of the model the attacker sees: ``features`` is the released representation h itself; ``logits``;
            ``probabilities``; ``embeddings`` are vectors of which no encoder is at hand.
        knows_encoder: Whether the attacker may query the encoder with images of their own.
        trained_on: Whose pairs (h, z) the attacker learns from: ``OWN``, ``UNSEEN`` or ``UNKNOWN``.
        releases: How often each person is released.

    Raises:
        AuditError: The view or ``trained_on`` is not one of those known; both are told at once.

    Example:
        >>> Threat("layer2").to_dict()["view"]
        'features'
    """

    layer: str
    view: str = "features"
    knows_encoder: bool = False
    trained_on: str = OWN
    releases: Releases = field(default_factory=Releases)

    def __post_init__(self) -> None:
        problems = Problems(AuditError)
        if self.view not in VIEWS:
            problems.add(expected("view", "something a model releases", self.view, did_you_mean(self.view, VIEWS)))
        if self.trained_on not in TRAINED_ON:
            hint = did_you_mean(self.trained_on, TRAINED_ON)
            problems.add(expected("trained_on", "one of the known groups of people", self.trained_on, hint))
        problems.raise_if_any()

    def describe(self) -> str:
        """Return the assumption as one sentence."""
        encoder = "can query the encoder" if self.knows_encoder else "has no access to the encoder"
        seen = VIEWS[self.view].format(layer=self.layer)
        often = "" if self.releases.kind == "one" else f" {self.releases.describe()},"
        return (
            f"The attacker sees {seen},{often} {encoder}, and learns from labelled pairs (h, z) of "
            f"{self.trained_on}; the people attacked were never seen in training."
        )

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON, the sentence included."""
        return {**asdict(self), "description": self.describe()}
