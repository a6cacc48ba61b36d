"""Several releases: the average is that of its parts, draws are new ones, and what is seen is what was asked for."""

import gc

import numpy as np
import pytest
import torch
from torch import nn

from audit_helpers import dataset, feature_set, network
from efface.audit.features import extract
from efface.audit.releases import Averaged, as_seen, extract_releases, shifted
from efface.audit.threat import Releases
from efface.errors import AuditError, CutError


def images_of(data, split="test"):
    return torch.from_numpy(data.images[data.rows(split)]).float().div(255).sub(0.5).div(0.25)


def read(found, split="test"):
    return found.features[split].read(slice(0, len(found.features[split])))


def test_one_release_is_the_extraction(tmp_path):
    model, data = network(), dataset()
    one = extract_releases(model, data, "3", Releases(), cache=tmp_path)
    np.testing.assert_array_equal(one.features["test"].stored, extract(model, data, "3").features["test"].stored)


@pytest.mark.parametrize("count", [1, 2, 4, 10])
def test_augmented_releases_are_the_mean_of_views_turned_back(count, tmp_path):
    model, data = network().eval(), dataset()
    found = extract_releases(model, data, "3", Releases("augmented", count, shift=1), precision="32-true")
    images, cut = images_of(data), model[:4]
    views = []
    with torch.no_grad():
        for down, right in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)):
            moved = shifted(images, down, right)
            views += [(cut(moved), model(moved)), (cut(moved.flip(-1)).flip(-1), model(moved.flip(-1)))]
    features = torch.stack([view[0] for view in views[:count]]).mean(0)
    torch.testing.assert_close(read(found), features, rtol=2**-7, atol=2**-7)
    logits = torch.stack([view[1] for view in views[:count]]).mean(0)
    torch.testing.assert_close(found.logits["test"], logits, rtol=1e-4, atol=1e-4)
    assert found.layer == "3"


@pytest.mark.parametrize(("down", "right"), [(2, 0), (-2, 0), (0, 3), (0, -3), (1, -1), (0, 0)])
def test_shifts_are_whole_pixels_with_reflected_borders(down, right):
    images = torch.rand(2, 3, 8, 9)
    moved = shifted(images, down, right)
    rows = [abs(7 - abs(7 - abs(row - down))) for row in range(8)]
    columns = [abs(8 - abs(8 - abs(column - right))) for column in range(9)]
    torch.testing.assert_close(moved, images[:, :, rows][:, :, :, columns])


class Noisy(nn.Module):
    """Releases its input plus noise, in every mode."""

    def __init__(self, spread=1.0):
        super().__init__()
        self.spread = spread
        self.low = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
        self.noise = _Noise(spread)
        self.head = nn.Linear(12, 2)

    def forward(self, x):
        return self.head(self.noise(self.low(x)))


class _Noise(nn.Module):
    def __init__(self, spread):
        super().__init__()
        self.spread = spread

    def forward(self, x):
        return x + self.spread * torch.randn_like(x)


def test_averaged_draws_lose_their_noise_as_the_root_of_their_number():
    model, data = Noisy(), dataset()
    exact = model.low(images_of(data))

    def left(count):
        found = extract_releases(model, data, "noise", Releases("stochastic", count), precision="32-true")
        return float((read(found) - exact).std())

    assert left(1) == pytest.approx(1.0, rel=0.1)
    assert left(25) == pytest.approx(0.2, rel=0.1)
    assert Releases("stochastic").draws == 50


def test_draws_are_by_seed_and_leave_the_generator_alone():
    model, data = Noisy(), dataset()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    sets = [extract_releases(model, data, "noise", Releases("stochastic", 2, seed=seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    a, b, c = (read(one) for one in sets)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_dropout_stays_on_where_it_is_part_of_the_release(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(12), nn.Linear(12, 2))
    data = dataset()
    model.train()
    buffers = model[3].running_mean.clone()
    found = extract_releases(model, data, "2", Releases("stochastic", 200, dropout=True), precision="32-true")
    assert torch.equal(model[3].running_mean, buffers)
    assert all(module.training for module in model.modules())
    exact = nn.functional.avg_pool2d(images_of(data), 4).flatten(1)
    error = (read(found) - exact).abs() / exact.abs().clamp_min(0.2)
    assert 0.01 < float(error.mean()) < 0.12
    with pytest.raises(AuditError, match=r"(?s)releases the same at `2` each time.*dropout=True"):
        extract_releases(model, data, "2", Releases("stochastic"))


def test_releases_are_part_of_the_cache_key(tmp_path):
    model, data = network(), dataset()
    for releases in (Releases("augmented", 2), Releases("augmented", 3), Releases("augmented", 2, shift=1)):
        extract_releases(model, data, "3", releases, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    extract_releases(model, data, "3", Releases("augmented", 2), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_the_model_is_left_as_it_was_and_temporary_files_go(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = network().train()
    found = extract_releases(model, dataset(), "3", Releases("augmented", 2))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    gc.collect()
    assert len(list(tmp_path.iterdir())) == 1
    del found
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_what_is_seen():
    generator = np.random.default_rng(0)
    y, z = generator.integers(0, 2, 90), generator.integers(0, 2, 90)
    logits = generator.normal(size=(90, 3)) * 9
    features = feature_set(generator.normal(size=(90, 5)), y, z, (30, 30, 30), logits)
    assert as_seen(features, "features") is as_seen(features, "embeddings") is features
    seen = as_seen(features, "logits")
    torch.testing.assert_close(read(seen), features.logits["test"])
    assert seen.layer == "logits"
    assert seen.labels is features.labels
    probabilities = as_seen(features, "probabilities")
    torch.testing.assert_close(read(probabilities).exp(), features.logits["test"].softmax(1))
    assert probabilities.layer == "probabilities"
    # Confident answers stay apart: 0.99999 is not 1.
    assert len(read(probabilities)[:, 0].unique()) == 30


def test_errors():
    model, data = network(), dataset()
    with pytest.raises(AuditError, match="below 8, the size of the images, but got 8"):
        extract_releases(model, data, "3", Releases("augmented", shift=8))
    with pytest.raises(CutError, match="layer9"):
        extract_releases(model, data, "layer9", Releases("augmented"))
    features = feature_set(np.zeros((90, 2)), np.zeros(90, int), np.zeros(90, int), (30, 30, 30))
    with pytest.raises(AuditError, match="Did you mean 'logits'"):
        as_seen(features, "logit")
    with pytest.raises(AuditError, match="no model that answers"):
        as_seen(type(features)(features.features, features.labels, {}), "probabilities")
    assert "augmented" in repr(Averaged(model, "3", Releases("augmented")))
