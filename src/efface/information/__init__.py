"""Estimators of I(h;x), I(h;y), I(h;z) and I(h;z|y): pure functions of tensors, all in nats.

From below: ``information_lower_bound`` and its conditional form, ``reconstruction_nats``. From above:
``vclub_upper_bound``. Exactly, for small discrete distributions: ``Joint``. docs/theory.md has the proofs.
"""

from efface.information.contrastive import supervised_contrastive_loss
from efface.information.entropy import (
    bits,
    conditional_entropy,
    conditional_information_lower_bound,
    conditional_prior,
    confusion_loss,
    cross_entropy_rate,
    distribution_entropy,
    information_lower_bound,
    label_entropy,
    prior_means,
    prior_table,
    reversal,
)
from efface.information.exact import Joint
from efface.information.reconstruction import reconstruction_floor_nats, reconstruction_nats
from efface.information.vclub import vclub_upper_bound

__all__ = [
    "Joint",
    "bits",
    "conditional_entropy",
    "conditional_information_lower_bound",
    "conditional_prior",
    "confusion_loss",
    "cross_entropy_rate",
    "distribution_entropy",
    "information_lower_bound",
    "label_entropy",
    "prior_means",
    "prior_table",
    "reconstruction_floor_nats",
    "reconstruction_nats",
    "reversal",
    "supervised_contrastive_loss",
    "vclub_upper_bound",
]
