"""Perceptrons side by side: each learns what it would learn alone, and columns that can't share people don't."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from audit_helpers import SIZES, feature_set, parts, views
from efface.audit import probe
from efface.audit.attackers import Budget
from efface.audit.attackers.mlp import SmallPooledAttacker
from efface.audit.attackers.together import fit_together
from efface.audit.intervals import Resampling
from efface.audit.probe import Probing, read, read_many, with_labels
from efface.data.schema import Column
from efface.errors import AuditError

N = sum(SIZES)
PROBING = Probing(attackers=("least-squares", "mlp-small"), epochs=3, how=Resampling(resamples=100))


class Steady(SmallPooledAttacker):
    """Without dropout: nothing random but weights and order."""

    dropout = 0.0
    width = 16


def drawn(seed=0, missing=0, classes=(2, 5, 3)):
    """Columns of so many classes in features of twelve numbers, the last of them in none."""
    generator = np.random.default_rng(seed)
    features, found = generator.normal(size=(N, 12)), {}
    for place, (name, count) in enumerate(zip("abc", classes, strict=True)):
        found[name] = generator.integers(0, count, N)
        if name != "c":
            features[:, place] += found[name]
    if missing:
        found["b"] = np.where(np.arange(N) % missing == 0, -1, found["b"])
    return features, found


def columns(found):
    return [Column(name, tuple("vwxyz"[: 1 + int(values.max())])) for name, values in found.items()]


def labelled(features, found):
    made = feature_set(features, np.zeros(N, np.int64), np.zeros(N, np.int64))
    for name, values in found.items():
        made = with_labels(made, name, {part: values[rows] for part, rows in parts().items()})
    return made


def of_the_same_people(features, found):
    """Views of each column, of one source."""
    each = [views(features, values, 1 + int(values.max())) for values in found.values()]
    return [{part: replace(view, source=each[0][part].source) for part, view in one.items()} for one in each]


def fit_all(attacker, each, budget):
    return fit_together(attacker, [one["train"] for one in each], [one["validation"] for one in each], budget)


def test_side_by_side_each_learns_what_it_learns_alone():
    each, budget = of_the_same_people(*drawn(classes=(3, 3, 3))), Budget(epochs=4, seed=7)
    for one, fitted in zip(each, fit_all(Steady(), each, budget), strict=True):
        alone = Steady().fit(one["train"], one["validation"], budget)
        assert fitted.epoch == alone.epoch
        assert fitted.validation_accuracy == pytest.approx(alone.validation_accuracy, abs=0.003)
        said = fitted.predict_logits(one["test"])
        torch.testing.assert_close(said, alone.predict_logits(one["test"]), rtol=1e-3, atol=1e-3)


def test_columns_of_other_classes_learn_as_much_as_alone():
    """The order of the people is another then."""
    each, budget = of_the_same_people(*drawn()), Budget(epochs=3, seed=7)
    for one, fitted in zip(each, fit_all(SmallPooledAttacker(), each, budget), strict=True):
        alone = SmallPooledAttacker().fit(one["train"], one["validation"], budget)
        assert fitted.validation_accuracy == pytest.approx(alone.validation_accuracy, abs=0.04)
        said = fitted.predict_logits(one["test"])
        assert said.shape == (SIZES[2], one["test"].classes)
        assert torch.isfinite(said).all()


def test_a_column_that_has_stopped_keeps_its_epoch_while_others_go_on():
    """The column of noise is at its best early; its weights are of that epoch, not of the last."""
    each = of_the_same_people(*drawn())
    fitted = fit_all(Steady(), each, Budget(epochs=8, seed=1))
    epochs = [one.epoch for one in fitted]
    assert len(set(epochs)) > 1
    for one, view in zip(fitted, each, strict=True):
        right = (one.predict_logits(view["validation"]).argmax(1) == view["validation"].labels).double().mean()
        assert float(right) == pytest.approx(one.validation_accuracy, abs=1e-6)


def test_many_columns_are_read_as_one_by_one():
    features, found = drawn()
    made, asked = labelled(features, found), columns(found)
    together = read_many(made, asked, PROBING)
    for column, one in zip(asked, together, strict=True):
        alone = read(made, column, PROBING)
        np.testing.assert_array_equal(one.labels, alone.labels)
        assert one.correct.mean() == pytest.approx(alone.correct.mean(), abs=0.02)


def test_columns_of_other_people_are_fitted_by_themselves(monkeypatch):
    fitted, said = [], []
    monkeypatch.setattr(
        probe, "fit_together", lambda a, train, *rest: fitted.append(len(train)) or fit_together(a, train, *rest)
    )
    features, found = drawn(missing=4)
    made, asked = labelled(features, found), columns(found)
    together = read_many(made, asked, replace(PROBING, tick=lambda _, n: said.append(n)))
    assert fitted == [2], "a and c"
    assert [len(one.labels) for one in together] == [SIZES[2], (found["b"][parts()["test"]] >= 0).sum(), SIZES[2]]
    assert sum(said) == len(asked) * PROBING.steps
    np.testing.assert_array_equal(together[1].correct, read(made, asked[1], PROBING).correct)
    assert read_many(made, [], PROBING) == []


def test_a_column_that_nobody_can_be_told_apart_by_is_an_error():
    features, found = drawn()
    found["b"] = np.zeros(N, np.int64)
    with pytest.raises(AuditError, match="one class"):
        read_many(labelled(features, found), [Column("a", ("v", "w")), Column("b", ("v", "w"))], PROBING)
