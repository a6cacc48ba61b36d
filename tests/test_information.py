"""The estimators against enumeration, naive loops, finite differences and their own error messages."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from efface.errors import ConfigError, DataError, ShapeError
from efface.information import (
    Joint,
    bits,
    conditional_entropy,
    conditional_information_lower_bound,
    conditional_prior,
    confusion_loss,
    cross_entropy_rate,
    distribution_entropy,
    information_lower_bound,
    label_entropy,
    prior_table,
    reconstruction_floor_nats,
    reconstruction_nats,
    reversal,
    supervised_contrastive_loss,
    vclub_upper_bound,
)

SEEDS = st.integers(0, 2**31)


def random_joint(seed: int, *sizes: int, names: str = "hzy") -> Joint:
    p = np.random.default_rng(seed).dirichlet(np.full(math.prod(sizes), 0.5)).reshape(sizes)
    return Joint(p, names[: len(sizes)])


def population(joint: Joint, copies: int) -> dict[str, torch.Tensor]:
    """A finite population whose empirical distribution is a rounding of the joint's; no sampling."""
    counts = np.maximum(np.round(joint.p * copies), 0).astype(int)
    cells = np.repeat(np.argwhere(np.ones_like(counts)), counts.ravel(), axis=0)
    return {name: torch.as_tensor(cells[:, i]) for i, name in enumerate(joint.names)}


def empirical(columns: dict[str, torch.Tensor], sizes: tuple[int, ...]) -> Joint:
    counts = np.zeros(sizes)
    np.add.at(counts, tuple(column.numpy() for column in columns.values()), 1)
    return Joint(counts / counts.sum(), tuple(columns))


# --- exact enumeration ------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(SEEDS)
def test_exact_information_is_a_kl_divergence(seed):
    joint = random_joint(seed, 3, 4)
    h, z = joint.marginal("h").p, joint.marginal("z").p
    kl = sum(
        joint.p[i, j] * math.log(joint.p[i, j] / (h[i] * z[j])) for i in range(3) for j in range(4) if joint.p[i, j] > 0
    )
    assert joint.information("h", "z") == pytest.approx(kl, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(SEEDS)
def test_exact_chain_rule_and_conditioning(seed):
    joint = random_joint(seed, 3, 2, 3)
    chain = joint.information("h", "y") + joint.information("h", "z", given="y")
    assert joint.information("h", ("z", "y")) == pytest.approx(chain, abs=1e-9)
    within = sum(
        weight * Joint(joint.p[:, :, k] / weight, "hz").information("h", "z")
        for k, weight in enumerate(joint.marginal("y").p)
        if weight > 1e-12
    )
    assert joint.information("h", "z", given="y") == pytest.approx(within, abs=1e-9)
    assert joint.entropy("h", given="z") == pytest.approx(joint.entropy(("h", "z")) - joint.entropy("z"), abs=1e-9)


def test_exact_axes_follow_the_names():
    joint = random_joint(0, 2, 3, 4)
    np.testing.assert_allclose(joint.marginal(("y", "h")).p, joint.p.sum(1).T)
    channel = np.random.default_rng(1).dirichlet(np.ones(5), size=(4, 2))
    wider = joint.with_channel("c", ("y", "h"), channel)
    np.testing.assert_allclose(wider.p, joint.p[..., None] * channel.transpose(1, 0, 2)[:, None])
    assert wider.information("c", "z", given=("y", "h")) == pytest.approx(0, abs=1e-12)


def test_best_accuracy_is_that_of_the_best_of_all_rules():
    joint = random_joint(3, 3, 2)
    rules = [sum(joint.p[h, rule[h]] for h in range(3)) for rule in np.ndindex(2, 2, 2)]
    assert joint.best_accuracy("z", given="h") == pytest.approx(max(rules))
    assert joint.best_accuracy("z") == pytest.approx(joint.marginal("z").p.max())
    assert joint.best_accuracy("z", given=("h", "z")) == 1.0


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Joint(np.ones((2, 2)) / 4, ("a",)), ShapeError, "one name for each of the 2 axes"),
        (lambda: Joint(np.ones((2, 2)) / 4, ("a", "a")), ShapeError, "distinct.*more than once"),
        (lambda: Joint(np.array([0.5, 0.4]), ("a",)), DataError, "probabilities that sum to 1, but got 0.9"),
        (lambda: Joint(np.array([1.5, -0.5]), ("a",)), DataError, "finite and non-negative, but got -0.5"),
        (lambda: Joint(np.array([1.0]), ("a",)).entropy("b"), DataError, "No variable 'b'.*Valid names: a"),
        (lambda: random_joint(0, 2, 2).with_channel("c", "h", np.ones((3, 1))), ShapeError, r"of shape \(2,\) and one"),
        (lambda: random_joint(0, 2, 2).with_channel("c", "h", np.ones((2, 2))), DataError, "rows that sum to 1"),
        (lambda: random_joint(0, 2, 2).with_channel("z", "h", np.ones((2, 1))), ShapeError, "distinct"),
        (lambda: random_joint(0, 2, 2).with_map("c", "h", np.array([0, -1])), DataError, "non-negative integers"),
        (lambda: random_joint(0, 2, 2).with_map("c", "h", np.array([0.0, 1.0])), DataError, "non-negative integers"),
    ],
)
def test_exact_errors(build, error, message):
    with pytest.raises(error, match=message):
        build()


# --- entropies and lower bounds ------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_entropies_of_labels_are_exact(seed):
    people = population(random_joint(seed, 3, 4, names="zy"), 200)
    exact = empirical(people, (3, 4))
    assert label_entropy(people["z"]).item() == pytest.approx(exact.entropy("z"), abs=1e-5)
    assert conditional_entropy(people["z"], people["y"]).item() == pytest.approx(exact.entropy("z", "y"), abs=1e-5)
    assert label_entropy(torch.as_tensor(exact.marginal("z").p)).item() == pytest.approx(exact.entropy("z"), abs=1e-5)
    table = prior_table(people["z"], people["y"], A=3, Y=4)
    seen = exact.marginal("y").p > 0
    rows = (exact.p / np.maximum(exact.p.sum(0), 1e-12)).T
    np.testing.assert_allclose(table.numpy()[seen], rows[seen], atol=1e-6)


def test_bits():
    assert bits(math.log(2)) == 1.0
    assert bits(torch.tensor(math.log(4.0))).item() == pytest.approx(2.0)
    assert Joint.independent(a=[0.25] * 4).entropy("a") / math.log(2) == pytest.approx(2.0)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.floats(0, 3))
def test_lower_bound_is_information_less_a_kl_divergence(seed, noise):
    joint = empirical(people := population(random_joint(seed, 3, 3), 300), (3, 3))
    posterior = joint.p / np.maximum(joint.p.sum(1, keepdims=True), 1e-12)
    logits = np.log(posterior + 1e-6) + noise * np.random.default_rng(seed).normal(size=(3, 3))
    q = torch.softmax(torch.as_tensor(logits), -1).numpy()
    kl = sum(
        joint.p[h, z] * math.log(posterior[h, z] / q[h, z]) for h in range(3) for z in range(3) if joint.p[h, z] > 0
    )
    prior = torch.as_tensor(joint.marginal("z").p)
    found = information_lower_bound(torch.as_tensor(logits)[people["h"]], people["z"], prior).item()
    truth = joint.information("h", "z")
    assert found == pytest.approx(truth - kl, abs=1e-6)
    assert found <= truth + 1e-6


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_conditional_lower_bound_is_met_by_the_posterior_and_by_no_other(seed):
    joint = empirical(people := population(random_joint(seed, 3, 3, 2), 400), (3, 3, 2))
    posterior = joint.p / np.maximum(joint.p.sum(1, keepdims=True), 1e-12)
    logits = torch.as_tensor(np.log(posterior + 1e-12)).transpose(1, 2)[people["h"], people["y"]]
    table = prior_table(people["z"], people["y"], A=3, Y=2)
    truth = joint.information("h", "z", given="y")
    found = conditional_information_lower_bound(logits, people["z"], people["y"], table).item()
    assert found == pytest.approx(truth, abs=1e-5)
    worse = conditional_information_lower_bound(logits * 0.5 + 0.1, people["z"], people["y"], table).item()
    assert worse <= truth + 1e-5


def test_missing_labels_change_nothing():
    torch.manual_seed(0)
    z, y = torch.randint(0, 3, (40,)), torch.randint(0, 2, (40,))
    logits, embeddings = torch.randn(40, 3), torch.randn(40, 5)
    prior, table = torch.tensor([0.2, 0.3, 0.5]), prior_table(z, y, 3, 2)

    def everything(z, y, logits, embeddings):
        return torch.stack(
            [
                label_entropy(z),
                conditional_entropy(z, y),
                prior_table(z, y, 3, 2).sum(0)[0],
                cross_entropy_rate(logits, z),
                information_lower_bound(logits, z, prior),
                conditional_information_lower_bound(logits, z, y, table),
                vclub_upper_bound(logits, z),
                vclub_upper_bound(logits, z, y),
                supervised_contrastive_loss(embeddings, z),
                reversal(logits, z),
            ]
        )

    more_z, more_y = torch.cat([z, torch.full((9,), -1)]), torch.cat([y, torch.randint(-1, 2, (9,))])
    noise = [torch.cat([kept, torch.randn(9, kept.shape[1])]) for kept in (logits, embeddings)]
    torch.testing.assert_close(everything(more_z, more_y, *noise), everything(z, y, logits, embeddings))
    # A missing target hides a sample from the conditional estimates alone.
    hidden = torch.cat([y[:20], torch.full((20,), -1)])
    for estimate in (
        lambda z, y, q: conditional_information_lower_bound(q, z, y, table),
        lambda z, y, q: vclub_upper_bound(q, z, y),
        lambda z, y, q: confusion_loss(q, conditional_prior(table, y)),
        lambda z, y, q: conditional_entropy(z, y),
    ):
        torch.testing.assert_close(estimate(z, hidden, logits), estimate(z[:20], y[:20], logits[:20]))


def test_a_batch_of_missing_labels_gives_0_with_a_gradient():
    missing = torch.full((4,), -1)
    for loss in (
        lambda q: cross_entropy_rate(q, missing),
        lambda q: vclub_upper_bound(q, missing),
        lambda q: vclub_upper_bound(q, torch.zeros(4, dtype=torch.long), missing),
        lambda q: confusion_loss(q, conditional_prior(torch.full((2, 3), 1 / 3), missing)),
        lambda q: supervised_contrastive_loss(q, missing),
        lambda q: supervised_contrastive_loss(q, torch.tensor([0, 1, 2, -1])),
    ):
        logits = torch.randn(4, 3, requires_grad=True)
        value = loss(logits)
        value.backward()
        assert value.item() == 0
        assert logits.grad.abs().max().item() == 0


def test_prior_table_smooths_and_fills_classes_never_seen():
    z, y = torch.tensor([0, 0, 1, -1]), torch.tensor([0, 0, 0, 1])
    torch.testing.assert_close(prior_table(z, y, A=2, Y=2)[1], torch.tensor([2 / 3, 1 / 3]))
    torch.testing.assert_close(prior_table(z, y, A=2, Y=2, smoothing=1.0)[0], torch.tensor([3 / 5, 2 / 5]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: label_entropy(torch.tensor([-1, -1])), "at least one label that is not missing"),
        (lambda: label_entropy(torch.tensor([0.5, 0.4])), "probabilities that sum to 1"),
        (lambda: label_entropy(torch.tensor([1.5, -0.5])), "probabilities that sum to 1"),
        (lambda: conditional_entropy(torch.tensor([-1]), torch.tensor([0])), "at least one pair"),
        (lambda: prior_table(torch.tensor([-1]), torch.tensor([0]), 2, 2), "at least one pair"),
        (
            lambda: prior_table(torch.tensor([0, 5]), torch.tensor([0, -3]), 2, 2, -1.0),
            r"3 problems:(.|\n)*\[5\](.|\n)*\[-3\]",
        ),
    ],
)
def test_label_errors(build, message):
    with pytest.raises(DataError, match=message):
        build()


# --- what the extractor minimises ------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_confusion_is_a_kl_divergence(seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.softmax(3 * torch.randn(8, 4, generator=generator, dtype=torch.float64), -1)
    rows[0] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    logits = torch.randn(8, 4, generator=generator, dtype=torch.float64)
    cross_entropy = -(rows * F.log_softmax(logits, -1)).sum(-1).mean()
    loss = confusion_loss(logits, rows)
    torch.testing.assert_close(loss, cross_entropy - distribution_entropy(rows).mean())
    assert loss.item() > 0
    assert confusion_loss(rows.log().clamp(min=-200), rows).item() == pytest.approx(0, abs=1e-9)


def test_reversal_turns_the_adversarys_gradient_round():
    logits, z = torch.randn(6, 3, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 2, 0, -1, 2])
    (own,) = torch.autograd.grad(cross_entropy_rate(logits, z), logits)
    (turned,) = torch.autograd.grad(reversal(logits, z), logits)
    prior = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)
    (bound,) = torch.autograd.grad(information_lower_bound(logits, z, prior), logits)
    torch.testing.assert_close(turned, -own)
    torch.testing.assert_close(bound, -own)
    wrong = F.one_hot((z.clamp(min=0) + 1) % 3, 3) * 1e4
    assert reversal(wrong.double(), z).item() < -5e3
    assert confusion_loss(wrong.double(), prior.expand(6, 3)).item() > 0


def test_gradients_by_finite_differences():
    torch.manual_seed(0)
    z, y = torch.tensor([0, 1, 2, 0, 1, -1]), torch.tensor([0, 0, 1, 1, 0, 1])
    rows = conditional_prior(prior_table(z, y, 3, 2, smoothing=1.0), y)
    logits = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    for loss in (
        lambda q: vclub_upper_bound(q, z),
        lambda q: vclub_upper_bound(q, z, y),
        lambda q: confusion_loss(q, rows),
        lambda q: cross_entropy_rate(q, z),
        lambda q: supervised_contrastive_loss(q, z, 0.5),
        lambda q: reconstruction_nats(q.reshape(2, 1, 3, 3), torch.rand(2, 1, 3, 3, generator=torch.manual_seed(1))),
    ):
        assert torch.autograd.gradcheck(loss, (logits,))


# --- vCLUB ------------------------------------------------------------


def posterior_logits(joint: Joint) -> torch.Tensor:
    """log p(z | h, …), z last."""
    posterior = joint.p / np.maximum(joint.p.sum(1, keepdims=True), 1e-12)
    return torch.as_tensor(np.log(np.maximum(posterior, 1e-12))).movedim(1, -1)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_vclub_and_barber_agakov_sandwich_the_information(seed):
    joint = empirical(people := population(random_joint(seed, 3, 3), 300), (3, 3))
    logits = posterior_logits(joint)[people["h"]]
    truth = joint.information("h", "z")
    upper = vclub_upper_bound(logits, people["z"]).item()
    lower = information_lower_bound(0.7 * logits, people["z"], torch.as_tensor(joint.marginal("z").p)).item()
    assert lower <= truth + 1e-6
    assert upper >= truth - 1e-6
    if (joint.p > 0).all():
        product = np.multiply.outer(joint.marginal("h").p, joint.marginal("z").p)
        excess = (product * np.log(product / joint.p)).sum()
        assert upper == pytest.approx(truth + excess, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_conditional_vclub_bounds_the_conditional_information(seed):
    joint = empirical(people := population(random_joint(seed, 3, 2, 2), 300), (3, 2, 2))
    logits = posterior_logits(joint)[people["h"], people["y"]]
    upper = vclub_upper_bound(logits, people["z"], people["y"]).item()
    assert upper >= joint.information("h", "z", given="y") - 1e-6


def test_vclub_is_the_naive_double_loop():
    torch.manual_seed(0)
    logits, z, y = torch.randn(12, 3), torch.randint(-1, 3, (12,)), torch.randint(0, 2, (12,))
    log_q = logits.log_softmax(-1)
    known = [i for i in range(12) if z[i] >= 0]
    for groups, found in (
        (dict.fromkeys(known, known), vclub_upper_bound(logits, z)),
        ({i: [j for j in known if y[j] == y[i]] for i in known}, vclub_upper_bound(logits, z, y)),
    ):
        naive = [log_q[i, z[i]] - sum(log_q[i, z[j]] for j in others) / len(others) for i, others in groups.items()]
        torch.testing.assert_close(found, sum(naive) / len(naive))


def test_vclub_needs_a_good_posterior():
    z = torch.tensor([0, 1] * 8)
    assert vclub_upper_bound(torch.zeros(16, 2), z).item() == pytest.approx(0, abs=1e-6)  # yet I(h;z) may be 1 bit
    assert vclub_upper_bound(5.0 * F.one_hot(1 - z, 2), z).item() < 0


# --- contrastive ------------------------------------------------------------


def naive_supervised_contrastive(embeddings, labels, temperature):
    """Khosla et al. (2020), equation 2, one sum at a time."""
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    losses = []
    for i in range(len(labels)):
        others = [a for a in range(len(labels)) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        if positives:
            total = sum(torch.exp(unit[i] @ unit[a] / temperature) for a in others)
            losses.append(
                -sum(torch.log(torch.exp(unit[i] @ unit[p] / temperature) / total) for p in positives) / len(positives)
            )
    return sum(losses) / len(losses)


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.floats(0.1, 2))
def test_contrastive_is_the_naive_loop(seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    labels = torch.cat([torch.tensor([0, 0]), torch.randint(0, 5, (7,), generator=generator)])
    found = supervised_contrastive_loss(embeddings, labels, temperature)
    torch.testing.assert_close(
        found, naive_supervised_contrastive(embeddings, labels, temperature), rtol=1e-5, atol=1e-6
    )


def test_contrastive_pulls_a_class_together():
    apart, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.1, 1.0]]), torch.tensor([0, 0, 1, 1])
    together = apart[[0, 2, 1, 3]]
    assert supervised_contrastive_loss(together, labels) < supervised_contrastive_loss(apart, labels)


def test_contrastive_refuses_a_temperature_of_0():
    with pytest.raises(ConfigError, match="Expected `temperature` to be a number larger than 0, but got 0"):
        supervised_contrastive_loss(torch.randn(2, 2), torch.tensor([0, 0]), 0.0)


# --- reconstruction ------------------------------------------------------------


def test_reconstruction_is_summed_per_image_and_averaged_over_the_batch():
    images, logits = torch.rand(3, 2, 4, 5), torch.randn(3, 2, 4, 5)
    naive = (
        sum(F.binary_cross_entropy(torch.sigmoid(q), x) * x.numel() for q, x in zip(logits, images, strict=True)) / 3
    )
    torch.testing.assert_close(reconstruction_nats(logits, images), naive)
    torch.testing.assert_close(reconstruction_nats(logits.repeat(2, 1, 1, 1), images.repeat(2, 1, 1, 1)), naive)


def test_reconstruction_is_least_at_the_image_itself():
    images = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    floor = reconstruction_floor_nats(images)
    torch.testing.assert_close(reconstruction_nats(torch.logit(images), images), floor)
    assert reconstruction_nats(torch.logit(images) + 0.1, images) > floor
    assert reconstruction_floor_nats(images.round()).item() == 0


def test_losses_keep_full_precision_under_autocast():
    torch.manual_seed(0)
    images, logits = torch.rand(2, 3, 64, 64), torch.randn(2, 3, 64, 64)
    labels, scores = torch.randint(0, 3, (64,)), torch.randn(64, 3)
    expected = (
        reconstruction_nats(logits.bfloat16().float(), images),
        vclub_upper_bound(scores.bfloat16().float(), labels),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = reconstruction_nats(logits.bfloat16(), images), vclub_upper_bound(scores.bfloat16(), labels)
        contrastive = supervised_contrastive_loss(scores.bfloat16(), labels)
    assert contrastive.isfinite()
    for value, exact in zip(found, expected, strict=True):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact)


def test_reconstruction_refuses_other_shapes():
    with pytest.raises(ShapeError, match=r"of the images' shape \(1, 1, 2, 2\), but got \(1, 1, 3, 3\)"):
        reconstruction_nats(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 2, 2))
