"""Features, attacks and probes of an original, made once for several audits of many models against one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from efface.audit.attack import Outcomes, Settings, run_suite
from efface.audit.features import FeatureSet
from efface.audit.probe import Probing, Reading, read_many
from efface.data.schema import Column

Found = TypeVar("Found")

_kept: ContextVar[dict[str, Any] | None] = ContextVar("_kept", default=None)


@contextmanager
def remembering() -> Iterator[None]:
    """Within this context, equal features, attacks and probes of an equal original are made once.

    Features stay on disk for as long.
    """
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
    suite = [(type(attacker).__qualname__, vars(attacker)) for attacker in settings.suite]
    how = suite, settings.target, settings.seed, settings.seeds, settings.config.model_dump_json()
    epochs = settings.config.epochs * settings.seeds * len(settings.suite)
    return once(
        lambda: key_of(original, [column], settings.config.split, how),
        lambda: run_suite(original, column, settings, "the original"),
        lambda: settings.tick(f"{column.name} was read from the original before", epochs),
    )


def read_original(original: FeatureSet, columns: Sequence[Column], probing: Probing) -> list[Reading]:
    """Probe columns on the original's features, or return what the probe found of these before."""
    how = "probe", probing.attackers, probing.epochs, probing.people, probing.seed
    return once(
        lambda: key_of(original, columns, probing.split, how),
        lambda: read_many(original, columns, probing, "the original"),
        lambda: probing.tick("other columns were probed on the original before", len(columns) * probing.steps),
    )


def once(name: Callable[[], str | None], make: Callable[[], Found], tell: Callable[[], None] = lambda: None) -> Found:
    """Return what was made under this name before, and tell that; else make it. Without a name nothing is kept."""
    kept = _kept.get()
    key = name() if kept is not None else None
    if kept is None or key is None:
        return make()
    if key in kept:
        tell()
    else:
        kept[key] = make()
    found: Found = kept[key]
    return found


def key_of(original: FeatureSet, columns: Sequence[Column], split: str, how: object) -> str | None:
    """Name everything that the outcome depends on; None where the original has no answers to be known by."""
    if not original.logits:
        return None
    known = [(column.name, column.classes) for column in columns]
    parts = [
        original.logits[split].contiguous().cpu().numpy().tobytes(),
        *(original.labels[part][name].tobytes() for name, _ in known for part in sorted(original.labels)),
        repr((original.layer, original.shape, known, how)).encode(),
    ]
    return hashlib.sha256(b"|".join(parts)).hexdigest()


__all__ = ["attack_original", "key_of", "once", "read_original", "remembering"]
