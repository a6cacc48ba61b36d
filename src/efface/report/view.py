"""What the templates show: audit.json turned into texts, rows and positions. No HTML here, and no matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from efface.report import words
from efface.report.folder import Run
from efface.report.formats import (
    DASH,
    Number,
    count,
    duration,
    interval,
    is_number,
    memory,
    number,
    percent,
    points,
    quantity,
)

PHASES = {
    "read_s": "Read data",
    "train_original_s": "Train original",
    "train_unlearned_s": "Unlearn",
    "audit_s": "Audit",
    "report_s": "Report",
}
"""Times that add up to the whole; ``train_s`` is the sum of both trainings."""
PARTS = {
    "features_s": "of the audit: computing features",
    "attacks_s": "of the audit: attackers",
    "controls_s": "of the audit: controls",
    "layers_s": "of the audit: layer map",
    "selectivity_s": "of the audit: other columns",
    "numbers_s": "of the audit: numbers behind classes",
    "fairness_s": "of the audit: groups",
    "intersections_s": "of the audit: pairs of attributes",
    "training_people_s": "of the audit: whom attackers learned from",
    "learning_curve_s": "of the audit: learning curves",
    "reconstruction_s": "of the audit: decoders",
}
"""Times within the audit."""

STATES = {words.LEAKS: "leaks", words.AT_FLOOR: "at-floor", words.INCONCLUSIVE: "inconclusive"}
"""Verdict → colour role."""


def setting_of(audit: Mapping[str, Any]) -> words.Setting:
    """Return what the sentences need to know."""
    return words.Setting(audit["data"]["target"], audit.get("split") or "test", audit.get("confidence") or 0.95)


def facts(audit: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the line of facts under the title."""
    data, model = audit["data"], audit["model"]
    rows = [
        ("Data", data["name"]),
        ("Task kept", data.get("target")),
        ("Model", model.get("name")),
        ("Features at", layer(model.get("at"))),
        ("Suite", suite(audit)),
        ("Audited on", f"{audit.get('split') or 'test'} split"),
        ("Seed", None if audit.get("seed") is None else str(audit["seed"])),
        ("Made", str(audit.get("created") or "").replace("T", " ")[:16]),
    ]
    return [(label, text) for label, text in rows if text]


def suite(audit: Mapping[str, Any]) -> str:
    """Return who attacked, in short; nothing where the file does not say."""
    found = audit.get("suite") or {}
    if not found:
        return ""
    many = len(found["attackers"])
    named = f"{many} attacker{'s' if many > 1 else ''}"
    return named if found["name"] == "custom" else f"{found['name']}, {named}"


def layer(at: Any) -> str:
    """Return the cut as text.

    Example:
        >>> layer(["layer1", "layer2"])
        'layer1, layer2'
    """
    return ", ".join(map(str, at)) if isinstance(at, (list, tuple)) else str(at or "")


def cards(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the verdict card of every attribute."""
    setting, controls = setting_of(audit), audit.get("controls") or {}
    return [card(name, one, setting, controls.get(name)) for name, one in audit["attributes"].items()]


def card(
    name: str, attribute: Mapping[str, Any], setting: words.Setting, controls: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the verdict card of an attribute."""
    best, floors = attribute["best"], attribute["floors"]
    many = len(attribute["attackers"])
    return {
        "name": name,
        "who": f"best of {many} attackers" if many > 1 else "the one attacker",
        "state": STATES[attribute["verdict"]],
        "label": words.LABELS[attribute["verdict"]],
        "headline": words.headline(name, attribute),
        "sentences": words.explanation(name, attribute, setting),
        "after": percent(best["accuracy"]),
        "ci": interval(best.get("ci")),
        "before": percent(attribute["original_best"]) if is_number(attribute.get("original_best")) else None,
        "scale": scale(attribute),
        "floors": [(title, percent(floors[key])) for key, title in FLOORS.items()],
        "measures": [*measures(attribute, setting), *_controls(controls)],
    }


FLOORS = {"label": "Label floor", "majority": "Majority", "chance": "Chance"}


def measures(attribute: Mapping[str, Any], setting: words.Setting) -> list[dict[str, str]]:
    """Return the numbers of a card that need a word of explanation."""
    excess, ci = attribute.get("excess_leakage"), interval(attribute.get("excess_leakage_ci"))
    before, beyond = attribute.get("original_aum"), conditional_bits_of(attribute)
    at_least = "by the best attacker, at least"
    rows = [
        {
            "label": "Excess leakage",
            "value": percent(excess),
            "note": (f"{setting.interval} {ci}" if ci else _no_excess(attribute)) + _by_highest(attribute),
        },
        {
            "label": "Information read",
            "value": f"{number(bits_of(attribute))} bits",
            "note": f"{at_least}; {number(beyond)} beyond the task answer" if is_number(beyond) else at_least,
        },
        *_kept(attribute),
        _certificate(attribute),
    ]
    if is_number(attribute.get("aum")):
        note = f"{number(before)} before" if is_number(before) else ""
        rows.append({"label": "AUM", "value": words.aum_text(attribute), "note": note})
    return rows


def _controls(found: Mapping[str, Any] | None) -> list[dict[str, str]]:
    if not found:
        return []
    value, note = words.controls_measure(found)
    return [{"label": "Controls", "value": value, "note": note}]


def _kept(attribute: Mapping[str, Any]) -> list[dict[str, str]]:
    found = attribute.get("kept")
    if not found:
        return []
    note = f"by the true task and {', '.join(found['columns'])} alone, without any feature"
    return [{"label": "Told by what was kept", "value": percent(found["accuracy"]), "note": note}]


def _certificate(attribute: Mapping[str, Any]) -> dict[str, str]:
    found = attribute.get("certificate")
    if not found:
        return {"label": "Certified", "value": "nothing", "note": "continuous features carry no certificate"}
    note = f"whatever the attacker computes; {percent(found['confidence'], 0)} confidence"
    bound = words.upwards(words.certified_bound(found))
    return {"label": "Certified", "value": f"at most {percent(bound)}", "note": note}


def _by_highest(attribute: Mapping[str, Any]) -> str:
    found = (attribute.get("highest") or {}).get("excess_leakage")
    excess = attribute.get("excess_leakage")
    # Worth a word where validation picked an attacker that another one beats.
    return (
        f"; {percent(found)} by the highest attacker" if is_number(found) and percent(found) != percent(excess) else ""
    )


def _no_excess(attribute: Mapping[str, Any]) -> str:
    if attribute.get("excess_leakage") is not None:
        return ""
    known = is_number(attribute.get("original_best"))
    return "no leak was found in the original" if known else "needs the original model"


def bits_of(attribute: Mapping[str, Any]) -> Number | None:
    """Return the bits that the best attacker reads."""
    best = attribute["best"]
    if best.get("bits") is not None:
        return best["bits"]
    return next((run.get("bits") for run in attribute["attackers"] if run["name"] == best["attacker"]), None)


def conditional_bits_of(attribute: Mapping[str, Any]) -> Number | None:
    """Return the bits that the best attacker reads beyond the task answer, or None."""
    name = attribute["best"]["attacker"]
    return next((run.get("conditional_bits") for run in attribute["attackers"] if run["name"] == name), None)


def scale(attribute: Mapping[str, Any]) -> dict[str, Any]:
    """Return positions, in percent of the width, on a bar from 0 to 100 % accuracy."""

    def place(value: Any) -> Number | None:
        return round(100 * min(max(value, 0.0), 1.0), 2) if is_number(value) else None

    after, floor, before = (
        place(value)
        for value in (attribute["best"]["accuracy"], attribute["floors"]["label"], attribute.get("original_best"))
    )
    low, high = sorted((after or 0.0, floor or 0.0))
    told = f"On a bar from 0 to 100 %: label floor {percent(attribute['floors']['label'])}, "
    told += f"best attacker {percent(attribute['best']['accuracy'])}"
    told += f", before {percent(attribute['original_best'])}." if before is not None else "."
    return {"after": after, "floor": floor, "before": before, "low": low, "width": round(high - low, 2), "alt": told}


def fidelity(audit: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fidelity section."""
    values = audit["fidelity"]
    known = is_number(values.get("original")) and is_number(values["value"])
    return {
        "known": is_number(values["value"]),
        "sentence": words.fidelity_sentence(values, setting_of(audit)),
        "after": percent(values["value"]),
        "after_ci": interval(values.get("ci")),
        "before": percent(values["original"]) if known else None,
        "before_ci": interval(values.get("original_ci")),
        "change": points(values["value"] - values["original"]) if known else None,
    }


def attackers(attribute: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row per attacker, with what it got from the original model."""
    before = {run["name"]: run for run in attribute.get("original_attackers") or ()}
    rows = []
    for run in attribute["attackers"]:
        original = before.get(run["name"], {})
        rows.append(
            {
                "name": run["name"],
                "best": run["name"] == attribute["best"]["attacker"],
                "accuracy": percent(run["accuracy"]),
                "ci": interval(run.get("ci")),
                "balanced": percent(run.get("balanced_accuracy")),
                "auc": number(run.get("auc")),
                "bits": number(run.get("bits")),
                "bits_ci": bits_interval(run.get("bits_ci")),
                "conditional": number(run.get("conditional_bits")),
                "conditional_ci": bits_interval(run.get("conditional_bits_ci")),
                "validation": percent(run.get("validation_accuracy")),
                "before": percent(original.get("accuracy")),
                "before_bits": number(original.get("bits")),
                "seconds": duration(run.get("seconds")),
                "epoch": count(run.get("epoch")),
                "warning": _attacker_warning(run),
                "note": _attacker_note(run),
            }
        )
    return rows


def bits_interval(ci: Any) -> str:
    """Return an interval in bits, or nothing."""
    return f"{number(ci[0])} to {number(ci[1])}" if ci else ""


def _attacker_warning(run: Mapping[str, Any]) -> str | None:
    unfit = f"unfit: {run['unfit']}" if run.get("unfit") else None
    return "; ".join(filter(None, (run.get("warning"), unfit))) or None


def _attacker_note(run: Mapping[str, Any]) -> str:
    seeds = run.get("seeds") or 1
    notes = [f"mean of {seeds} seeds"] if seeds > 1 else []
    return "; ".join([*notes, *([str(run["note"])] if run.get("note") else [])])


def has_figures(audit: Mapping[str, Any]) -> bool:
    """Return whether attackers have more figures than accuracy and bits."""
    runs = [run for attribute in audit["attributes"].values() for run in attribute["attackers"]]
    return any(is_number(run.get("balanced_accuracy")) for run in runs)


def references(attribute: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the rows below the attackers: floors and ceiling, each with its meaning."""
    floors, classes = attribute["floors"], attribute.get("classes") or ()
    chance = f"guessing at random among {len(classes)} classes" if classes else "guessing at random"
    rows = [
        ("Chance", percent(floors["chance"]), chance),
        ("Majority", percent(floors["majority"]), "always naming the most frequent class"),
        ("Label floor", percent(floors["label"]), "knowing the task answer and nothing else"),
    ]
    if is_number(attribute.get("original_best")):
        rows.append(
            (
                "Ceiling",
                percent(attribute["original_best"]),
                "validation’s pick of the attackers, on the original model",
            )
        )
    return rows


def phases(audit: Mapping[str, Any], report_s: Number | None) -> dict[str, Any] | None:
    """Return seconds per phase with their shares of the total, and peak memory; None if nothing was measured.

    Args:
        audit: Content of audit.json.
        report_s: Seconds that this rendering took so far, shown where audit.json does not say.
    """
    measured = dict(audit.get("phases") or {})
    if not any(is_number(value) for value in measured.values()):
        return None
    if not is_number(measured.get("report_s")):
        measured["report_s"] = report_s
    rows = [(label, measured[key]) for key, label in PHASES.items() if is_number(measured.get(key))]
    total = sum(seconds for _, seconds in rows) or 1.0
    return {
        "rows": [
            {"label": label, "text": duration(seconds), "share": percent(seconds / total, 0), "flex": round(seconds, 3)}
            for label, seconds in rows
        ],
        "parts": [(label, duration(measured[key])) for key, label in PARTS.items() if is_number(measured.get(key))],
        "total": duration(total),
        "memory": memory(measured.get("peak_rss_mb")),
    }


def hardware(environment: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return the machine as rows."""
    values = dict((environment or {}).get("hardware") or {})
    memory_gb = values.get("memory_gb")
    rows = {
        "Processor": values.get("cpu"),
        "Cores": values.get("cores"),
        "Memory": f"{number(memory_gb, 1)} GB" if is_number(memory_gb) else None,
        "Accelerator": values.get("accelerator") or ("none" if values else None),
        "Started": str((environment or {}).get("started") or "").replace("T", " ")[:16],
    }
    return [(label, str(value)) for label, value in rows.items() if value]


def versions(environment: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return package versions as rows, Python first."""
    values = environment or {}
    rows = {"Python": values.get("python"), "torch": values.get("torch"), **(values.get("versions") or {})}
    return [(str(name), str(version)) for name, version in rows.items() if version]


def model_rows(audit: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the model and its auxiliary network as rows."""
    model, auxiliary = audit["model"], audit["model"].get("auxiliary") or {}
    shape = "×".join(map(str, model.get("feature_shape") or ()))
    rows = [
        ("Architecture", model.get("name") or DASH),
        ("Cut at", layer(model.get("at")) or DASH),
        ("Released features", shape),
        ("Parameters", quantity(model["parameters"]) if model.get("parameters") else ""),
        ("Auxiliary parameters", _share(auxiliary, "parameters")),
        ("Auxiliary FLOPs", _share(auxiliary, "flops")),
    ]
    return [(label, text) for label, text in rows if text]


def columns(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the columns of the data set with their class counts per split."""
    schema = audit["data"].get("schema") or {}
    parts = [("task", [schema["target"]] if schema.get("target") else [])]
    parts += [("attribute", schema.get("attributes") or []), ("other", schema.get("others") or [])]
    rows = []
    for role, members in parts:
        for column in members:
            rows.append(
                {"name": column["name"], "role": role, "classes": _classes(column), "missing": _missing(column)}
            )
    return rows


def splits(audit: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return images per split."""
    return [(name, count(n)) for name, n in (audit["data"].get("n") or {}).items()]


def warnings(run: Run) -> list[tuple[str, str]]:
    """Return every warning of the audit and every note of the reader, with where it comes from; no text twice."""
    audit = run.audit
    found = [("Audit", text) for text in audit.get("warnings") or ()]
    found += [("Data", text) for text in audit["data"].get("warnings") or ()]
    for name, attribute in audit["attributes"].items():
        found += [(name, text) for text in attribute.get("warnings") or ()]
        told = [(run_["name"], _attacker_warning(run_)) for run_ in attribute["attackers"]]
        found += [(f"{name}, {attacker}", text) for attacker, text in told if text]
    found += [("Run folder", text) for text in run.notes]
    return list(dict.fromkeys(found))


def reconstruction_rows(audit: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return decoder quality, (model, PSNR, SSIM)."""
    values = audit.get("reconstruction") or {}
    rows = []
    for model in ("original", "unlearned"):
        quality = values.get(model) or {}
        if quality:
            rows.append(
                (f"From the {model} features", f"{number(quality.get('psnr'), 1)} dB", number(quality.get("ssim")))
            )
    return rows


def _share(auxiliary: Mapping[str, Any], name: str) -> str:
    value, share = auxiliary.get(name), auxiliary.get(f"share_{name}")
    if not is_number(value):
        return ""
    return f"{quantity(value)} ({percent(share)} of the model’s)" if is_number(share) else quantity(value)


def _classes(column: Mapping[str, Any]) -> list[dict[str, Any]]:
    counts = column.get("counts") or {}
    return [
        {"name": name, "counts": [count(counts[split][i]) if i < len(counts[split]) else DASH for split in counts]}
        for i, name in enumerate(column["classes"])
    ]


def _missing(column: Mapping[str, Any]) -> int:
    return sum((column.get("missing") or {}).values())
