"""The table that prices a finite code: against a count by hand, against I(c;z|y), and where labels are missing."""

import numpy as np
import pytest
import torch

from efface.config import CodeConfig, MethodConfig
from efface.data.batches import Batches
from efface.heads.quantiser import Quantiser
from efface.information.hsic import normalised_hsic
from efface.methods import find_method
from efface.methods.detachment import attribute_priors
from efface.methods.penalised import Site
from efface.objectives import DetachmentObjective, RemovalHeads
from efface.objectives.codes import PSEUDO, CodedObjective, CodeHeads

SHAPE, LEVELS = (8, 8, 8), (2, 3)
CODES = 6


@pytest.fixture
def batch(faces):
    return next(iter(Batches(faces, "train", 128).sequential()))


def table(faces, variant="conditional", decay=0.99):
    """Heads of which the trained ones are left out of the price by the tests."""
    torch.manual_seed(0)
    config = MethodConfig(name="quantised", variant=variant, heads=("conv",), head_width=8)
    quantiser = Quantiser(shape=SHAPE, levels=LEVELS, width=8).train()
    return CodeHeads(quantiser, SHAPE, attribute_priors(faces, config), config, decay), quantiser


def charged(heads, quantiser, codes, labels, given):
    """Give codes to the table; return its price and the gradient in the assignment."""
    quantiser.latest = torch.nn.functional.one_hot(codes, CODES).float().requires_grad_()
    price = heads._table_price(0, quantiser.latest, labels, given)
    (gradient,) = torch.autograd.grad(price, quantiser.latest)
    return price.item(), gradient


def naive_prices(prior, counts):
    """log p(z|c,y) − log p(z|y) ``[M, Y, A]`` from counts, by loops."""
    found = np.zeros(counts.shape)
    for c, y, z in np.ndindex(*counts.shape):
        seen = counts[c, y] + PSEUDO * prior[y]
        found[c, y, z] = np.log(seen[z] / seen.sum()) - np.log(prior[y, z])
    return found


@pytest.mark.parametrize("variant", ["conditional", "paper"])
def test_a_batch_is_priced_by_what_was_counted_before_it(faces, batch, variant):
    heads, quantiser = table(faces, variant, decay=0.9)
    prior = heads.priors[0].detach().numpy().astype(float)
    counts = np.zeros((CODES, *prior.shape))
    name = next(iter(batch.attributes))
    z = batch.attributes[name]
    given = batch.target if variant == "conditional" else torch.zeros_like(batch.target)
    for turn in range(3):
        codes = torch.randint(0, CODES, z.shape, generator=torch.Generator().manual_seed(turn))
        price, gradient = charged(heads, quantiser, codes, z, given)
        prices = naive_prices(prior, counts)
        people = list(zip(codes.tolist(), given.tolist(), z.tolist(), strict=True))
        assert price == pytest.approx(np.mean([prices[one] for one in people]), abs=1e-5)
        # What pushes a person from code to code is what each of them would tell of this person.
        wanted = np.array([[prices[c, y, label] for c in range(CODES)] for _, y, label in people]) / len(people)
        np.testing.assert_allclose(gradient.numpy(), wanted, atol=1e-6)
        counts *= 0.9
        for one in people:
            counts[one] += 1
        np.testing.assert_allclose(heads.counts0.numpy(), counts, rtol=1e-5)
    assert price != 0
    heads.eval()
    charged(heads, quantiser, codes, z, given)
    np.testing.assert_allclose(heads.counts0.numpy(), counts, rtol=1e-5)  # evaluation counts nothing


def test_the_price_is_the_information_that_the_code_holds_given_the_target(faces):
    """With many people: E[log p(z|c,y) − log p(z|y)] = I(c;z|y) of the joint that made them."""
    heads, quantiser = table(faces, decay=1.0)
    prior = heads.priors[0].detach()
    generator, n = torch.Generator().manual_seed(0), 40_000
    y = torch.randint(0, len(prior), (n,), generator=generator)
    z = torch.multinomial(prior[y], 1, generator=generator)[:, 0]
    # Code 0 or 1 tells z at 8 of 10 people; the others are noise.
    tells = torch.rand(n, generator=generator) < 0.8
    codes = torch.where(tells, z.clamp(max=1), torch.randint(0, CODES, (n,), generator=generator))
    charged(heads, quantiser, codes, z, y)
    price, _ = charged(heads, quantiser, codes, z, y)
    joint = torch.zeros(CODES, *prior.shape).index_put_((codes, y, z), torch.ones(n), accumulate=True) / n
    given_y = joint.sum((0, 2), keepdim=True)
    ratio = joint * given_y / (joint.sum(2, keepdim=True) * joint.sum(0, keepdim=True))
    information = float((joint * ratio.clamp_min(1e-30).log())[joint > 0].sum())
    assert information > 0.2
    assert price == pytest.approx(information, abs=0.01)


def test_people_without_a_label_are_neither_priced_nor_counted(faces, batch):
    name = next(iter(batch.attributes))
    z, y = batch.attributes[name], batch.target
    codes = torch.randint(0, CODES, z.shape, generator=torch.Generator().manual_seed(0))
    known = torch.arange(len(z)) % 3 > 0
    some, quantiser = table(faces)
    alone, other = table(faces)
    for _ in range(2):
        hidden = charged(some, quantiser, codes, torch.where(known, z, -1), y)
        left_out = charged(alone, other, codes[known], z[known], y[known])
        assert hidden[0] == pytest.approx(left_out[0], abs=1e-6)
        torch.testing.assert_close(hidden[1][known], left_out[1])
        assert not hidden[1][~known].any()
    torch.testing.assert_close(some.counts0, alone.counts0)


def test_hsic_leaves_out_people_without_a_label():
    generator = torch.Generator().manual_seed(0)
    x, z, y = torch.randn(60, 5, generator=generator), torch.arange(60) % 3, torch.arange(60) // 30
    known = torch.rand(60, generator=generator) < 0.7
    for given in (None, y):
        hidden = normalised_hsic(x, torch.where(known, z, -1), given)
        alone = normalised_hsic(x[known], z[known], None if given is None else given[known])
        torch.testing.assert_close(hidden, alone)


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_the_table_is_charged_by_its_weight_beside_the_trained_heads(faces, batch, weight):
    heads, quantiser = table(faces)
    heads.config = heads.config.model_copy(update={"code": CodeConfig(table_weight=weight)})
    z, features = next(iter(batch.attributes.values())), torch.randn(128, *SHAPE)
    codes = z.clamp(max=1)
    for _ in range(3):
        charged(heads, quantiser, codes, z, batch.target)
    heads.eval()
    alone = RemovalHeads.penalty(heads, features, batch)
    by_table, _ = charged(heads, quantiser, codes, z, batch.target)
    assert by_table > 0.1
    name = next(iter(batch.attributes))
    assert heads.penalty(features, batch)[name].item() == pytest.approx(
        alone[name].item() + weight * by_table, rel=1e-5
    )
    quantiser.latest = None  # as in evaluation, where the layer notes nothing
    assert heads.penalty(features, batch)[name].item() == pytest.approx(alone[name].item(), rel=1e-6)


def answering(faces, weight=1.0, decay=0.9):
    """The loss with a table of the target."""
    heads, quantiser = table(faces)
    config = heads.config.model_copy(update={"input_weight": 0.0, "code": CodeConfig(target_table=weight)})
    arguments = SHAPE, faces.image_shape, faces.schema, heads, config
    return CodedObjective(quantiser, *arguments, decay=decay).train(), quantiser


def tabled(objective, assignment, labels):
    return objective._table_loss("answers", objective.target_prior, assignment, labels)


def test_the_target_is_priced_by_what_was_counted_before_it(faces, batch):
    objective, _ = answering(faces)
    y = batch.target
    prior = objective.target_prior.numpy()
    counts = np.zeros((CODES, len(prior)))
    for turn in range(3):
        codes = torch.randint(0, CODES, y.shape, generator=torch.Generator().manual_seed(turn))
        assignment = torch.nn.functional.one_hot(codes, CODES).float().requires_grad_()
        loss = tabled(objective, assignment, y)
        (gradient,) = torch.autograd.grad(loss, assignment)
        smooth = counts + PSEUDO * prior
        surprise = -np.log(smooth / smooth.sum(1, keepdims=True))
        assert loss.item() == pytest.approx(surprise[codes.numpy(), y.numpy()].mean(), abs=1e-5)
        np.testing.assert_allclose(gradient.numpy(), surprise[:, y.numpy()].T / len(y), atol=1e-6)
        counts *= 0.9
        np.add.at(counts, (codes.numpy(), y.numpy()), 1)
        np.testing.assert_allclose(objective.answers.numpy(), counts, rtol=1e-5)
    objective.eval()
    tabled(objective, assignment, y)
    np.testing.assert_allclose(objective.answers.numpy(), counts, rtol=1e-5)  # evaluation counts nothing


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_the_targets_table_is_charged_by_its_weight_beside_the_head(faces, batch, weight):
    objective, quantiser = answering(faces, weight)
    features = torch.randn(128, *SHAPE)
    assignment = torch.nn.functional.one_hot(batch.target, CODES).float()
    for _ in range(3):
        tabled(objective, assignment, 1 - batch.target)  # as wrong as can be
    objective.eval()
    quantiser.latest = assignment
    by_table = tabled(objective, assignment, batch.target).item()
    assert by_table > 1
    alone = DetachmentObjective._target_loss(objective, features, batch, {})
    both = objective._target_loss(features, batch, {})
    assert both.item() == pytest.approx(alone.item() + weight * by_table, rel=1e-5)
    quantiser.latest = None
    assert objective._target_loss(features, batch, {}).item() == pytest.approx(alone.item(), rel=1e-6)


def test_whoever_lies_at_the_edge_of_a_code_is_pulled_most(faces):
    """By the table; a head that reads the rounded numbers pulls everybody of a code alike."""
    objective, _ = answering(faces)
    quantiser = Quantiser(shape=SHAPE, levels=(2,), width=8)
    objective.answers = torch.tensor([[90.0, 10.0], [10.0, 90.0]])
    position = torch.tensor([[-0.9], [-0.3], [-0.01], [0.01], [0.3], [0.9]], requires_grad=True)
    assignment = quantiser._assignment(position, quantiser._index(position))
    tabled(objective.eval(), assignment, torch.ones(6).long()).backward()
    pull = (-position.grad[:, 0]).tolist()
    assert min(pull) > 0  # on both sides of the edge, towards the code of class 1
    assert pull[2] == pytest.approx(pull[3], rel=0.01)
    assert pull[3] > 1.2 * pull[4] > 1.2 * pull[5]
    position.grad = None
    head = torch.nn.Linear(1, 2)
    centre = quantiser._centre(quantiser._index(position))
    released = position + (centre - position).detach()
    torch.nn.functional.cross_entropy(head(released), torch.ones(6).long()).backward()
    by_head = position.grad[:, 0].tolist()
    assert by_head[3] == pytest.approx(by_head[5]) != 0


def test_kept_columns_have_tables_of_their_own_and_people_without_a_label_are_left_out(faces):
    column = faces.schema.others[0].name
    data = faces.preserving((column,))
    heads, quantiser = table(data)
    code = CodeConfig(kept_table=2)
    config = heads.config.model_copy(update={"input_weight": 0.0, "code": code, "preserve": (column,)})
    objective = CodedObjective(quantiser, SHAPE, data.image_shape, data.schema, heads, config).train()
    labels = torch.from_numpy(data.labels[column][data.rows("train")[:128]]).long()
    known, features = torch.arange(128) % 3 > 0, torch.randn(128, *SHAPE)
    hidden = torch.where(known, labels, -1)
    codes = torch.randint(0, CODES, labels.shape, generator=torch.Generator().manual_seed(0))
    quantiser.latest = torch.nn.functional.one_hot(codes, CODES).float()
    first = objective._kept_loss(0, features, hidden)
    alone = DetachmentObjective._kept_loss(objective, 0, features, hidden)
    classes = data.schema.preserved[0].n_classes
    assert (first - alone).item() == pytest.approx(2 * np.log(classes), rel=1e-5)  # nothing is counted yet
    counts = np.zeros((CODES, classes))
    np.add.at(counts, (codes[known].numpy(), labels[known].numpy()), 1)
    np.testing.assert_array_equal(objective.answers0.numpy(), counts)
    smooth = counts + PSEUDO / classes
    surprise = -np.log(smooth / smooth.sum(1, keepdims=True))[codes[known].numpy(), labels[known].numpy()]
    second = objective._kept_loss(0, features, hidden)
    assert (second - alone).item() == pytest.approx(2 * surprise.mean(), rel=1e-4)
    assert not objective.answers.any()  # of the target nothing was asked


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_only_who_asks_for_it_has_a_table_of_the_target(faces, weight):
    heads, quantiser = table(faces)
    config = heads.config.model_copy(update={"code": CodeConfig(target_table=weight)})
    priors = attribute_priors(faces, config)
    crew = find_method("quantised").place(Site(SHAPE, faces, priors, config, quantiser))
    assert ("answers" in crew.objective.state_dict()) == (type(crew.objective) is CodedObjective) == (weight > 0)
    assert isinstance(crew.adversary, CodeHeads)
    elsewhere = find_method("quantised").place(Site(SHAPE, faces, priors, config))
    assert type(elsewhere.objective) is DetachmentObjective
