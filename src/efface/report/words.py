"""The sentences of a report: only what the numbers carry, in words that a lawyer can read.

A sentence says what attackers did, never what no attacker can do: features are continuous, and a classifier only
bounds the information from below. Pure functions of the dictionaries in audit.json.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from efface.report.formats import DASH, NBSP, count, interval, is_number, number, percent, points

LEAKS = "leaks"
AT_FLOOR = "at the floor for this suite"
INCONCLUSIVE = "inconclusive"

LABELS = {LEAKS: "Leaks", AT_FLOOR: "At the floor for this suite", INCONCLUSIVE: "Inconclusive"}
"""What the verdicts of audit.json are called on the page."""

CAVEAT = (
    "These numbers describe the attackers that were tried. Another attacker may do better: "
    "continuous features carry no certificate."
)
NOTHING_CERTIFIED = "Nothing is certified."
CERTIFIED_CAVEAT = (
    "Figures without the word “certified” describe the attackers that were tried. Another attacker may do better, but "
    "not better than what is certified, under the assumptions named there."
)

ABSENT = {
    "original": (
        "The original model was not audited, so there is no “before”, no ceiling and no excess leakage.",
        "`efface run CONFIG` trains and audits the original model beside the unlearned one; `efface audit --original` "
        "takes one made elsewhere.",
    ),
    "metrics": (
        "No training curves: the report was made from an audit alone, or metrics.jsonl is not in the run folder.",
        "`efface run CONFIG` writes metrics.jsonl while it trains.",
    ),
    "reconstructions": (
        "No reconstructions: decoders are trained where there is an original model to compare with.",
        "`efface run CONFIG` and `efface audit RUN` draw them, unless `audit.reconstruction` is false.",
    ),
    "config": (
        "No settings: the report was made from an audit alone, or config.yaml is not in the run folder.",
        "`efface run CONFIG` keeps its whole configuration in the run folder.",
    ),
    "environment": (
        "Versions and hardware were not recorded.",
        "`efface run CONFIG` writes environment.json.",
    ),
    "command": (
        "No command was recorded: this audit was made from Python.",
        "`efface run CONFIG` records the command line that makes it again.",
    ),
    "phases": (
        "Seconds and memory were not measured.",
        "`efface run CONFIG` measures each phase.",
    ),
    "schema": (
        "The columns of the data set were not recorded.",
        "`efface run CONFIG` and `efface audit RUN` record them.",
    ),
}
"""What is missing, and how to get it."""


@dataclass(frozen=True)
class Setting:
    """What every sentence of a report needs to know.

    Attributes:
        target: Name of the task y; None: there is none.
        split: Split that was read once for the verdict.
        confidence: Confidence of the intervals, a fraction.
    """

    target: str | None = "the task"
    split: str = "test"
    confidence: float = 0.95

    @property
    def interval(self) -> str:
        """Return '95 % interval'."""
        return f"{self.level} interval"

    @property
    def level(self) -> str:
        """Return '95 %'."""
        return percent(self.confidence, 0)


def highest(attribute: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the attacker with the highest accuracy of all, ``{attacker, accuracy, …}``.

    It may beat the *best* attacker, which is the one that validation picked.

    Example:
        >>> highest({"attackers": [{"name": "mlp", "accuracy": 0.6}], "best": {"attacker": "mlp", "accuracy": 0.6}})
        {'attacker': 'mlp', 'accuracy': 0.6, 'ci': None}
    """
    if attribute.get("highest"):
        return attribute["highest"]
    runs = [run for run in attribute["attackers"] if is_number(run.get("accuracy"))]
    if not runs:
        return attribute["best"]
    top = max(runs, key=lambda run: run["accuracy"])
    return {"attacker": top["name"], "accuracy": top["accuracy"], "ci": top.get("ci")}


def headline(name: str, attribute: Mapping[str, Any]) -> str:
    r"""Return the verdict on an attribute as one short sentence.

    Example:
        >>> glasses = {"verdict": "leaks", "best": {"attacker": "mlp", "accuracy": 0.713}, "attackers": []}
        >>> headline("glasses", glasses).replace("\xa0", " ")
        'Leaks: an attacker guesses “glasses” correctly for 71.3 % of the images.'
    """
    top = percent(highest(attribute)["accuracy"])
    if attribute["verdict"] == LEAKS:
        return f"Leaks: an attacker guesses “{name}” correctly for {top} of the images."
    if attribute["verdict"] == AT_FLOOR:
        return f"No attacker in this suite exceeded {top} on “{name}”."
    return f"Inconclusive because {inconclusive_reason(attribute)}."


def inconclusive_reason(attribute: Mapping[str, Any]) -> str:
    """Return why an attribute has no verdict: the audit's remarks, else its attackers', else the interval."""
    reasons = [_clause(text[:1].lower() + text[1:]) for text in attribute.get("warnings") or ()]
    reasons = reasons or [_blamed(run["name"], run["warning"]) for run in attribute["attackers"] if run.get("warning")]
    if reasons:
        return "; ".join(dict.fromkeys(reasons))
    best, floor = attribute["best"], attribute["floors"]["label"]
    if interval(best.get("ci")):
        return (
            f"the interval {interval(best['ci'])} does not tell the best attacker from the label floor {percent(floor)}"
        )
    return f"the audit has no interval to tell the best attacker from the label floor {percent(floor)}"


def explanation(name: str, attribute: Mapping[str, Any], setting: Setting) -> list[str]:
    """Return the sentences under a verdict: who guesses how well, what blind guessing gets, the floor, the past."""
    told = [
        _best(name, attribute, setting),
        _blind(attribute["floors"], setting),
        _told_by_kept(name, attribute, setting),
        _before(attribute),
        certified(attribute) or NOTHING_CERTIFIED,
    ]
    return [sentence for sentence in told if sentence]


def fidelity_sentence(fidelity: Mapping[str, Any], setting: Setting) -> str:
    r"""Return how well the task is still done, and how well it was.

    Example:
        >>> fidelity_sentence({"value": 0.968, "ci": [0.96, 0.975]}, Setting("smiling")).replace("\xa0", " ")
        'The task “smiling” is answered correctly for 96.8 % of the test images (95 % interval 96.0–97.5 %).'
    """
    if not is_number(fidelity.get("value")):
        return "No task was named, so there is no fidelity."
    after = f"The task “{setting.target}” is answered correctly for {percent(fidelity['value'])} of "
    after += f"{_images(fidelity.get('n'), setting)}{_bracket(fidelity.get('ci'), setting)}"
    if not is_number(fidelity.get("original")):
        return f"{after}."
    change = points(fidelity["value"] - fidelity["original"])
    before = f"{percent(fidelity['original'])}{_bracket(fidelity.get('original_ci'), setting)}"
    return f"{after}. The original model reaches {before}: a change of {change}."


def summary(attributes: Mapping[str, Mapping[str, Any]]) -> str:
    """Return one line for the top of the page: how many attributes got which verdict.

    Example:
        >>> summary({"a": {"verdict": "leaks"}, "b": {"verdict": "leaks"}, "c": {"verdict": "inconclusive"}})
        '3 attributes audited: 2 leak, 1 inconclusive.'
    """
    verdicts = [attribute["verdict"] for attribute in attributes.values()]
    told = []
    for verdict in LABELS:
        times = verdicts.count(verdict)
        if times:
            told.append(f"{times} {'leak' if verdict == LEAKS and times > 1 else verdict}")
    noun = "attribute" if len(verdicts) == 1 else "attributes"
    return f"{len(verdicts)} {noun} audited: {', '.join(told)}." if told else "No attribute was audited."


def aum_text(attribute: Mapping[str, Any]) -> str:
    """Return AUM, never without its ceiling.

    Example:
        >>> aum_text({"aum": 0.941, "aum_ceiling": 0.9605})
        '0.941 of at most 0.961'
        >>> aum_text({"aum": 0.549, "aum_ceiling": 0.537})
        '0.549, above its ceiling of 0.537: attackers do worse than the label floor'
    """
    if not is_number(attribute.get("aum")):
        return DASH
    aum, ceiling = number(attribute["aum"]), number(attribute["aum_ceiling"])
    if attribute["aum"] > attribute["aum_ceiling"]:
        return f"{aum}, above its ceiling of {ceiling}: attackers do worse than the label floor"
    return f"{aum} of at most {ceiling}"


def _told_by_kept(name: str, attribute: Mapping[str, Any], setting: Setting) -> str:
    """Say what the columns that training kept on request tell of an attribute by themselves; nothing without any."""
    found = attribute.get("kept")
    if not found:
        return ""
    columns = found["columns"]
    who = f"“{columns[0]}”" if len(columns) == 1 else f"the {len(columns)} columns"
    text = f"Whoever is told the true answer to the task and {who} kept on request guesses “{name}” correctly for "
    text += f"{percent(found['accuracy'])}{_bracket(found.get('ci'), setting)} without any feature"
    if not is_number(found.get("excess_leakage")):
        return f"{text}."
    return (
        f"{text}: an excess leakage of {percent(found['excess_leakage'])} is what keeping them in full costs at least."
    )


def _best(name: str, attribute: Mapping[str, Any], setting: Setting) -> str:
    best, top, many = attribute["best"], highest(attribute), len(attribute["attackers"])
    who = f"the best of {many} attackers ({best['attacker']})" if many > 1 else f"the one attacker ({best['attacker']})"
    text = f"From the released features, {who} guesses “{name}” correctly for {percent(best['accuracy'])} of "
    text += f"{_images(attribute.get('n'), setting)}{_bracket(best.get('ci'), setting)}."
    if is_number(top["accuracy"]) and percent(top["accuracy"]) != percent(best["accuracy"]):
        text += (
            f" Best means best on validation; the highest of all was {percent(top['accuracy'])} ({top['attacker']})."
        )
    return text


def _blind(floors: Mapping[str, Any], setting: Setting) -> str:
    if setting.target is None:
        return f"Blind guessing, always the most frequent class, gets {percent(floors['majority'])}; no task was named."
    text = f"Blind guessing, always the most frequent class, gets {percent(floors['majority'])}; "
    same = percent(floors["label"]) == percent(floors["majority"])
    gets = "gives no more" if same else f"alone gives {percent(floors['label'])}"
    return f"{text}knowing the answer to the task “{setting.target}” {gets} (the label floor)."


def _before(attribute: Mapping[str, Any]) -> str:
    best = attribute.get("original_best")
    if not is_number(best):
        return "What the original model reveals was not measured."
    text = f"Before unlearning, the best attacker got {percent(best)}."
    top = max(attribute.get("original_attackers") or (), key=lambda row: row["accuracy"], default=None)
    if top is not None and percent(top["accuracy"]) != percent(best):
        text += f" There too best means best on validation; {top['name']} got {percent(top['accuracy'])}."
    return text


def _images(n: object, setting: Setting) -> str:
    many = f"{count(n)}{NBSP}" if isinstance(n, int) else ""
    return f"{many or 'the '}{setting.split} images"


def _bracket(ci: Any, setting: Setting) -> str:
    return f" ({setting.interval} {interval(ci)})" if interval(ci) else ""


def _clause(text: str) -> str:
    """A warning as part of a sentence."""
    return text.strip().rstrip(".")


def _blamed(attacker: str, warning: str) -> str:
    """A warning with the attacker's name, once."""
    clause = _clause(warning)
    return clause if clause.startswith(attacker) else f"{attacker}: {clause}"


def points_interval(ci: Any) -> str:
    """Return an interval of differences in percentage points, or nothing.

    Example:
        >>> points_interval([-0.01, 0.02])
        '−1.0 to +2.0 points'
    """
    if not ci or not all(map(is_number, ci)):
        return ""
    return f"{points(ci[0]).removesuffix(' points')} to {points(ci[1])}"


def caveat(attributes: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what the reader must bear in mind."""
    every = [certified(attribute) for attribute in attributes.values()]
    return CERTIFIED_CAVEAT if every and all(every) else CAVEAT


def layers_sentence(name: str, found: Mapping[str, Any]) -> str:
    """Return where an attribute is readable, as one sentence."""
    points_ = found["points"]
    first, last = points_[0], points_[-1]
    top = max(points_, key=lambda point: point["accuracy"]["value"])
    text = (
        f"Probes guess “{name}” for {percent(first['accuracy']['value'])} of the images from the {first['layer']} and "
    )
    text += f"for {percent(last['accuracy']['value'])} from the {last['layer']}"
    text += "." if top in (first, last) else f"; best, for {percent(top['accuracy']['value'])}, from {top['layer']}."
    released = next((point for point in points_ if point["layer"] == found.get("released")), None)
    if released is not None:
        text += f" At {released['layer']}, which is released, they guess {percent(released['accuracy']['value'])}"
        text += f"; the label floor is {percent(found['floor'])}."
    return text


def selectivity_sentence(found: Mapping[str, Any]) -> str:
    """Return how much of the other columns survived, as one sentence."""
    many = len(found["columns"])
    columns = "column" if many == 1 else "columns"
    asked = sum(bool(one.get("preserved")) for one in found["columns"])
    if asked and asked == many:
        return f"{many} other {columns} probed, kept on request: training read the labels. Of others nothing is known."
    if not is_number(found.get("median_share")):
        rest = "; of the rest none" if asked else "; none"
        return f"{many} other {columns} probed{rest} was readable in the original’s features beyond its majority."
    kept = percent(found["median_share"], 0)
    aside = f", {asked} kept on request aside" if asked else ""
    return f"{many} other {columns} probed. In the median{aside}, {kept} of what was readable before is readable now."


def certified(attribute: Mapping[str, Any]) -> str | None:
    """Return the certificate as a sentence with its assumptions, or None if there is none.

    Example:
        >>> made = {"bound": 0.3173, "n": 5000, "confidence": 0.95, "n_codes": 64}
        >>> certified({"certificate": made}).replace(NBSP, " ")[:66]
        'Certified: no attacker can exceed 31.8 % with 95 % confidence, as '
    """
    found = attribute.get("certificate")
    if not found or not is_number(bound := certified_bound(found)):
        return None
    given = "" if found.get("checked") else " (which is the caller’s word: it was not checked)"
    return (
        f"Certified: no attacker can exceed {percent(upwards(bound))} with "
        f"{percent(found['confidence'], 0)} confidence, as long as people are drawn independently, each has one "
        f"deterministic code, the attacker sees the code alone, and none of the {count(found['n'])} people counted was "
        f"used in fitting{given}."
    )


def certified_bound(certificate: Mapping[str, Any]) -> Any:
    """Return the bound that is quoted: the exact one, never above the other; old files may have the other alone.

    Example:
        >>> certified_bound({"bound": 0.54, "tighter": 0.53}), certified_bound({"bound": 0.54})
        (0.53, 0.54)
    """
    exact = certificate.get("tighter")
    return exact if is_number(exact) else certificate.get("bound")


def upwards(bound: float) -> float:
    """Return a bound to a tenth of a percent, rounded up: it must not shrink in print.

    Example:
        >>> upwards(0.3171)
        0.318
    """
    return min(1.0, math.ceil(1000 * bound - 1e-9) / 1000)


def controls_sentence(name: str, found: Mapping[str, Any]) -> str:
    """Return what the controls showed of the attackers on one attribute."""
    planted, shuffled, original = found["planted"], found["shuffled"], found.get("original") or {}
    asked, worth = planted["attackers"], percent(planted["bayes"] - planted["floor"])
    text = f"In the features of this model, a made-up attribute was written that is worth {worth} of accuracy: "
    text += f"{sum(run['fit'] is True for run in asked)} of {len(asked)} attackers on “{name}” find it"
    text += f" ({planted['powerless']}). " if planted.get("powerless") else ". "
    many = len(shuffled["attackers"])
    text += f"On shuffled labels, {shuffled['covered']} of {many} intervals cover the floor"
    alarms = [run["name"] for run in shuffled["attackers"] if run["alarm"]]
    text += (
        f", and {', '.join(alarms)} finds what is not there. "
        if alarms
        else ", and no attacker finds what is not there. "
    )
    if not original.get("given"):
        return f"{text}No original model was given to try them on."
    sees = "is seen" if original["seen"] else "is not seen by any attacker"
    return f"{text}In the original model, the attribute {sees}."


def controls_measure(found: Mapping[str, Any]) -> tuple[str, str]:
    """Return whether the controls were passed, and how, for the card of an attribute."""
    asked = found["planted"]["attackers"]
    note = f"{sum(run['fit'] is True for run in asked)} of {len(asked)} attackers find a planted leak"
    return ("passed" if found["passed"] else "failed"), note


def learning_sentence(name: str, found: Mapping[str, Any]) -> str:
    """Return whether more training people would help an attacker, as one sentence."""
    last, gain = found["points"][-1], found["gain"]
    text = f"With all {count(last['people'])} training people, {found['attacker']} guesses “{name}” for "
    text += f"{percent(last['accuracy']['value'])} of the images; the last doubling brought {points(gain['value'])}"
    text += f" ({points_interval(gain.get('ci'))})" if points_interval(gain.get("ci")) else ""
    if found["rising"]:
        return f"{text}: it is still rising, and more people would teach it more."
    return f"{text}: no more than noise."
