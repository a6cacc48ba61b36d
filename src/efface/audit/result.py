"""What an audit found: frozen, plain values, written to and read from audit.json (a public, versioned contract)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from efface.errors import AuditError, expected
from efface.report.words import aum_text, certified_bound, upwards

SCHEMA_VERSION = "1.1"
OPTIONAL = (
    "suite",
    "controls",
    "learning_curve",
    "selectivity",
    "numbers",
    "layers",
    "other_layers",
    "fairness",
    "training_people",
    "intersections",
    "recovery",
)
"""Sections that 1.0 did not know; those that were not made are left out of the file."""
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
        suite: Who attacked: name, attackers, seeds, epochs, what else was looked at, seconds per attacker.
        controls: Per attribute, what the suite makes of a planted leak, of shuffled labels, and of the original.
        learning_curve: Per attribute, accuracy by the number of training people.
        selectivity: Columns not asked for, as a share of the original's; or None, as all that follow.
        numbers: Per attribute that is a number, cut into classes: the share of its variance that features explain.
        layers: Per attribute, leakage from the input to the logits.
        other_layers: Per further layer that was named, its attributes' entries.
        fairness: Per attribute, the task in its groups.
        training_people: Per attribute, attackers that learned from people the encoder never saw.
        intersections: Per pair of attributes, the entry of their product.
        recovery: Per attribute, what a classifier of real images sees in the decoders' drawings.
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
    suite: Mapping[str, Any] | None = None
    controls: Mapping[str, Any] | None = None
    learning_curve: Mapping[str, Any] | None = None
    selectivity: Mapping[str, Any] | None = None
    numbers: Mapping[str, Any] | None = None
    layers: Mapping[str, Any] | None = None
    other_layers: Mapping[str, Any] | None = None
    fairness: Mapping[str, Any] | None = None
    training_people: Mapping[str, Any] | None = None
    intersections: Mapping[str, Any] | None = None
    recovery: Mapping[str, Any] | None = None

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
        values = {name: value for name, value in values.items() if name not in OPTIONAL or value is not None}
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
        missing = [name for name in known if name not in values and name not in OPTIONAL]
        if missing:
            raise AuditError(f"This is no audit: it lacks {', '.join(missing)}. Try `efface audit` to make it anew.")
        kept = {name: values[name] for name in known if name in values}
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

    def to_markdown(self) -> str:
        """Return the report as Markdown."""
        from efface.report.document import markdown

        return markdown(self.to_dict())

    def to_text(self) -> str:
        """Return the report as plain text; a shorter one is ``summary``."""
        from efface.report.document import plain_text

        return plain_text(self.to_dict())

    def summary(self) -> str:
        """Return a plain-text table of fidelity, floors, attackers and verdicts."""
        lines = [
            f"Audit of {self.name} at {self.model['at']}: {self.data['name']}, {self.split} split, seed {self.seed}"
        ]
        fidelity = self.fidelity
        before = "" if fidelity["original"] is None else f"   original {fidelity['original']:.3f}"
        if fidelity["value"] is not None:
            value = _with_interval(fidelity["value"], fidelity["ci"])
            lines.append(f"Fidelity on {self.data['target']}: {value}{before}   n = {fidelity['n']}")
        for name, found in self.attributes.items():
            lines += ["", *_attribute_lines(name, found, (self.controls or {}).get(name))]
        columns = (self.selectivity or {"columns": ()})["columns"]
        kept = [one for one in columns if one.get("preserved") and one["share"] is not None]
        if kept:
            shares = (f"{one['column']} {_with_interval(one['share']['value'], one['share']['ci'])}" for one in kept)
            lines += ["", f"Kept on request, as shares of what the original told: {', '.join(shares)}"]
        for name, one in (self.numbers or {}).items():
            lines += ["", _number_line(name, one)]
        lines += [f"Warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


@dataclass(frozen=True)
class Attack:
    """What one attacker reached on one attribute; means over attacker seeds.

    Attributes:
        name: Of the attacker.
        accuracy: On the audited people.
        ci: Its interval.
        bits: Lower bound of I(h; z), held out.
        validation_accuracy: What attackers and epochs are picked by.
        epoch: The epoch that was picked, from 1.
        seconds: Time to fit and predict.
        warning: Why not to trust this attacker, or None.
        bits_ci: Interval of the bits.
        balanced_accuracy: Mean over classes of the share guessed right, two-sided if binary; with its interval.
        auc: One class against the rest, averaged, two-sided if binary; with its interval.
        conditional_bits: Lower bound of I(h; z|y), held out; None without a main task; with its interval.
        seeds: How often the attacker was trained.
        per_seed: Accuracy of each.
        note: What else there is to say of the attacker, such as the weights of an ensemble; or None.
        fit: Whether it passed the controls; None: they could not tell.
        unfit: Why not, or None.
    """

    name: str
    accuracy: float
    ci: tuple[float, float]
    bits: float
    validation_accuracy: float
    epoch: int
    seconds: float
    warning: str | None = None
    bits_ci: tuple[float, float] | None = None
    balanced_accuracy: float | None = None
    balanced_accuracy_ci: tuple[float, float] | None = None
    auc: float | None = None
    auc_ci: tuple[float, float] | None = None
    conditional_bits: float | None = None
    conditional_bits_ci: tuple[float, float] | None = None
    seeds: int = 1
    per_seed: tuple[float, ...] = ()
    note: str | None = None
    fit: bool | None = None
    unfit: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _with_interval(value: float, ci: Any) -> str:
    return f"{value:.3f} [{ci[0]:.3f}, {ci[1]:.3f}]"


def _number_line(name: str, found: Mapping[str, Any]) -> str:
    """How much of the number behind an attribute is told."""
    share = _with_interval(found["value"]["value"], found["value"]["ci"])
    others = {"by the original": found["original"], "by the target alone": found["target"]}
    told = "".join(f"; {by} {figure['value']:.3f}" for by, figure in others.items() if figure)
    return f"The number behind {name}: share of its variance explained {share}{told}"


def _attribute_lines(name: str, found: Mapping[str, Any], controls: Mapping[str, Any] | None) -> list[str]:
    floors, best, highest = found["floors"], found["best"], found["highest"]
    before = {row["name"]: row["accuracy"] for row in found["original_attackers"] or ()}
    lines = [
        f"{name} ({len(found['classes'])} classes, n = {found['n']}): {found['verdict']}",
        f"  no attacker in this suite exceeded {highest['accuracy']:.3f} ({highest['attacker']}); "
        f"validation picked {best['attacker']}",
        f"  chance {floors['chance']:.3f}   majority {floors['majority']:.3f}   label floor {floors['label']:.3f}",
        f"  {'attacker':<15}{'accuracy':<24}{'bits':>7}  {'original':>8}",
    ]
    for row in found["attackers"]:
        original = f"{before[row['name']]:.3f}" if row["name"] in before else "–"
        interval = _with_interval(row["accuracy"], row["ci"])
        lines.append(f"  {row['name']:<15}{interval:<24}{row['bits']:>7.3f}  {original:>8}")
    if found["excess_leakage"] is not None:
        lines.append(
            f"  excess leakage {_with_interval(found['excess_leakage'], found['excess_leakage_ci'])}; "
            f"{highest['excess_leakage']:.3f} by the highest attacker"
        )
    if kept := found.get("kept"):
        lines.append(
            f"  told by target and kept columns alone ({', '.join(kept['columns'])}): "
            f"{_with_interval(kept['accuracy'], kept['ci'])}"
        )
    if certificate := found.get("certificate"):
        bound, sure = upwards(certified_bound(certificate)), certificate["confidence"]
        lines.append(
            f"  certified: no attacker can exceed {bound:.3f} with {sure:.0%} confidence (assumptions: the report)"
        )
    if found["aum"] is not None:
        lines.append(f"  AUM {aum_text(found)}")
    if controls is not None:
        lines.append(f"  {_control_line(controls)}")
    lines += [f"  unfit: {row['name']} {row['unfit']}" for row in found["attackers"] if row.get("unfit")]
    return lines + [f"  Warning: {warning}" for warning in found["warnings"]]


def _control_line(controls: Mapping[str, Any]) -> str:
    planted, shuffled = controls["planted"], controls["shuffled"]
    found = sum(bool(row["fit"]) for row in planted["attackers"])
    quiet = f"{shuffled['covered']} of {len(shuffled['attackers'])} intervals cover the floor of shuffled labels"
    verdict = "passed" if controls["passed"] else "failed"
    return f"controls {verdict}: {found} of {len(planted['attackers'])} attackers find a planted leak; {quiet}"
