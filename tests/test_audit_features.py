"""Extraction: what is stored equals what the model computes, once, and the model is left as it was."""

import gc

import numpy as np
import pytest
import torch
from torch import nn

from audit_helpers import dataset, network
from efface.audit.features import cache_key, evaluating, extract
from efface.errors import AuditError, CutError


def whole(model, data, layer, split):
    images = torch.from_numpy(data.images[data.rows(split)]).float() / 255
    images = (images - 0.5) / 0.25
    model.eval()
    with torch.no_grad():
        return model[: int(layer) + 1](images), model(images)


@pytest.mark.parametrize("layer", ["2", "3", "6"])
def test_features_and_logits_are_those_of_the_model(layer, tmp_path):
    model, data = network(), dataset()
    found = extract(model, data, layer, batch_size=50, precision="32-true", cache=tmp_path)
    for split in ("train", "validation", "test"):
        features, logits = whole(model, data, layer, split)
        assert found.features[split].shape == found.shape == tuple(features.shape[1:])
        np.testing.assert_allclose(found.features[split].read(slice(0, 120)), features, rtol=2**-8, atol=2**-8)
        torch.testing.assert_close(found.logits[split], logits, atol=1e-5, rtol=1e-5)
        np.testing.assert_array_equal(found.labels[split]["z"], data.split_labels(split, "z"))


def test_an_operation_in_place_behind_the_cut_does_not_reach_the_features(tmp_path):
    model, data = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 2)), dataset()
    found = extract(model, data, "0", precision="32-true", cache=tmp_path)
    assert (found.features["train"].read(slice(0, 50)) < 0).any()


def test_mixed_precision_stays_close(tmp_path):
    model, data = network(), dataset()
    exact = extract(model, data, "3", precision="32-true", cache=tmp_path).features["test"].read(slice(0, 120))
    mixed = extract(model, data, "3", cache=tmp_path).features["test"].read(slice(0, 120))
    assert float((exact - mixed).abs().mean() / exact.abs().mean()) < 0.02
    assert not torch.equal(exact, mixed)


def test_features_are_memory_mapped_bf16(tmp_path):
    found = extract(network(), dataset(), "3", cache=tmp_path)
    stored = found.features["train"].stored
    assert isinstance(stored, np.memmap)
    assert stored.dtype == np.int16


def test_a_second_extraction_reads_the_cache(tmp_path, monkeypatch):
    model, data = network(), dataset()
    first = extract(model, data, "3", cache=tmp_path)
    monkeypatch.setattr("efface.audit.features.split", lambda *a: pytest.fail("computed again"))
    done = []
    second = extract(model, data, "3", cache=tmp_path, tick=done.append)
    assert sum(done) == len(data)
    np.testing.assert_array_equal(first.features["test"].stored, second.features["test"].stored)
    torch.testing.assert_close(first.logits["test"], second.logits["test"])


def test_the_key_knows_everything_that_decides_the_features():
    splits = ("train", "test")
    data = dataset()
    key = cache_key(network(), data, "3", splits, "auto")
    assert cache_key(network(), data, "3", splits, "bf16-mixed") == key
    others = [
        cache_key(network(1), data, "3", splits, "auto"),
        cache_key(network(), data, "2", splits, "auto"),
        cache_key(network(), data, "3", ("train",), "auto"),
        cache_key(network(), data, "3", splits, "32-true"),
        cache_key(network(), dataset(fingerprint="other"), "3", splits, "auto"),
        cache_key(network(), dataset(fingerprint=""), "3", splits, "auto"),
        cache_key(network(), dataset(fingerprint="", seed=1), "3", splits, "auto"),
        cache_key(nn.Sequential(*network(), nn.ReLU()), data, "3", splits, "auto"),
    ]
    assert len({key, *others}) == len(others) + 1


def test_the_model_is_left_as_it_was(tmp_path):
    model, data = network(), dataset()
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    extract(model, data, "3", cache=tmp_path)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_modes_come_back_after_an_error():
    model = network().train()
    with pytest.raises(RuntimeError), evaluating(model):
        raise RuntimeError
    assert all(module.training for module in model.modules())


def test_without_a_cache_nothing_stays_behind(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = extract(network(), dataset(), "3")
    assert len(list(tmp_path.iterdir())) == 1
    del found
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_extraction_leaves_no_cache(tmp_path, monkeypatch):
    def stop(images):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(network(), dataset(), "3", cache=tmp_path, tick=stop)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        extract(network(), dataset(), "3", tick=stop)
    assert list(tmp_path.iterdir()) == []


def test_errors(tmp_path):
    model, data = network(), dataset()
    with pytest.raises(AuditError, match="Expected `precision` to be one of auto, bf16-mixed, 32-true, but got 'fp8'"):
        extract(model, data, "3", precision="fp8", cache=tmp_path)
    with pytest.raises(CutError, match="layer at which Sequential can be cut"):
        extract(model, data, "layer9", cache=tmp_path)
    with torch.no_grad():
        model[0].weight[0] = float("nan")
    with pytest.raises(AuditError, match=r"features hold values that are not finite"):
        extract(model, data, "2", cache=tmp_path)
