"""The detachment loss: signs, gradients, what is held fixed, and the variants."""

import pytest
import torch
from torch import nn

from efface.config import MethodConfig
from efface.data.batches import Batch, Batches
from efface.errors import ConfigError
from efface.heads import Head
from efface.information import label_entropy
from efface.methods.detachment import attribute_priors
from efface.objectives import ClassifierObjective, DetachmentObjective, RemovalHeads
from efface.shapes import warmed

SHAPE = (8, 8, 8)


def former(faces):
    """A block below the cut, as it was before unlearning, that releases features of SHAPE."""
    torch.manual_seed(1)
    side = faces.image_shape[1] // SHAPE[1]
    return [nn.Sequential(nn.Conv2d(3, SHAPE[0], side, side), nn.ReLU())]


def make(faces, before=(), **settings):
    torch.manual_seed(0)
    config = MethodConfig(**{"head_width": 16, "decoder_width": 16, "heads": ("conv", "pooled")} | settings)
    removal = RemovalHeads(SHAPE, attribute_priors(faces, config), config)
    return DetachmentObjective(SHAPE, faces.image_shape, faces.schema, removal, config, before), removal


@pytest.fixture
def batch(faces):
    return next(iter(Batches(faces, "train", 64).sequential()))


@pytest.fixture
def features():
    return torch.randn(64, *SHAPE, requires_grad=True)


def test_removal_heads_get_no_gradient_from_the_extractors_loss(faces, batch, features):
    objective, removal = make(faces)
    objective(features, batch, 1.0).total.backward()
    assert features.grad is not None
    assert float(features.grad.abs().sum()) > 0
    assert all(p.grad is None for p in removal.parameters())
    assert all(p.grad is not None for n, p in objective.named_parameters() if "project" not in n)


def test_a_preserved_column_pulls_by_its_weight_where_its_label_is_known(faces):
    kept, gradients = faces.preserving(["skin_tone"]), []
    batch = next(iter(Batches(kept, "train", 64).sequential()))
    batch.attributes["skin_tone"][::2] = -1
    for weight in (1.0, 3.0):
        objective, _ = make(kept, target_weight=0, input_weight=0, removal_weight=0, preserve_weight=weight)
        features = torch.randn(64, *SHAPE, generator=torch.Generator().manual_seed(0)).requires_grad_()
        terms = objective.eval()(features, batch, 1.0)
        terms.total.backward()
        gradients.append(features.grad)
        logits = objective.preserving_heads[0](features)[0]
        counts = torch.tensor(kept.schema.preserved[0].counts["train"], dtype=torch.float)
        share = torch.nn.functional.cross_entropy(logits, batch.attributes["skin_tone"], ignore_index=-1)
        torch.testing.assert_close(
            terms.metrics["loss/preserve/skin_tone"], (share / label_entropy(counts / counts.sum())).detach()
        )
    norms = gradients[0].flatten(1).norm(dim=1)
    assert float(norms[::2].max()) == 0
    assert float(norms[1::2].min()) > 0
    torch.testing.assert_close(gradients[1], 3 * gradients[0])


def test_the_heads_own_loss_reaches_every_head(faces, batch, features):
    _, removal = make(faces, training="contrastive")
    removal(features.detach(), batch).total.backward()
    assert all(p.grad is not None for p in removal.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("training", "target", "removal"),
    [
        ("cross_entropy", False, False),
        ("contrastive", True, True),
        ("contrastive_target", True, False),
        ("contrastive_removal", False, True),
    ],
)
def test_the_contrastive_loss_is_for_the_heads_of_either_side(faces, batch, features, training, target, removal):
    """A head's projection is read by that loss alone."""
    objective, heads = make(faces, training=training)
    (objective(features, batch, 1.0).total + heads(features.detach(), batch).total).backward()
    assert (objective.target_head.project.weight.grad is not None) == target
    projections = [p for name, p in heads.named_parameters() if "project.weight" in name and p.requires_grad]
    assert projections
    assert all((p.grad is not None and bool(p.grad.any())) == removal for p in projections)


def test_reversal_is_exactly_minus_lambda_times_the_heads_gradient(faces, batch, features):
    _, removal = make(faces, removal="reversal", heads=("conv",))
    removal.eval()
    removal(features, batch).total.backward()
    own = features.grad.clone()
    features.grad = None
    sum(removal.penalty(features, batch).values()).backward()
    torch.testing.assert_close(features.grad, -own)


@pytest.mark.parametrize("removal", ["confusion", "reversal", "vclub"])
@pytest.mark.parametrize("variant", ["conditional", "paper"])
def test_a_step_along_the_gradient_lowers_the_penalty(faces, batch, features, removal, variant):
    _, heads = make(faces, removal=removal, variant=variant)
    optimizer = torch.optim.Adam(heads.parameters(), 1e-2)
    for _ in range(30):  # without knowledge there is no penalty to lower
        optimizer.zero_grad()
        heads(features.detach(), batch).total.backward()
        optimizer.step()
    heads.eval()
    before = sum(heads.penalty(features, batch).values())
    before.backward()
    after = sum(heads.penalty(features - 0.05 * features.grad / features.grad.norm(), batch).values())
    assert after.item() < before.item()


def test_weights_scale_their_terms(faces, batch, features):
    base = make(faces, input_weight=0.0, target_weight=0.0, removal_weight=1.0)[0]
    double = make(faces, input_weight=0.0, target_weight=0.0, removal_weight=2.0)[0]
    one, two = (o(features, batch, 1.0).total for o in (base, double))
    torch.testing.assert_close(two, 2 * one)
    only_glasses = make(faces, input_weight=0.0, target_weight=0.0, removal_weight=1.0, attribute_weights={"hat": 0.0})[
        0
    ]
    terms = only_glasses(features, batch, 1.0)
    torch.testing.assert_close(terms.total, terms.metrics["penalty_nats/glasses"])


def test_the_decoder_is_told_the_attributes_only_when_conditional(faces):
    for variant, told in (
        ("conditional", True),
        ("paper", False),
        ("conditional_decoder", True),
        ("conditional_removal", False),
    ):
        assert make(faces, variant=variant)[0].keeping.decoder.condition == ((2, 2) if told else ())


def test_the_heads_are_told_the_target_only_when_conditional(faces):
    for variant, told in (
        ("conditional", True),
        ("paper", False),
        ("conditional_removal", True),
        ("conditional_decoder", False),
    ):
        objective, heads = make(faces, variant=variant)
        priors = attribute_priors(faces, objective.config)["glasses"]
        given = next(m.given for m in heads.modules() if isinstance(m, Head))
        assert given == (faces.target.n_classes if told else 1)
        assert bool((priors == priors[:1]).all()) != told
    assert make(faces, input_weight=0.0)[0].keeping is None


def test_priors_are_conditional_or_marginal(faces):
    marginal = attribute_priors(faces, MethodConfig(variant="paper"))["glasses"]
    torch.testing.assert_close(marginal[0], marginal[1])
    table = attribute_priors(faces, MethodConfig())["glasses"]
    torch.testing.assert_close(table.sum(1), torch.ones(2))


def test_missing_attribute_labels_are_left_out(faces, batch, features):
    from dataclasses import replace

    _, removal = make(faces)
    removal.eval()
    hidden = replace(
        batch, attributes={n: torch.where(torch.arange(64) < 32, z, -1) for n, z in batch.attributes.items()}
    )
    half = Batch(
        batch.images[:32], batch.pixels[:32], batch.target[:32], {n: z[:32] for n, z in batch.attributes.items()}
    )
    torch.testing.assert_close(removal(features, hidden).total, removal(features[:32], half).total)
    nothing = replace(batch, attributes={n: torch.full_like(z, -1) for n, z in batch.attributes.items()})
    assert removal(features, nothing).total.item() == 0


def test_restart_renews_one_head_of_each_attribute(faces):
    _, removal = make(faces)
    before = {name: p.clone() for name, p in removal.named_parameters()}
    renewed = {id(p) for p in removal.restart(1)}
    changed = {n for n, p in removal.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert all(n.startswith(("heads.0.1", "heads.1.1")) for n in changed)
    assert all(id(p) in renewed for n, p in removal.named_parameters() if n in changed)


def test_the_extractor_answers_a_moving_average_of_the_heads(faces, batch, features):
    _, removal = make(faces, heads=("conv", "pooled", "ridge"), head_average=0.75)
    first = [p.clone() for p in removal.heads.parameters()]
    trained = [p for p in removal.parameters() if p.requires_grad]
    assert len(trained) == len(first), "what is averaged is not trained"
    optimizer = torch.optim.SGD(trained, 1.0)
    begun = removal.penalty(features, batch)["glasses"]
    removal(features, batch).total.backward()
    optimizer.step()
    assert torch.equal(removal.penalty(features, batch)["glasses"], begun), "the average has not moved"
    removal(features, batch)
    for slow, old, new in zip(removal.averages.parameters(), first, removal.heads.parameters(), strict=True):
        torch.testing.assert_close(slow, 0.75 * old + 0.25 * new)
    assert not torch.equal(removal.penalty(features, batch)["glasses"], begun)
    x = features.detach().clone().requires_grad_()
    optimizer.zero_grad()
    removal.penalty(x, batch)["glasses"].backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None for p in removal.parameters())
    removal.restart(0)
    for slow, fast in zip(removal.averages[0][0].parameters(), removal.heads[0][0].parameters(), strict=True):
        assert torch.equal(slow, fast), "a fresh head has no past"


def test_warmup_rises_linearly():
    assert [warmed(p, 0.2) for p in (0.0, 0.1, 0.2, 1.0)] == [0.0, 0.5, 1.0, 1.0]


def test_classifier_objective_is_cross_entropy(batch):
    logits = torch.randn(64, 2)
    expected = torch.nn.functional.cross_entropy(logits, batch.target)
    torch.testing.assert_close(ClassifierObjective()(logits, batch, 0.0).total, expected)


def test_an_attribute_may_have_any_name(faces, features):
    """Names are the users' words: none may collide with what modules call their own things."""
    priors = {name: torch.full((2, 2), 0.5) for name in ("type", "hair.colour", "train", "")}
    removal = RemovalHeads(SHAPE, priors, MethodConfig(head_width=16))
    assert removal.names == tuple(priors)


def test_former_features_are_drawn_and_their_block_never_learns(faces, batch, features):
    before = former(faces)
    objective, _ = make(faces, before, keep="features", input_weight=0.1, removal_weight=0.0)
    state = {name: value.clone() for name, value in before[0].state_dict().items()}
    assert not any(name.startswith("keeping._before") for name in objective.state_dict())
    objective.train()
    assert not before[0].training
    objective(features, batch, 1.0).total.backward()
    assert all(parameter.grad is None for parameter in before[0].parameters())
    assert all(torch.equal(value, state[name]) for name, value in before[0].state_dict().items())
    assert float(features.grad.abs().sum()) > 0


def test_the_error_is_small_where_the_former_features_are_still_there(faces, batch):
    before = former(faces)
    objective, _ = make(faces, before, keep="features", input_weight=1.0)
    with torch.no_grad():
        kept = before[0](batch.images)
    optimizer = torch.optim.Adam(objective.keeping.parameters(), 1e-2)

    def error(features):
        given = [batch.attributes[name] for name in objective.names]
        for _ in range(100):
            loss = objective.keeping(features, batch, given)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    everything = 0.5 * kept[0].numel()
    assert error(kept) < 0.05 * everything
    assert error(torch.zeros_like(kept)) > 0.5 * everything


def test_a_method_that_has_no_former_features_says_so(faces):
    with pytest.raises(ConfigError, match=r"Expected `method.keep` to be 'image' for this method, but got 'features'"):
        make(faces, keep="features")
