"""Attackers that are no networks, against naive oracles: ensemble, output, knn, trees; principal components."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from audit_helpers import parts, views
from efface.audit.attackers import Budget, build_attacker
from efface.audit.attackers.base import score
from efface.audit.attackers.ensemble import FLOOR, Combination, EnsembleAttacker, combine, greedy, mixed
from efface.audit.attackers.knn import PRIOR, NeighbourAttacker, vote
from efface.audit.attackers.output import Counts, answers
from efface.audit.attackers.reduced import Components, class_shares
from efface.audit.attackers.trees import TreeAttacker
from efface.errors import AuditError

SIZES = (300, 200, 200)
N = sum(SIZES)


def blobs(seed=0, classes=3, width=6, distance=1.5):
    generator = np.random.default_rng(seed)
    z = generator.integers(0, classes, N)
    features = generator.normal(size=(N, width))
    features[:, :classes] += distance * np.eye(classes)[z]
    return views(features, z, classes, SIZES)


def halves(n=600, seed=0):
    """Two members, each of whom knows half of the people and owns up to knowing nothing of the others."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (n,), generator=generator)
    told, first = 4.0 * torch.eye(2)[labels], (torch.arange(n) % 2 == 0)[:, None]
    return {"even": told * first, "odd": told * ~first}, labels


# -- the ensemble


def test_the_ensemble_adds_up_what_its_members_know():
    said, labels = halves()
    found = combine(said, labels)
    assert found.note is None
    assert sum(found.weights.values()) == pytest.approx(1)
    assert set(found.weights) == set(said)
    assert score(found.logits(said), labels)[0] == 1.0
    assert max(score(one, labels)[0] for one in said.values()) < 0.8
    assert found.validation_accuracy == 1.0


def test_greedy_selection_is_the_naive_loop():
    generator = torch.Generator().manual_seed(0)
    shares = torch.randn(4, 60, 3, generator=generator).double().softmax(2)
    labels = torch.randint(0, 3, (60,), generator=generator)
    chosen = []
    for _ in range(20):
        losses = []
        for member in range(4):
            mean = shares[[*chosen, member]].mean(0).clamp_min(FLOOR)
            losses.append(-mean[torch.arange(60), labels].log().mean())
        chosen.append(int(torch.stack(losses).argmin()))
    assert greedy(shares, labels).tolist() == pytest.approx([chosen.count(member) / 20 for member in range(4)])


def test_the_mixture_is_a_mean_of_probabilities():
    generator = torch.Generator().manual_seed(0)
    said = {name: torch.randn(9, 3, generator=generator) for name in ("a", "b", "c")}
    wanted = 0.25 * said["a"].softmax(1) + 0.75 * said["c"].softmax(1)
    torch.testing.assert_close(mixed(said, {"a": 0.25, "c": 0.75}).exp(), wanted)
    scaled = Combination({"a": 0.25, "c": 0.75}, 2.0, 0.0).logits(said)
    torch.testing.assert_close(scaled, wanted.log() / 2)


def test_a_member_stands_alone_where_mixing_does_harm():
    """Cross-entropy prefers one who is never sure; accuracy the one who is often right and sometimes very wrong."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (500,), generator=generator)
    right = torch.eye(2)[labels]
    bold = 30.0 * right
    bold[:100] = 30.0 * (1 - right[:100])
    timid = torch.full((500, 2), 0.0)
    timid[:, 0] = 0.05
    found = combine({"timid": timid, "bold": bold}, labels)
    if found.note is None:
        assert found.validation_accuracy >= 0.75
    else:
        assert dict(found.weights) == {"bold": 1.0}
        assert "bold stands alone" in found.note
        assert found.validation_accuracy == 0.8


def test_the_cross_validated_accuracy_is_not_flattered():
    """Many members that know nothing: the best of them on validation is no better elsewhere."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 2, (200,), generator=generator)
    said = {f"m{k}": torch.randn(200, 2, generator=generator) for k in range(40)}
    assert score(combine(said, labels).logits(said), labels)[0] - 0.5 > 0
    mixture = [combine(said, torch.randint(0, 2, (200,), generator=generator)) for _ in range(12)]
    kept = [one.validation_accuracy for one in mixture if one.note is None]
    assert np.mean(kept) < 0.55


def test_an_ensemble_of_nobody_is_refused_and_few_people_do():
    with pytest.raises(AuditError, match="what at least one attacker says"):
        combine({}, torch.tensor([0]))
    one = {"only": torch.tensor([[0.0, 1.0]])}
    assert dict(combine(one, torch.tensor([1])).weights) == {"only": 1.0}


def test_an_ensemble_of_fitted_attackers_trains_nothing():
    drawn = blobs()
    members = {
        name: build_attacker(name).fit(drawn["train"], drawn["validation"], Budget(1)) for name in ("knn", "linear")
    }
    fitted = EnsembleAttacker().of(members, drawn["validation"], Budget())
    said = {name: one.predict_logits(drawn["test"]) for name, one in members.items()}
    torch.testing.assert_close(fitted.predict_logits(drawn["test"]), fitted.combination.logits(said))
    assert all(fitted.members[name] is members[name] for name in fitted.members)


# -- the model's own answer


def answered(seed=0):
    """A model that gives one of three answers, and z that depends on it."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, 3, N)
    z = np.where(generator.random(N) < 0.7, y % 2, generator.integers(0, 2, N))
    logits = torch.from_numpy(4.0 * np.eye(3)[y]).float()
    drawn = views(generator.normal(size=(N, 4)), z, 2, SIZES)
    return {
        name: replace(view, logits=logits[rows])
        for (name, rows), view in zip(parts(SIZES).items(), drawn.values(), strict=True)
    }


def test_the_counts_are_those_of_a_naive_loop():
    train = answered()["train"]
    shares = class_shares(train.labels, 2)
    table = Counts.of(train, shares).table.exp()
    said = answers(train).argmax(1)
    for answer in range(3):
        here = train.labels[said == answer]
        for z in range(2):
            wanted = (int((here == z).sum()) + shares[z]) / (len(here) + 1)
            assert float(table[answer, z]) == pytest.approx(wanted, rel=1e-5)


def test_output_guesses_as_well_as_the_best_rule_from_answers():
    drawn = answered()
    fitted = build_attacker("output").fit(drawn["train"], drawn["validation"], Budget())
    said, z = answers(drawn["test"]).argmax(1), drawn["test"].labels
    best = sum(max(int((z[said == answer] == value).sum()) for value in range(2)) for answer in range(3)) / len(z)
    assert score(fitted.predict_logits(drawn["test"]), z)[0] == pytest.approx(best)


# -- neighbours


def test_votes_are_those_of_a_naive_search():
    drawn = blobs()
    attacker = NeighbourAttacker()
    attacker.neighbours = (7,)
    fitted = attacker.fit(drawn["train"], drawn["validation"], Budget())
    known, asked = (drawn[name].pooled(torch.arange(len(drawn[name]))) for name in ("train", "test"))
    shares = class_shares(drawn["train"].labels, 3)
    for person, logits in zip(asked[:40], fitted.predict_logits(drawn["test"]), strict=False):
        near = (known - person).square().sum(1).argsort()[:7]
        counts = np.bincount(drawn["train"].labels[near].numpy(), minlength=3)
        wanted = np.log((counts + PRIOR * shares) / (7 + PRIOR)) / fitted.temperature
        np.testing.assert_allclose(logits.numpy(), wanted, atol=1e-4)


def test_neighbours_do_not_depend_on_the_order_of_features():
    generator = np.random.default_rng(0)
    z = generator.integers(0, 2, N)
    features = generator.normal(size=(N, 20)) * np.linspace(1, 0.2, 20)
    features[:, 15] += 2.0 * z
    order = generator.permutation(20)
    attacker = NeighbourAttacker()
    attacker.widths = (4,)
    one, other = (
        attacker.fit(drawn["train"], drawn["validation"], Budget()).predict_logits(drawn["test"])
        for drawn in (views(features, z, 2, SIZES), views(features[:, order], z, 2, SIZES))
    )
    assert float((one.argmax(1) == other.argmax(1)).float().mean()) > 0.97


def test_votes_name_the_nearest_where_k_is_1():
    assert vote(np.array([[2], [0]]), np.full(3, 1 / 3)).argmax(1).tolist() == [2, 0]


# -- trees


def test_a_class_that_nobody_in_training_has_is_no_error():
    drawn = blobs()
    train = drawn["train"]
    rare = replace(train, labels=torch.where(train.labels == 2, 1, train.labels))
    for name in ("trees", "knn", "output"):
        data = {"train": rare, "validation": drawn["validation"]}
        if name == "output":
            logits = torch.from_numpy(np.eye(3)[rare.labels.numpy()]).float()
            others = torch.from_numpy(np.eye(3)[drawn["validation"].labels.numpy()]).float()
            data = {"train": replace(rare, logits=logits), "validation": replace(drawn["validation"], logits=others)}
        fitted = build_attacker(name).fit(data["train"], data["validation"], Budget(2))
        said = fitted.predict_logits(data["validation"])
        assert said.shape[1] == 3
        assert torch.isfinite(said).all()
        assert float(said.softmax(1)[:, 2].max()) < 0.3


def test_trees_stop_where_validation_says():
    noise = blobs(distance=0.0)
    fitted = TreeAttacker().fit(noise["train"], noise["validation"], Budget(12))
    assert fitted.epoch <= TreeAttacker.patience + 2
    told = blobs(distance=3.0)
    assert TreeAttacker().fit(told["train"], told["validation"], Budget(12)).epoch > fitted.epoch


# -- principal components


def test_components_are_those_of_scikit_learn():
    drawn = blobs(width=12, distance=3.0)
    ours = Components.fit(drawn["train"], 4)
    table = drawn["train"].pooled(torch.arange(SIZES[0])).numpy()
    theirs = PCA(4).fit(table)
    np.testing.assert_allclose(np.abs(theirs.components_ @ ours.axes.numpy()), np.eye(4), atol=1e-3)
    np.testing.assert_allclose(np.abs(ours.of(drawn["train"])), np.abs(theirs.transform(table)), atol=2e-3)
    assert Components.fit(drawn["train"], 12).axes is None
    full = Components.fit(drawn["train"], 12, always=True)
    np.testing.assert_allclose(full.axes.T @ full.axes, np.eye(12), atol=1e-5)


def test_attackers_share_the_axes_of_the_same_people():
    drawn = blobs(width=12, distance=3.0)
    few = Components.fit(drawn["train"], 4)
    (kept,) = drawn["train"].source.rotations.values()
    torch.testing.assert_close(few.axes, kept[1][:, :4])
    assert Components.fit(drawn["train"], 8).mean is few.mean
    others = drawn["train"].some(torch.arange(60))
    assert not torch.equal(Components.fit(others, 4).mean, few.mean)
    assert len(drawn["train"].source.rotations) == 2
