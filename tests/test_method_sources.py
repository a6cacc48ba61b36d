"""Every method is what its source says: exact gradients, closed forms against oracles, and the known failures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn
from torch.nn import functional as F

from conftest import Net
from efface.config import EngineConfig, EraserConfig, MethodConfig
from efface.data.batches import Batches
from efface.data.schema import Column
from efface.data.toyfaces import load_toyfaces
from efface.heads import Head, build_head
from efface.heads.reversal import reverse_gradient
from efface.information.hsic import normalised_hsic
from efface.methods import METHODS, unlearn
from efface.methods.attention import AttributeClassifier, attention
from efface.methods.detachment import attribute_priors
from efface.methods.inlp import Inlp
from efface.methods.leace import Leace, concept, number_scales
from efface.methods.posthoc import Stream
from efface.models import split
from efface.objectives.adversarial import AdversarialObjective
from efface.objectives.dependence import DependencePenalty
from efface.objectives.entropy import EntropyHeads, entropy_gap

SHAPE = (8, 8, 8)
FAST = EngineConfig(epochs=1, batch_size=64, precision="32-true", threads=1, device="cpu")
CARDS = Path(__file__).parents[1] / "docs" / "methods"


@pytest.fixture
def batch(faces):
    return next(iter(Batches(faces, "train", 64).sequential()))


@pytest.fixture
def features():
    torch.manual_seed(1)
    return torch.randn(64, *SHAPE, requires_grad=True)


def adversary(faces, entropy_weight=0.0, **settings):
    torch.manual_seed(0)
    config = MethodConfig(variant="paper", head_width=8, heads=("conv",), input_weight=0.0, warmup=0.0, **settings)
    priors = attribute_priors(faces, config)
    return AdversarialObjective(SHAPE, faces.image_shape, faces.schema, priors, config, entropy_weight).eval()


def gradient(loss, of):
    (found,) = torch.autograd.grad(loss, of)
    return found


# ---------------------------------------------------------------- gradient reversal


@pytest.mark.parametrize("strength", [0.0, 0.3, 7.0])
def test_the_reversed_gradient_is_exactly_minus_lambda_times_the_gradient(strength):
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)

    def loss(h):
        return (h.sin() * torch.arange(3.0, dtype=torch.float64)).sum()

    assert torch.equal(gradient(loss(reverse_gradient(x, strength)), x), -strength * gradient(loss(x), x))
    assert torch.equal(reverse_gradient(x, strength), x)


@pytest.mark.parametrize("weight", [0.5, 4.0])
def test_features_get_minus_lambda_and_heads_their_own_gradient(faces, batch, features, weight):
    """The loss of ``adversarial``: λ and the attribute's factor reach the features, and never the heads."""
    objective = adversary(faces, target_weight=0.0, removal_weight=weight, attribute_weights={"hat": 0.25})
    own = [gradient(heads(features, batch).total, features) for heads in objective.heads]
    total = objective(features, batch, 1.0).total
    learning = [parameter for parameter in objective.heads.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(total, [features, *learning], allow_unused=True)
    torch.testing.assert_close(found[0], -weight * (own[0] + 0.25 * own[1]))
    alone = torch.stack([heads(features, batch).total for heads in objective.heads]).sum()
    wanted = torch.autograd.grad(alone, learning, allow_unused=True)
    for got, want in zip(found[1:], wanted, strict=True):
        assert (got is None) == (want is None)
        if want is not None:
            torch.testing.assert_close(got, want)


def test_learning_not_to_learn_adds_the_entropy_for_the_features_alone(faces, batch, features):
    plain, more = adversary(faces, target_weight=0.0), adversary(faces, 0.7, target_weight=0.0)
    heads = [parameter for parameter in more.heads.parameters() if parameter.requires_grad]
    without, with_it = (torch.autograd.grad(o(features, batch, 1.0).total, features)[0] for o in (plain, more))
    gaps = [head.penalty(features, batch) for head in more.heads]
    entropy = sum(next(iter(gap.values())) for gap in gaps)
    torch.testing.assert_close(with_it, without + 0.7 * gradient(entropy, features))
    assert all(
        g is None
        for g in torch.autograd.grad(more.heads[0].penalty(features, batch)["glasses"], heads, allow_unused=True)
    )


# ---------------------------------------------------------------- other losses


def test_maxent_is_the_divergence_from_uniform_and_reads_no_label(faces, batch, features):
    logits = torch.randn(7, 4, dtype=torch.float64)
    naive = np.mean([sum(p * np.log(4 * p) for p in row) for row in logits.softmax(1).tolist()])
    assert float(entropy_gap(logits)) == pytest.approx(naive, rel=1e-6)
    assert float(entropy_gap(torch.zeros(3, 5))) == pytest.approx(0, abs=1e-6)
    config = MethodConfig(variant="paper", head_width=8, heads=("conv",))
    heads = EntropyHeads(SHAPE, attribute_priors(faces, config), config).eval()
    hidden = replace(batch, attributes={name: torch.full_like(z, -1) for name, z in batch.attributes.items()})
    known, unknown = heads.penalty(features.detach(), batch), heads.penalty(features.detach(), hidden)
    assert {n: float(v) for n, v in known.items()} == {n: float(v) for n, v in unknown.items()}


def test_hsic_is_the_naive_sum_and_0_for_independent_features(faces, batch):
    """Song et al.'s unbiased estimate by its definition: sums over different indices."""
    from efface.information.hsic import gaussian_kernel, hsic, label_kernel

    torch.manual_seed(0)
    k, l = gaussian_kernel(torch.randn(7, 3)).double(), label_kernel(torch.tensor([0, 1, 0, 1, 1, 2, 2])).double()  # noqa: E741
    one = [(i, j) for i in range(7) for j in range(7) if i != j]
    pairs = np.mean([float(k[i, j] * l[i, j]) for i, j in one])
    fours = np.mean([float(k[i, j] * l[q, r]) for i, j in one for q, r in one if len({i, j, q, r}) == 4])
    threes = np.mean([float(k[i, j] * l[i, q]) for i, j in one for q in range(7) if len({i, j, q}) == 3])
    assert float(hsic(k, l)) == pytest.approx(pairs + fours - 2 * threes, rel=1e-9)
    penalty = DependencePenalty(SHAPE, attribute_priors(faces, MethodConfig()), MethodConfig(variant="paper"))
    noise = torch.randn(64, *SHAPE)
    told = noise + 3.0 * batch.attributes["glasses"][:, None, None, None]
    assert float(penalty.penalty(noise, batch)["glasses"]) < 0.1 < float(penalty.penalty(told, batch)["glasses"])
    assert not [p for p in penalty.parameters() if p.requires_grad]


# ---------------------------------------------------------------- the known failure


def released(model, data):
    """What is released of train and test people, in 4×4 cells, and their attribute."""
    block, seen = split(model, "middle").blocks[0].eval(), {}
    for part in ("train", "test"):
        batch = next(Batches(data, part, 2000).sequential())
        with torch.no_grad():
            cells = F.adaptive_avg_pool2d(block(batch.images), 4).flatten(1).numpy()
        seen[part] = (cells, batch.attributes["glasses"].numpy())
    mean, scale = seen["train"][0].mean(0), seen["train"][0].std(0) + 1e-6
    return {part: ((cells - mean) / scale, z) for part, (cells, z) in seen.items()}


def test_a_single_adversary_looks_clean_in_training_and_leaks_to_a_fresh_attacker():
    """Why this project exists. The head that trains along ends near guessing; a logistic regression is far above it.

    The head is not blind: where nothing is removed, the same one finds the attribute.
    """
    data = load_toyfaces(n=1500, size=32, seed=0, attributes=("glasses",))

    def trained(weight, epochs):
        torch.manual_seed(0)
        model = Net()
        config = MethodConfig(
            name="adversarial", variant="paper", heads=("conv",), head_width=16, removal_weight=weight, warmup=0.3
        )
        engine = FAST.model_copy(update={"epochs": epochs, "lr": 1e-2})
        result = unlearn(model, data, "middle", method=config, engine=engine, progress=False, augment=(False, 0))
        lines = [line["metrics"] for line in result.history.lines if line["split"] == "validation"]
        return model, float(np.mean([line["removal_accuracy/glasses"] for line in lines[-4:]]))

    _, where_it_may_see = trained(0.0, epochs=6)
    model, in_training = trained(2.0, epochs=10)
    seen = released(model, data)
    attacker = LogisticRegression(C=0.01, max_iter=500).fit(*seen["train"])
    z = seen["test"][1]
    majority = max(np.mean(z), 1 - np.mean(z))
    assert where_it_may_see > majority + 0.2, "the head can see the attribute"
    assert in_training < majority + 0.06, "the training's own figure says: guessing"
    assert attacker.score(*seen["test"]) > majority + 0.15, "a fresh attacker says otherwise"


# ---------------------------------------------------------------- continuous attributes: classes and the number itself


def brightness(faces, bins, numbers=True):
    """Faces whose attribute is the brightness of the upper half, cut into so many classes; and that number."""
    value = np.asarray(faces.images[:, :, :16]).mean((1, 2, 3))
    edges = np.quantile(value[faces.rows("train")], np.arange(1, bins) / bins)
    codes = np.searchsorted(edges, value)
    column = Column.of("brightness", tuple(f"bin {i}" for i in range(bins)), codes, dict(faces.splits))
    schema = replace(faces.schema, attributes=(column,))
    data = replace(faces, labels={**faces.labels, "brightness": codes}, schema=schema)
    return replace(data, numbers={"brightness": value}) if numbers else data


def correlations(net, method, data, variant="paper"):
    """Largest correlation of the number with one feature of the train split, before and after; within y if asked."""
    block = split(net, "middle").blocks[0].eval()
    config = MethodConfig(variant=variant, eraser=EraserConfig(dimensions=768, rounds=3))
    value = np.asarray(data.images[:, :, :16]).mean((1, 2, 3))
    layer = method.learn(Stream(block, data, config, torch.device("cpu"), seed=0), (12, 8, 8)).double()
    with torch.no_grad():
        maps = torch.cat([block(batch.images) for batch in Batches(data, "train", 256).sequential()]).double()
    v, y = torch.from_numpy(value[data.rows("train")]), torch.from_numpy(data.split_labels("train", data.target.name))

    def correlation(h):
        h = h.flatten(1)
        if variant == "conditional":
            groups = [y == one for one in y.unique()]
            centred = sum(g[:, None] * (v - v[g].mean())[:, None] for g in groups)[:, 0]
        else:
            centred = v - v.mean()
        h = h - h.mean(0)
        return float(((h.T @ centred) / (h.norm(dim=0) * centred.norm() + 1e-12)).abs().max())

    with torch.no_grad():
        return correlation(maps), correlation(layer(maps))


def test_erasing_narrow_classes_comes_near_to_erasing_the_number(net, faces):
    before, after = correlations(net, Leace(), brightness(faces, 12, numbers=False))
    assert before > 0.5
    assert after < 0.2 * before


@pytest.mark.parametrize("variant", ["paper", "conditional"])
def test_leace_erases_the_number_itself_where_it_is_known(net, faces, variant):
    """Of two wide classes much is left within a class; with the number nothing linear is, to rounding."""
    _, classes_alone = correlations(net, Leace(), brightness(faces, 2, numbers=False), variant)
    before, after = correlations(net, Leace(), brightness(faces, 2), variant)
    assert classes_alone > 0.1
    assert after < 1e-3 * before


def test_inlp_takes_the_number_s_direction_too(net, faces):
    """A round takes a direction per class, and one more: what the layer reads afterwards has no such least squares."""
    block, data = split(net, "middle").blocks[0].eval(), brightness(faces, 2)
    config = MethodConfig(variant="paper", eraser=EraserConfig(dimensions=48, rounds=1))
    explained = []
    for one in (brightness(faces, 2, numbers=False), data):
        layer = Inlp().learn(Stream(block, one, config, torch.device("cpu"), seed=0), (12, 8, 8))
        with torch.no_grad():
            rows = [layer.read(layer(block(batch.images))) for batch in Batches(data, "train", 256).sequential()]
        told, value = torch.cat(rows).double().numpy(), data.split_numbers("train", "brightness")
        told = (told - told.mean(0)) / (told.std(0) + 1e-9)
        explained.append((len(layer.right), Ridge(alpha=1.0).fit(told, value).score(told, value)))
    assert [rank for rank, _ in explained] == [1, 2]
    assert explained[1][1] < 0.95 * explained[0][1]


def test_a_missing_number_is_the_mean(faces):
    """The covariance that LEACE erases is that of the people whose number is known."""
    data = brightness(faces, 2)
    value = np.array(data.numbers["brightness"])
    value[::3] = np.nan
    data = replace(data, numbers={"brightness": value})
    config = MethodConfig(variant="conditional")
    scales, priors = number_scales(data, config), attribute_priors(data, config)
    rows = torch.cat([concept(b, priors, scales) for b in Batches(data, "train", 256).sequential()])[:, -1].numpy()
    known, y = ~np.isnan(data.split_numbers("train", "brightness")), data.split_labels("train", data.target.name)
    assert (rows[~known] == 0).all()
    assert rows[known].std() == pytest.approx(1, abs=1e-6)
    for one in np.unique(y):
        assert rows[known & (y == one)].mean() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("method", [Leace(), Inlp()])
def test_a_number_that_the_target_tells_but_for_rounding_does_not_cost_the_target(net, faces, method):
    """Divided by a spread of next to nothing, rounding would be y, and y would be erased."""
    data = brightness(faces, 2)
    y = data.labels[data.target.name]
    data = replace(data, numbers={"brightness": np.where(y == 1, 0.7, 0.1)})
    config = MethodConfig(variant="conditional", eraser=EraserConfig(dimensions=768, rounds=1))
    block, target = split(net, "middle").blocks[0].eval(), data.split_labels("train", data.target.name)
    layer = method.learn(Stream(block, data, config, torch.device("cpu"), seed=0), (12, 8, 8))
    with torch.no_grad():
        maps = [block(batch.images) for batch in Batches(data, "train", 256).sequential()]
        before, after = (np.concatenate([f(one).flatten(1) for one in maps]) for f in (lambda x: x, layer))

    def told(table):
        return max(abs(np.corrcoef(column, target)[0, 1]) for column in table.T if column.std() > 1e-3)

    assert told(after) > 0.8 * told(before)
    assert number_scales(data, config) == {}


def test_hsic_of_a_number_sees_what_its_classes_hide():
    """Features that tell the number within each class only: independent of the class, dependent on the number."""
    torch.manual_seed(0)
    z, within = torch.randint(0, 2, (400,)), torch.rand(400)
    x = within[:, None]
    numbers = z + within
    assert abs(float(normalised_hsic(x, z))) < 0.02
    assert float(normalised_hsic(x, z, numbers=numbers)) > 0.02
    # Where the features tell the class alone, a number that varies more within it does not hide that.
    class_alone = normalised_hsic(z[:, None].float(), z, numbers=30 * torch.rand(400) + 5 * z)
    assert float(class_alone) > 0.5
    hidden = torch.where(torch.arange(400) % 4 == 0, torch.nan, numbers)
    known = ~hidden.isnan()
    torch.testing.assert_close(
        normalised_hsic(x, z, numbers=hidden), normalised_hsic(x[known], z[known], numbers=numbers[known])
    )


def test_the_penalty_reads_numbers_where_a_batch_has_them(faces):
    data = brightness(faces, 2)
    config = MethodConfig(variant="paper")
    penalty = DependencePenalty(SHAPE, attribute_priors(data, config), config)
    batch = next(iter(Batches(data, "train", 64).sequential()))
    features = batch.images[:, :1, ::4, ::4].expand(64, 8, 8, 8)
    flat = features.flatten(1)
    found = float(penalty.penalty(features, batch)["brightness"])
    labels = batch.attributes["brightness"]
    assert found == pytest.approx(float(normalised_hsic(flat, labels, numbers=batch.numbers["brightness"])), rel=1e-5)
    assert abs(found - float(normalised_hsic(flat, labels))) > 1e-3


# ---------------------------------------------------------------- cards


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_has_a_card(name):
    card = CARDS / f"{name}.md"
    assert card.is_file(), f"docs/methods/{name}.md is missing: what, equations, settings, limits, source"
    text = card.read_text(encoding="utf-8")
    assert text.startswith(f"# `{name}`")
    assert all(
        f"**{part}" in text or f"## {part}" in text for part in ("What", "Settings", "When to use it", "Source")
    ) or name in (
        "original",
        "detachment",
    )
    assert f"({name}.md)" in (CARDS / "README.md").read_text(encoding="utf-8")


def test_settings_named_in_cards_exist():
    """A card must not describe a setting that is gone."""
    import re

    fields = set(MethodConfig.model_fields)
    nested = {
        f"{part}.{name}"
        for part in ("eraser", "code", "mask", "narrow")
        for name in type(getattr(MethodConfig(), part)).model_fields
    }
    for card in CARDS.glob("*.md"):
        for line in card.read_text(encoding="utf-8").splitlines():
            if match := re.match(r"\| (`[\w.]+`(?:, `[\w.]+`)*) \|", line):
                named = re.findall(r"`([\w.]+)`", match.group(1))
                if card.stem in METHODS.names() and "." in "".join(named):
                    assert set(named) <= nested, (card.name, line)
                elif card.stem in METHODS.names() and card.stem != "detachment":
                    assert set(named) <= fields, (card.name, line)


def test_attention_is_to_what_tells_classes_apart():
    """What is added to the logits of all classes changes no guess, and no attention."""
    torch.manual_seed(0)
    images = torch.rand(6, 3, 16, 16)
    classifier = AttributeClassifier(nn.Conv2d(3, 8, 3, 2), build_head("conv", (8, 7, 7), 3, 8, 1)).eval()
    before = attention(classifier, images)
    with torch.no_grad():
        classifier.head.classify.weight += torch.randn(1, classifier.head.classify.in_features)
    after = attention(classifier, images)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


def test_where_nothing_speaks_for_the_guess_what_speaks_against_it_is_the_key_area():
    """Class 0 is guessed for want of brightness, which speaks for class 1."""
    head = Head(nn.Flatten(), width=3 * 8 * 8, classes=2)
    with torch.no_grad():
        head.classify.weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 3 * 8 * 8))
        head.classify.bias.copy_(torch.tensor([1000.0, -1000.0]))
    images = torch.rand(5, 3, 8, 8) * 0.1
    images[:, :, 2, 3] = 1.0
    looked_at = attention(AttributeClassifier(nn.Identity(), head).eval(), images)
    assert (looked_at.flatten(1).argmax(1) == 2 * 8 + 3).all()
    assert torch.equal(looked_at.amax((1, 2)), torch.ones(5))
