"""What an audit found: frozen, plain values, written to and read from audit.json (a public, versioned contract)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from efface.errors import AuditError, expected

SCHEMA_VERSION = "1.0"
Verdict = str
LEAKS, AT_FLOOR, INCONCLUSIVE = "leaks", "at the floor for this suite", "inconclusive"


@dataclass(frozen=True)
class AuditResult:
    """The result of an audit; every figure is a fraction unless its name says bits, seconds or dB.

    Attributes:
        name: What is audited.
        created: Time of the audit, ISO 8601, UTC.
        seed: Seed of attackers and resamples.
        split: The people the attackers were read on.
        confidence: Nominal coverage of the intervals.
        data: Name, target, attributes, image shape, counts, warnings and schema.
        model: Name, layer, parameters, feature shape; ``auxiliary`` is for the runner to fill.
        threat: What the attacker sees, knows and learned from.
        fidelity: Main-task accuracy, its interval and the original model's.
        attributes: Per attribute: floors, attackers, excess leakage, AUM, verdict. See ``docs/audit.md``.
        reconstruction: PSNR (dB) and SSIM of decoders trained afresh, or None.
        phases: Seconds per phase.
        warnings: Remarks on the audit as a whole.
        reconstructions: Pictures for the report, not part of the JSON.
    """

    name: str
    created: str
    seed: int
    split: str
    confidence: float
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    threat: Mapping[str, Any]
    fidelity: Mapping[str, Any]
    attributes: Mapping[str, Mapping[str, Any]]
    reconstruction: Mapping[str, Any] | None = None
    phases: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    schema_version: str = SCHEMA_VERSION
    reconstructions: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as in audit.json."""
        # Through JSON: tuples become lists and nothing is shared with this object.
        return json.loads(self.to_json())

    def to_json(self) -> str:
        """Return the contents of audit.json."""
        names = [
            "schema_version",
            *(f.name for f in fields(self) if f.name not in ("schema_version", "reconstructions")),
        ]
        values = {name: getattr(self, name) for name in names}
        return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AuditResult:
        """Build from the contents of audit.json.

        Raises:
            AuditError: A field is missing, or the schema is of another major version.
        """
        version = str(values.get("schema_version", "none"))
        if version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
            raise AuditError(expected("schema_version", f"of the kind {SCHEMA_VERSION}", version))
        known = [f.name for f in fields(cls) if f.name != "reconstructions"]
        missing = [name for name in known if name not in values]
        if missing:
            raise AuditError(f"This is no audit: it lacks {', '.join(missing)}. Try `efface audit` to make it anew.")
        kept = {name: values[name] for name in known}
        return cls(**{**kept, "warnings": tuple(kept["warnings"])})

    @classmethod
    def load(cls, path: str | Path) -> AuditResult:
        """Read audit.json.

        Raises:
            AuditError: The file can't be read as an audit.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise AuditError(f"Cannot read the audit {str(path)!r}: {error}.") from None
        if not isinstance(values, dict):
            raise AuditError(expected(str(path), "a JSON object", type(values).__name__))
        return cls.from_dict(values)

    def save(self, path: str | Path) -> Path:
        """Write audit.json; folders are made."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.to_json(), encoding="utf-8")
        return path

    def save_report(self, path: str | Path) -> Path:
        """Write the audit as one HTML file that opens offline."""
        from efface.report.render import render_audit

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        render_audit(self.to_dict(), path, reconstructions=self.reconstructions)
        return path

    def summary(self) -> str:
        """Return a plain-text table of fidelity, floors, attackers and verdicts."""
        lines = [
            f"Audit of {self.name} at {self.model['at']}: {self.data['name']}, {self.split} split, seed {self.seed}"
        ]
        fidelity = self.fidelity
        before = "" if fidelity["original"] is None else f"   original {fidelity['original']:.3f}"
        value = _with_interval(fidelity["value"], fidelity["ci"])
        lines.append(f"Fidelity on {self.data['target']}: {value}{before}   n = {fidelity['n']}")
        for name, found in self.attributes.items():
            lines += ["", *_attribute_lines(name, found)]
        for warning in self.warnings:
            lines.append(f"Warning: {warning}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Attack:
    """What one attacker reached on one attribute.

    Attributes:
        name: Of the attacker.
        accuracy: On the audited people.
        ci: Its interval.
        bits: Lower bound of I(h; z), held out.
        validation_accuracy: What attackers and epochs are picked by.
        epoch: The epoch that was picked, from 1.
        seconds: Time to fit and predict.
        warning: Why not to trust this attacker, or None.
    """

    name: str
    accuracy: float
    ci: tuple[float, float]
    bits: float
    validation_accuracy: float
    epoch: int
    seconds: float
    warning: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "ci": list(self.ci)}


def _with_interval(value: float, ci: Any) -> str:
    return f"{value:.3f} [{ci[0]:.3f}, {ci[1]:.3f}]"


def _attribute_lines(name: str, found: Mapping[str, Any]) -> list[str]:
    floors, best, highest = found["floors"], found["best"], found["highest"]
    before = {row["name"]: row["accuracy"] for row in found["original_attackers"] or ()}
    lines = [
        f"{name} ({len(found['classes'])} classes, n = {found['n']}): {found['verdict']}",
        f"  no attacker in this suite exceeded {highest['accuracy']:.3f} ({highest['attacker']}); "
        f"validation picked {best['attacker']}",
        f"  chance {floors['chance']:.3f}   majority {floors['majority']:.3f}   label floor {floors['label']:.3f}",
        f"  {'attacker':<12}{'accuracy':<24}{'bits':>7}  {'original':>8}",
    ]
    for row in found["attackers"]:
        original = f"{before[row['name']]:.3f}" if row["name"] in before else "–"
        interval = _with_interval(row["accuracy"], row["ci"])
        lines.append(f"  {row['name']:<12}{interval:<24}{row['bits']:>7.3f}  {original:>8}")
    if found["excess_leakage"] is not None:
        lines.append(f"  excess leakage {_with_interval(found['excess_leakage'], found['excess_leakage_ci'])}")
    lines.append(f"  AUM {found['aum']:.3f} (ceiling {found['aum_ceiling']:.3f})")
    return lines + [f"  Warning: {warning}" for warning in found["warnings"]]
