"""The threat: what an attacker sees, knows and was trained on, in words that the report can print."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Threat:
    """What is assumed of the attacker.

    Attributes:
        layer: Named layer whose output is released.
        view: What of the model the attacker sees; ``features`` is the released representation h itself.
        knows_encoder: Whether the attacker may query the encoder with images of their own.
        trained_on: Whose pairs (h, z) the attacker learns from.

    Example:
        >>> Threat("layer2").to_dict()["view"]
        'features'
    """

    layer: str
    view: str = "features"
    knows_encoder: bool = False
    trained_on: str = "the people the encoder was trained on"

    def describe(self) -> str:
        """Return the assumption as one sentence."""
        encoder = "can query the encoder" if self.knows_encoder else "has no access to the encoder"
        return (
            f"The attacker sees the {self.view} at {self.layer}, {encoder}, and learns from labelled pairs (h, z) of "
            f"{self.trained_on}; the people attacked were never seen in training."
        )

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON, the sentence included."""
        return {**asdict(self), "description": self.describe()}
