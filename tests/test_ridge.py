"""The closed-form removal head: exact least squares, honest prices, and nothing it can be dodged with by turning."""

import pytest
import torch

from efface.objectives.ridge import RidgeHead

PRIOR = torch.full((1, 2), 0.5)


def told(n, strength, generator, width=6):
    """Features whose first coordinate shares ``strength`` of its variance with a binary z."""
    z = torch.randint(0, 2, (n,), generator=generator)
    features = torch.randn(n, width, generator=generator)
    features[:, 0] = (1 - strength) ** 0.5 * features[:, 0] + strength**0.5 * (2.0 * z - 1)
    return features, z


def trained(strength, batches=150, seed=0, turn=None):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    head = RidgeHead((6,), PRIOR, decay=0.98)
    prices = []
    for index in range(batches):
        features, z = told(256, strength, generator)
        if turn is not None:
            features = turn(index, features)
        prices.append(float(head(features, z, torch.zeros_like(z))))
        head.settle(index + 1)
    return head, sum(prices[-50:]) / 50


@pytest.mark.parametrize("strength", [0.2, 0.5])
def test_the_price_is_half_the_shared_variance(strength):
    _, price = trained(strength)
    assert price == pytest.approx(strength / 2, rel=0.2)


def test_independent_features_cost_almost_nothing():
    assert trained(0.0)[1] < 0.08
    assert trained(0.0)[1] < trained(0.2)[1] / 1.2


def test_weights_are_those_of_ridge_regression():
    """Oracle: one batch, solved by scikit-learn."""
    from sklearn.linear_model import Ridge

    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    head = RidgeHead((6,), PRIOR, ridge=0.1)
    features, z = told(400, 0.5, generator)
    target = torch.zeros_like(z)
    head(features, z, target)
    head.settle(1)
    head.eval()
    inputs = head._expand(features)
    residual = torch.nn.functional.one_hot(z, 2) - 0.5
    oracle = Ridge(alpha=0.1 * 400, fit_intercept=False).fit(inputs.double().numpy(), residual.double().numpy())
    guess = torch.from_numpy(oracle.predict(inputs.double().numpy()))
    expected = 0.5 * (guess * residual).sum(1).mean() / residual.square().sum(1).mean()
    assert float(head(features, z, target)) == pytest.approx(float(expected), rel=1e-3)


def test_telling_in_a_direction_of_little_variance_is_priced():
    """z hides in the difference of two features that are nearly equal: a hundredth of their variance tells it all."""
    torch.manual_seed(0)
    head, generator, prices = RidgeHead((2,), PRIOR), torch.Generator().manual_seed(0), []
    for batches in range(150):
        head.settle(batches)
        z = torch.randint(0, 2, (256,), generator=generator)
        shared = torch.randn(256, generator=generator)
        hidden = 0.1 * (2.0 * z - 1)
        features = torch.stack([shared + hidden, shared - hidden], 1).requires_grad_()
        prices.append(head(features, z, torch.zeros_like(z)))
    assert float(torch.stack(prices[-20:]).detach().mean()) > 0.4, "half the variance of z, all of it told, is 0.5 nats"
    (gradient,) = torch.autograd.grad(prices[-1], features)
    # The way down is to decorrelate: people of the two classes move towards each other, along the hidden direction.
    step = -(gradient[:, 0] - gradient[:, 1]).detach()
    assert float(step[z == 1].mean()) < 0 < float(step[z == 0].mean())


def test_a_batch_is_priced_before_it_is_learned():
    """Labels of the first batch alone can't be priced; random labels are never worth more later than by chance."""
    torch.manual_seed(0)
    head = RidgeHead((60,), PRIOR)
    features, z = torch.randn(64, 60), torch.randint(0, 2, (64,))
    assert float(head(features, z, torch.zeros_like(z))) == 0.0
    head.settle(1)
    assert float(head.eval()(features, z, torch.zeros_like(z))) > 0.2, "the batch is learned by heart afterwards"


def test_evaluation_leaves_the_moments_alone():
    head, _ = trained(0.5, batches=5)
    head.eval()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    features, z = told(64, 0.5, torch.Generator().manual_seed(1))
    head(features, z, torch.zeros_like(z))
    for name, value in head.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_gradient_lowers_what_is_told():
    head, _ = trained(0.5)
    head.eval()
    features, z = told(512, 0.5, torch.Generator().manual_seed(1))
    features.requires_grad_(True)
    price = head(features, z, torch.zeros_like(z))
    price.backward()
    step = features.grad.abs().mean(0)
    assert step[0] > 3 * step[1:].max(), "the coordinate that tells z is the one that is moved"
    with torch.no_grad():
        after = head(features - 20 * features.grad * len(features) / 512, z, torch.zeros_like(z))
    assert after.item() < price.item()


def test_what_y_says_of_z_is_not_priced():
    """z equals y nine times in ten; features that tell y alone cost nothing when y is given."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    table = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    given, marginal = RidgeHead((4,), table), RidgeHead((4,), PRIOR)
    prices = {given: 0.0, marginal: 0.0}
    for batches in range(100):
        given.settle(batches)
        marginal.settle(batches)
        y = torch.randint(0, 2, (256,), generator=generator)
        z = torch.where(torch.rand(256, generator=generator) < 0.9, y, 1 - y)
        features = torch.randn(256, 4, generator=generator)
        features[:, 0] += 3.0 * y
        prices = {head: float(head(features, z, y if head is given else torch.zeros_like(y))) for head in prices}
    assert prices[given] < 0.1
    assert prices[marginal] > 0.2


def test_missing_labels_and_large_maps():
    torch.manual_seed(0)
    head = RidgeHead((40, 8, 8), PRIOR)
    features = torch.randn(16, 40, 8, 8, requires_grad=True)
    some = (torch.full((16,), -1), torch.tensor([0, 1] * 8), torch.tensor([0, 1, -1, -1] * 4))
    for batches, labels in enumerate(some):
        head.settle(batches)
        price = head(features, labels, torch.zeros(16, dtype=torch.long))
    price.backward()
    assert bool(torch.isfinite(features.grad).all())


def test_numbers_that_are_not_finite_do_not_stop_the_solution():
    """The ledger tells of them, with what to try: the head hands them on."""
    head = RidgeHead((4,), torch.tensor([[0.5, 0.5]]))
    z, y = torch.arange(32) % 2, torch.zeros(32, dtype=torch.int64)
    for batches in range(2):
        head.settle(batches)
        price = head(torch.full((32, 4), float("inf")), z, y)
    assert not torch.isfinite(price)


def test_solutions_are_made_every_fourth_batch_after_the_first_few():
    torch.manual_seed(0)
    head, changed = RidgeHead((6,), PRIOR), []
    for batches in range(13):
        before = head.weights.clone()
        head.settle(batches)
        changed.append(not torch.equal(before, head.weights))
        head(torch.randn(32, 6), torch.arange(32) % 2, torch.zeros(32, dtype=torch.int64))
    assert [number for number, new in enumerate(changed) if new] == [1, 2, 3, 4, 8, 12]


def test_labels_that_are_missing_weigh_nothing():
    torch.manual_seed(0)
    half, all_known = RidgeHead((6,), PRIOR), RidgeHead((6,), PRIOR)
    all_known.load_state_dict(half.state_dict())
    features, z = torch.randn(64, 6), torch.arange(64) % 2
    features = (features - features.mean(0)) / features.std(0, correction=0)
    missing = torch.cat([z, torch.full((64,), -1)])
    half(torch.cat([features, features]), missing, torch.zeros(128, dtype=torch.int64))
    all_known(features, z, torch.zeros_like(z))
    torch.testing.assert_close(half.moments, all_known.moments)
    torch.testing.assert_close(half.crossed, all_known.crossed)
