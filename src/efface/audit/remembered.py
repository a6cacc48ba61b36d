"""The attacks on an original, made once for several audits: a comparison audits many models against one original."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from efface.audit.attack import Outcomes, Settings, run_suite
from efface.audit.features import FeatureSet
from efface.data.schema import Column

_kept: ContextVar[dict[str, Outcomes] | None] = ContextVar("_kept", default=None)


@contextmanager
def remembering() -> Iterator[None]:
    """Within this context, equal attacks on an equal original are made once."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def attack_original(original: FeatureSet, column: Column, settings: Settings) -> Outcomes:
    """Run the suite on the original's features, or return what it found before.

    The same seeds give the same attackers, so nothing but time changes. An original is known by its answers to the
    audited people; embeddings, which have none, are attacked each time.
    """
    kept, key = _kept.get(), ""
    if kept is not None and original.logits:
        key = _key(original, column, settings)
        if key in kept:
            epochs = settings.config.epochs * settings.seeds * len(settings.suite)
            settings.tick(f"{column.name} was read from the original before", epochs)
            return kept[key]
    found = run_suite(original, column, settings, "the original")
    if kept is not None and key:
        kept[key] = found
    return found


def _key(original: FeatureSet, column: Column, settings: Settings) -> str:
    """Name everything that the outcome depends on."""
    split = settings.config.split
    parts = [
        original.logits[split].contiguous().cpu().numpy().tobytes(),
        original.labels[split][column.name].tobytes(),
        repr((original.layer, original.shape, column.name, column.classes)).encode(),
        repr([(type(attacker).__qualname__, vars(attacker)) for attacker in settings.suite]).encode(),
        repr((settings.target, settings.seed, settings.seeds, settings.config.model_dump_json())).encode(),
    ]
    return hashlib.sha256(b"|".join(parts)).hexdigest()


__all__ = ["attack_original", "remembering"]
