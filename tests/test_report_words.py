"""The sentences of the report, number by number, and the contrast of its colours."""

from __future__ import annotations

import copy
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efface.audit.result import AuditResult
from efface.report import formats, view, words
from efface.report.theme import LIGHT, PALETTE
from sample_run import attribute, audit, bare_audit, full_audit

SETTING = words.Setting("smiling", "test", 0.95)


def plain(text: str) -> str:
    return text.replace("\xa0", " ")


def glasses(**changes: object) -> dict:
    return {**copy.deepcopy(audit()["attributes"]["glasses"]), **changes}


def test_floor_verdict_names_the_highest_not_the_best() -> None:
    assert plain(words.headline("glasses", glasses())) == "No attacker in this suite exceeded 53.1 % on “glasses”."


def test_highest_is_found_where_audit_json_lacks_it() -> None:
    found = glasses(highest=None)
    found["attackers"].append({"name": "broken", "accuracy": None})
    assert words.highest(found) == {"attacker": "mlp", "accuracy": 0.531, "ci": [0.513, 0.548]}
    assert words.highest({**found, "attackers": []}) == found["best"]


def test_the_ceiling_is_said_to_be_validation_s_pick_where_another_attacker_got_more() -> None:
    before = "Before unlearning, the best attacker got 98.7 %."
    more = [{"name": "resnet18", "accuracy": 0.987}, {"name": "mlp", "accuracy": 0.991}]
    said = plain(" ".join(words.explanation("glasses", glasses(original_attackers=more), SETTING)))
    assert f"{before} There too best means best on validation; mlp got 99.1 %." in said
    same = plain(" ".join(words.explanation("glasses", glasses(original_attackers=more[:1]), SETTING)))
    assert before in same
    assert "There too" not in same


def test_the_phases_count_every_second_once() -> None:
    measured = audit()["phases"]
    assert measured["train_s"] == pytest.approx(measured["train_original_s"] + measured["train_unlearned_s"])
    whole = sum(measured[name] for name in ("read_s", "train_s", "audit_s", "report_s"))
    assert view.phases(audit(), None)["total"] == formats.duration(whole)


def test_the_summary_tells_what_is_certified_and_what_was_kept() -> None:
    values = full_audit()
    values["selectivity"]["columns"][0]["preserved"] = True
    for found in values["attributes"].values():
        found["highest"] |= {"excess_leakage": found["excess_leakage"]}
    said = AuditResult.from_dict(values).summary()
    assert "  certified: no attacker can exceed 0.534 with 95% confidence (assumptions: the report)" in said
    assert said.count("certified:") == 1, "of the attribute that has a certificate"
    assert "Kept on request, as shares of what the original told: hat 0.980 [" in said
    assert "age" not in said.split("Kept on request")[1].splitlines()[0]


def test_explanation_is_what_a_lawyer_reads() -> None:
    assert plain(" ".join(words.explanation("glasses", glasses(), SETTING))) == (
        "From the released features, the best of 3 attackers (resnet18) guesses “glasses” correctly for 52.7 % of "
        "2,000 test images (95 % interval 50.9–54.4 %). Best means best on validation; the highest of all was 53.1 % "
        "(mlp). Blind guessing, always the most frequent class, gets 51.3 %; knowing the answer to the task “smiling” "
        "alone gives 52.1 % (the label floor). Before unlearning, the best attacker got 98.7 %. Nothing is certified."
    )


def test_explanation_without_original_and_interval() -> None:
    found = attribute("leaks", (0.7, 0.6, 0.5), (0.9, 0.9, 0.9), floors={"chance": 0.5, "majority": 0.6, "label": 0.6})
    found |= {"attackers": found["attackers"][:1], "original_best": None, "n": None, "highest": None}
    found["best"] = {"attacker": "resnet18", "accuracy": 0.7}
    assert plain(" ".join(words.explanation("hat", found, words.Setting("age", "validation")))) == (
        "From the released features, the one attacker (resnet18) guesses “hat” correctly for 70.0 % of the validation "
        "images. Blind guessing, always the most frequent class, gets 60.0 %; knowing the answer to the task “age” "
        "gives no more (the label floor). What the original model reveals was not measured. Nothing is certified."
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"warnings": ["The suite failed its control."]}, "the suite failed its control"),
        ({"warnings": ["One.", "Two."]}, "one; two"),
        ({}, "the interval 50.9–54.4 % does not tell the best attacker from the label floor 52.1 %"),
        (
            {"best": {"attacker": "mlp", "accuracy": 0.5}},
            "the audit has no interval to tell the best attacker from the label floor 52.1 %",
        ),
    ],
)
def test_inconclusive_says_why(changes: dict, reason: str) -> None:
    found = glasses(verdict=words.INCONCLUSIVE, **changes)
    assert plain(words.headline("glasses", found)) == f"Inconclusive because {reason}."


def test_inconclusive_blames_the_attacker_once() -> None:
    found = glasses(verdict=words.INCONCLUSIVE)
    found["attackers"][0]["warning"] = "stopped early."
    found["attackers"][1]["warning"] = "mlp did not converge"
    assert words.inconclusive_reason(found) == "resnet18: stopped early; mlp did not converge"


def test_fidelity() -> None:
    assert plain(words.fidelity_sentence(audit()["fidelity"], SETTING)) == (
        "The task “smiling” is answered correctly for 96.8 % of 2,000 test images (95 % interval 96.0–97.5 %). "
        "The original model reaches 97.4 % (95 % interval 96.6–98.0 %): a change of −0.6 points."
    )
    assert "original" not in words.fidelity_sentence(bare_audit()["fidelity"], SETTING)


def test_summary() -> None:
    assert words.summary(audit()["attributes"]) == (
        "3 attributes audited: 1 leaks, 1 at the floor for this suite, 1 inconclusive."
    )
    assert words.summary({}) == "No attribute was audited."
    assert words.summary({"a": {"verdict": "leaks"}}) == "1 attribute audited: 1 leaks."


@given(st.sampled_from(list(words.LABELS)), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_no_sentence_promises_a_cure(verdict: str, after: float, label: float, original: bool) -> None:
    found = attribute(verdict, (after, after / 2, 0.1), (0.9, 0.9, 0.9))
    found["floors"]["label"] = label
    found["original_best"] = 0.9 if original else None
    told = [words.headline("x", found), *words.explanation("x", found, SETTING), words.aum_text(found), words.CAVEAT]
    told += [text for pair in words.ABSENT.values() for text in pair]
    assert not re.search(r"\b(removed|private|safe|fair|erased|guarantee\w*|cannot)\b", " ".join(told), re.IGNORECASE)
    assert "of at most" in words.aum_text(found)


@given(st.one_of(st.none(), st.floats(), st.booleans(), st.text(max_size=3)))
def test_formats_take_anything(value: object) -> None:
    known = formats.is_number(value)
    for show in (formats.percent, formats.number, formats.points, formats.count, formats.duration, formats.memory):
        text = show(value)
        assert (text == formats.DASH) == (not known)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (formats.percent(0.9999), "100.0 %"),
        (formats.percent(-0.0001), "0.0 %"),
        (formats.number(-0.25), "−0.250"),
        (formats.points(0.0), "0.0 points"),
        (formats.duration(59.97), "1 min 0 s"),
        (formats.duration(3599.7), "1 h 0 min"),
        (formats.memory(1023), "1023 MiB"),
        (formats.quantity(11_177), "11.2 k"),
        (formats.interval([0.1, None]), ""),
        (formats.interval([0.5, 0.25]), "50.0–25.0 %"),
    ],
)
def test_formats(text: str, wanted: str) -> None:
    assert plain(text) == wanted


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2.2."""

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1])
def test_contrast(mode: int) -> None:
    colour = {name: pair[mode] for name, pair in PALETTE.items()}
    for ground in ("page", "surface", "raised", "accent-soft"):
        assert contrast(colour["ink"], colour[ground]) > 7
        assert contrast(colour["muted"], colour[ground]) > 4.5, ground
    for name in ("accent", "leaks", "at-floor", "inconclusive"):
        assert contrast(colour[name], colour[f"{name}-soft"]) > 4.5, name
        assert contrast(colour[name], colour["surface"]) > 4.5, name
    for name in ("floor", "before", "series-2", "series-3", "series-4", "series-5"):
        assert contrast(colour[name], colour["surface"]) > 3, name


def test_no_two_roles_share_a_drawn_colour() -> None:
    assert len(set(LIGHT.values())) == len(LIGHT)


def test_a_certificate_is_told_with_its_assumptions_and_rounded_up() -> None:
    found = full_audit()["attributes"]["glasses"]
    text = plain(words.certified(found))
    assert text.startswith("Certified: no attacker can exceed 53.4 % with 95 % confidence, as long as")
    assert "none of the 5,000 people counted was used in fitting." in text
    older = {"certificate": {**found["certificate"], "tighter": None}}
    assert plain(words.certified(older)).startswith("Certified: no attacker can exceed 53.9 %")
    found["certificate"]["checked"] = False
    assert "the caller’s word: it was not checked" in words.certified(found)
    assert words.certified(glasses()) is None
    assert words.upwards(0.9999) == words.upwards(1.0) == 1.0


def test_without_a_task_nothing_is_said_of_one() -> None:
    setting = words.Setting(None)
    text = plain(" ".join(words.explanation("race", glasses(original_best=None), setting)))
    assert "Blind guessing, always the most frequent class, gets 51.3 %; no task was named." in text
    assert words.fidelity_sentence({"value": None}, setting) == "No task was named, so there is no fidelity."
    assert words.aum_text({"aum": None, "aum_ceiling": None}) == "–"


def test_the_caveat_changes_only_where_everything_is_certified() -> None:
    attributes = full_audit()["attributes"]
    assert words.caveat(attributes) == words.CAVEAT
    assert words.caveat({"glasses": attributes["glasses"]}) == words.CERTIFIED_CAVEAT


def test_what_kept_columns_cost_is_said() -> None:
    found = {"columns": ["age"], "n": 400, "accuracy": 0.63, "ci": [0.61, 0.65], "excess_leakage": 0.14}
    text = plain(" ".join(words.explanation("glasses", glasses(kept=found), SETTING)))
    assert (
        "Whoever is told the true answer to the task and “age” kept on request guesses “glasses” correctly for 63.0 % "
        "(95 % interval 61.0–65.0 %) without any feature: an excess leakage of 14.0 % is what keeping them in full"
    ) in text
    silent = {**found, "columns": ["age", "hat"], "excess_leakage": None}
    assert "and the 2 columns kept on request guesses" in " ".join(
        words.explanation("glasses", glasses(kept=silent), SETTING)
    )
    assert "kept on request" not in " ".join(words.explanation("glasses", glasses(), SETTING))


def test_sentences_of_layers_and_selectivity() -> None:
    made = full_audit()
    assert plain(words.layers_sentence("glasses", made["layers"]["glasses"])) == (
        "Probes guess “glasses” for 99.0 % of the images from the input and for 52.5 % from the logits. At layer2, "
        "which is released, they guess 53.0 %; the label floor is 52.1 %."
    )
    assert plain(words.selectivity_sentence(made["selectivity"])) == (
        "2 other columns probed. In the median, 98 % of what was readable before is readable now."
    )
    assert "none was readable" in words.selectivity_sentence({"columns": [{}], "median_share": None})
    asked = {"columns": [{"preserved": True}, {"preserved": False}], "median_share": 0.5}
    assert "In the median, 1 kept on request aside, 50" in words.selectivity_sentence(asked)
    assert "training read the labels" in words.selectivity_sentence({**asked, "columns": [{"preserved": True}]})
    assert "of the rest none" in words.selectivity_sentence({**asked, "median_share": None})
    assert "0 other columns probed; none" in words.selectivity_sentence({"columns": [], "median_share": None})
    assert words.points_interval([-0.01, None]) == ""
