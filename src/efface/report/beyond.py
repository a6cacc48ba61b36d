"""Sections of the report beside the attackers: layers, other columns, groups, pairs, drawings, training people.

Each is a function of audit.json; a section that the audit did not make is None. No HTML here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from efface.report import view, words
from efface.report.blocks import Block, Cell, Section, bits, share, table
from efface.report.formats import count, interval, is_number, number, percent, points

METRICS = {
    "accuracy": "accuracy",
    "demographic_parity": "demographic parity difference",
    "equalized_odds": "equalized odds difference",
}
KEPT = "kept on request"
"""Of a column that `method.preserve` names."""
MOST_GROUPS = 12
"""Groups that are shown one by one."""


def layers(audit: Mapping[str, Any]) -> Section | None:
    """Return the layer map: where an attribute lives, and where it comes back."""
    found = audit.get("layers")
    if not found:
        return None
    return Section(
        "layers",
        "Layer map: where an attribute is readable",
        "Layers",
        "A linear probe and a small perceptron read a summary of what each layer gives, from the input to the logits: "
        "cheaper than the attackers below, and weaker. Every layer holds at least what is read behind it.",
        tuple(_layer_block(name, one) for name, one in found.items()),
    )


def _layer_block(name: str, found: Mapping[str, Any]) -> Block:
    known = any(point.get("original") for point in found["points"])
    head = ("layer", "accuracy", *(("on the original", "excess leakage") if known else ()), "bits", "probe")
    rows = []
    for point in found["points"]:
        here = " (released)" if point["layer"] == found.get("released") else ""
        before = (share(point.get("original")), share(point.get("excess_leakage"))) if known else ()
        note = "more than at the released layer" if point.get("comes_back") else ""
        rows.append(
            (
                Cell(f"{point['layer']}{here}", note),
                share(point["accuracy"]),
                *before,
                bits(point.get("bits")),
                Cell(str(point.get("attacker") or "")),
            )
        )
    attribute = {
        "attackers": [{"name": p["layer"], **_flat(p["accuracy"])} for p in found["points"]],
        "original_attackers": [{"name": p["layer"], **_flat(p["original"])} for p in found["points"] if known],
        "floors": {"majority": found.get("majority"), "label": found["floor"]},
        "released": found.get("released"),
    }
    made = table(f"What probes read of {name}, layer by layer", head, rows, words=[len(head) - 1])
    return Block(name, (words.layers_sentence(name, found),), (made,), attribute, tuple(found.get("warnings") or ()))


def selectivity(audit: Mapping[str, Any]) -> Section | None:
    """Return what became of the columns that were not asked for."""
    found = audit.get("selectivity")
    if not found:
        return None
    rows = [
        (
            Cell(one["column"], "; ".join(text for text in (one.get("preserved") and KEPT, one.get("note")) if text)),
            share(one["accuracy"]),
            share(one["original"]),
            percent(one["majority"]),
            share(one["share"]) if one.get("share") else Cell("–", "not readable before"),
            percent(one.get("overlap"), 0),
        )
        for one in found["columns"]
    ]
    head = ("column", "now", "before", "majority", "share kept", "told by the attributes")
    made = table("Columns that were not to be unlearned", head, rows)
    skipped = tuple(f"{name}: not probed. {why}" for name, why in (found.get("skipped") or {}).items())
    return Section(
        "selectivity",
        "Selectivity: what else was lost",
        "Selectivity",
        "Probes for every other column, before and after. Share kept: 100 % is as readable as before, 0 % no better "
        "than always naming the most frequent class. A column that the attributes tell must lose as they do.",
        (Block("", (words.selectivity_sentence(found),), (made,), None, skipped),),
    )


def numbers(audit: Mapping[str, Any]) -> Section | None:
    """Return how much of attributes that are numbers is told, as numbers."""
    found = audit.get("numbers")
    if not found:
        return None
    rows = [
        (
            Cell(name, f"{count(one.get('n'))} people"),
            share(one["value"]),
            share(one.get("original")),
            share(one.get("target")),
            share(one["excess"]) if one.get("excess") else Cell("–", _no_excess(one)),
            Cell(", ".join(dict.fromkeys(one.get("picked") or ()))),
        )
        for name, one in found.items()
    ]
    head = ("attribute", "explained now", "before", "by the target alone", "excess", "regressor")
    made = table("Share of the number’s variance that is explained (R²)", head, rows, words=[5])
    note = (
        "These attributes are numbers that were cut into classes; attackers guess the class, and within a class the "
        "number may still be told. A ridge regression, a small perceptron and boosted trees on pooled features guess "
        "the number: validation picks one. 100 % is all of its variance, 0 % no better than the mean."
    )
    return Section("numbers", "Read as numbers", "Numbers", note, (Block(tables=(made,)),))


def _no_excess(one: Mapping[str, Any]) -> str:
    if not one.get("original"):
        return "no original to compare with"
    return "the original tells no more than y" if one.get("target") else "the original tells nothing"


def recovery(audit: Mapping[str, Any]) -> Section | None:
    """Return what a classifier of real images sees in the decoders' drawings."""
    found = audit.get("recovery")
    if not found:
        return None
    rows = [
        (
            Cell(name, f"{count(one.get('n'))} images"),
            share(one["real"]),
            share(one["drawn"].get("original")),
            share(one["drawn"].get("unlearned")),
            percent(one["floors"]["label"]),
        )
        for name, one in found.items()
    ]
    head = ("attribute", "real images", "drawn before", "drawn now", "label floor")
    text = (
        "A classifier trained on real images reads each attribute off the drawings. It never saw features or drawings."
    )
    made = Block("Read off the drawings", (text,), (table("Attributes read off images", head, rows),))
    return Section("recovery", "Read off the drawings", "", "", (made,))


def groups(audit: Mapping[str, Any]) -> Section | None:
    """Return how the task fares in the groups of each attribute."""
    found = audit.get("fairness")
    if not found:
        return None
    return Section(
        "groups",
        "The task in each group",
        "Groups",
        "Unlearning an attribute from features promises neither equal accuracy nor equal rates. These are fairlearn’s "
        "figures, groups of fewer than 30 people left out of the differences.",
        tuple(_group_block(name, one) for name, one in found.items()),
    )


def _group_block(name: str, found: Mapping[str, Any]) -> Block:
    known = any(group.get("original") for group in found["groups"])
    head = ("group", "images", "accuracy", *(("before", "change") if known else ()))
    rows = []
    for group in found["groups"][:MOST_GROUPS]:
        change = group.get("change") or {}
        more = (share(group.get("original")), Cell(points(change.get("value")))) if known else ()
        rows.append(
            (
                Cell(group["group"], "few" if group.get("small") else ""),
                count(group["n"]),
                share(group["accuracy"]),
                *more,
            )
        )
    difference_rows = [
        (
            Cell(METRICS.get(metric, metric), f"class {one['target_class']}" if one.get("target_class") else ""),
            share(one["value"]),
            *((share(one.get("original")),) if known else ()),
        )
        for metric, one in found["differences"].items()
    ]
    tables = [table(f"Accuracy of {found['target']} by {name}", head, rows)]
    if difference_rows:
        caption = f"Largest difference between groups of {name}"
        tables.append(table(caption, ("figure", "now", *(("before",) if known else ())), difference_rows))
    return Block(name, (), tuple(tables), None, tuple(found.get("notes") or ()))


def training_people(audit: Mapping[str, Any]) -> Section | None:
    """Return attackers that learned from the encoder's people, and from people it never saw."""
    found = audit.get("training_people")
    if not found:
        return None
    rows = [
        (
            name,
            *(
                Cell(percent(one[key]["value"]), f"{count(one[key]['people'])} people")
                for key in ("own", "matched", "unseen")
            ),
            Cell(points(one["difference"]["value"]), words.points_interval(one["difference"].get("ci"))),
        )
        for name, one in found.items()
    ]
    head = ("attribute", "the encoder’s people", "as few of them", "people it never saw", "difference")
    made = table("Accuracy of probes, by whom they learned from", head, rows)
    note = "Probes only. The difference is what it changes who the training people are, their number aside."
    return Section("learned", "Whom attackers learned from", "Training people", note, (Block(tables=(made,)),))


def intersections(audit: Mapping[str, Any]) -> Section | None:
    """Return pairs of attributes, attacked as one."""
    found = audit.get("intersections")
    if not found:
        return None
    rows = []
    for name, one in found.items():
        given = (one.get("product_floors") or {}).get("given") or {}
        known = max((value for value in given.values() if is_number(value)), default=None)
        rows.append(
            (
                Cell(name, f"{len(one['classes'])} classes"),
                words.LABELS[one["verdict"]],
                Cell(percent(one["best"]["accuracy"]), interval(one["best"].get("ci"))),
                percent(one.get("original_best")),
                percent(one["floors"]["label"]),
                percent(known),
            )
        )
    head = ("pair", "verdict", "best probe", "before", "label floor", "knowing one of the two")
    made = table("Pairs of attributes, guessed together", head, rows, words=[1])
    note = "Two attributes may each be at the floor while the pair is not. Probes only."
    return Section("pairs", "Pairs of attributes", "Pairs", note, (Block(tables=(made,)),))


def other_layers(audit: Mapping[str, Any]) -> Section | None:
    """Return the other layers that the whole suite attacked."""
    found = audit.get("other_layers")
    if not found:
        return None
    every = {audit["model"].get("at"): audit, **found}
    rows = []
    for layer, one in every.items():
        for name, attribute in one["attributes"].items():
            best = attribute["best"]
            rows.append(
                (
                    Cell(str(layer), "×".join(map(str, _shape(one)))),
                    name,
                    words.LABELS[attribute["verdict"]],
                    Cell(percent(best["accuracy"]), interval(best.get("ci"))),
                    best["attacker"],
                    percent(attribute["floors"]["label"]),
                    number(view.bits_of(attribute)),
                )
            )
    head = ("layer", "attribute", "verdict", "best attacker", "", "label floor", "bits")
    made = table("Every layer that the whole suite attacked", head, rows, words=[1, 2, 4])
    return Section("others", "The same suite at other layers", "Other layers", "", (Block(tables=(made,)),))


def _shape(one: Mapping[str, Any]) -> Sequence[Any]:
    return one.get("feature_shape") or (one.get("model") or {}).get("feature_shape") or ()


def _flat(figure: Any) -> dict[str, Any]:
    figure = figure or {}
    return {"accuracy": figure.get("value"), "ci": figure.get("ci")}


def controls(audit: Mapping[str, Any]) -> Section | None:
    """Return what the attackers make of a leak that was planted, and of labels that were shuffled."""
    found = audit.get("controls")
    if not found:
        return None
    return Section(
        "controls",
        "Controls: would these attackers see a leak?",
        "Controls",
        "On the features of this very model, each attacker is asked of a made-up attribute: written faintly into the "
        "features (for readers of the answer alone, into the answer), and not written at all. Found: 100 % is all that "
        "can be gained by reading what was written. An attacker that finds nothing of it is unfit: that it finds "
        "nothing of the attribute shows nothing.",
        tuple(_control_block(name, one) for name, one in found.items()),
    )


def _control_block(name: str, found: Mapping[str, Any]) -> Block:
    planted, shuffled = found["planted"], found["shuffled"]
    quiet = {run["name"]: run for run in shuffled["attackers"]}
    rows = []
    for run in planted["attackers"]:
        other = quiet.get(run["name"], {})
        alarm = Cell(percent(other.get("accuracy")), interval(other.get("ci")))
        state = {True: "fit", False: "unfit", None: "not known"}[False if other.get("alarm") else run["fit"]]
        rows.append(
            (
                Cell(run["name"]),
                _rounded(run.get("share")),
                alarm,
                Cell(state, "false alarm" if other.get("alarm") else ""),
            )
        )
    head = ("attacker", "found of what was planted", "accuracy on shuffled labels", "so it is")
    made = table(f"Controls of the attackers on {name}", head, rows, words=[len(head) - 1])
    people, features = found.get("people") or {}, "×".join(map(str, found.get("features") or ()))
    size = (
        f"Taken from {count(people.get('train'))} training people, {count(people.get('audited'))} audited, "
        if people
        else ""
    )
    marks = [f"{size}features of {features}; floor of the shuffled labels {percent(shuffled['floor'])}."]
    return Block(name, (words.controls_sentence(name, found),), (made,), None, (*marks, *(found.get("failed") or ())))


def _rounded(figure: Any) -> Cell:
    figure = figure or {}
    return Cell(percent(figure.get("value"), 0), interval(figure.get("ci"), 0))


def learning_curve(audit: Mapping[str, Any]) -> Section | None:
    """Return what the best attacker reaches with fewer training people."""
    found = audit.get("learning_curve")
    if not found:
        return None
    blocks = []
    for name, one in found.items():
        rows = [(count(point["people"]), share(point["accuracy"])) for point in one["points"]]
        made = table(f"Accuracy of {one['attacker']} on {name}", ("training people", "accuracy"), rows)
        blocks.append(Block(name, (words.learning_sentence(name, one),), (made,)))
    return Section("learning", "Learning curve: would more people help?", "Learning curve", "", tuple(blocks))


def before_people(audit: Mapping[str, Any]) -> list[Section]:
    """Return the sections that come before the reconstructions."""
    made = (controls, numbers, learning_curve, selectivity)
    return [section for make in made if (section := make(audit)) is not None]


def after_people(audit: Mapping[str, Any]) -> list[Section]:
    """Return the sections that come after them."""
    made = (groups, intersections, training_people)
    return [section for make in made if (section := make(audit)) is not None]
