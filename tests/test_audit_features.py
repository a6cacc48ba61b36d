"""Extraction: what is stored equals what the model computes, once, and the model is left as it was."""

import gc

import numpy as np
import pytest
import torch
from torch import nn

from audit_helpers import dataset, network
from efface.audit.features import INPUT, LOGITS, cache_key, extract, extract_layers, row_codes
from efface.errors import AuditError, CutError
from efface.models import build
from efface.models.state import evaluating


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
        np.testing.assert_allclose(found.features[split].read(slice(0, 120)), features, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.logits[split], logits, atol=1e-5, rtol=1e-5)
        np.testing.assert_array_equal(found.labels[split]["z"], data.split_labels(split, "z"))


def test_an_operation_in_place_behind_the_cut_does_not_reach_the_features(tmp_path):
    model, data = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 2)), dataset()
    found = extract(model, data, "0", precision="32-true", cache=tmp_path)
    assert (found.features["train"].read(slice(0, 50)) < 0).any()


def test_mixed_precision_stays_close(tmp_path):
    model, data = network(), dataset()
    exact = extract(model, data, "3", precision="32-true", cache=tmp_path).features["test"].read(slice(0, 120))
    mixed = extract(model, data, "3", precision="bf16-mixed", cache=tmp_path).features["test"].read(slice(0, 120))
    assert float((exact - mixed).abs().mean() / exact.abs().mean()) < 0.02
    assert not torch.equal(exact, mixed)


@pytest.mark.parametrize(("precision", "dtype"), [("auto", np.float32), ("bf16-mixed", np.int16)])
def test_features_are_memory_mapped(tmp_path, precision, dtype):
    found = extract(network(), dataset(), "3", precision=precision, cache=tmp_path)
    stored = found.features["train"].stored
    assert isinstance(stored, np.memmap)
    assert stored.dtype == dtype


def test_a_second_extraction_reads_the_cache(tmp_path, monkeypatch):
    model, data = network(), dataset()
    first = extract(model, data, "3", cache=tmp_path)
    monkeypatch.setattr("efface.audit.features._Job._run", lambda *a: pytest.fail("computed again"))
    done = []
    second = extract(model, data, "3", cache=tmp_path, tick=done.append)
    assert sum(done) == len(data)
    np.testing.assert_array_equal(first.features["test"].stored, second.features["test"].stored)
    torch.testing.assert_close(first.logits["test"], second.logits["test"])


def test_the_key_knows_everything_that_decides_the_features():
    splits = ("train", "test")
    data = dataset()
    key = cache_key(network(), data, "3", splits, "auto")
    assert cache_key(network(), data, "3", splits, "32-true") == key
    others = [
        cache_key(network(1), data, "3", splits, "auto"),
        cache_key(network(), data, "2", splits, "auto"),
        cache_key(network(), data, "3", ("train",), "auto"),
        cache_key(network(), data, "3", splits, "bf16-mixed"),
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
    with pytest.raises(AuditError, match=r"features at `2` hold values that are not finite"):
        extract(model, data, "2", cache=tmp_path)
    model = network()
    with torch.no_grad():
        model[-1].weight.fill_(float("nan"))
    with pytest.raises(AuditError, match=r"logits hold values that are not finite"):
        extract(model, data, "2", cache=tmp_path)


class Twice(nn.Module):
    """One layer that is called twice, one that is never called, one that returns a pair."""

    def __init__(self):
        super().__init__()
        self.conv, self.idle, self.head = nn.Conv2d(3, 3, 3, 1, 1), nn.ReLU(), nn.Linear(3, 2)
        self.pair = nn.LSTM(3, 3, batch_first=True)

    def forward(self, x):
        x = self.conv(self.conv(x))
        return self.head(self.pair(x.flatten(2).transpose(1, 2))[0].mean(1))


class Answer:
    def __init__(self, logits):
        self.logits = logits


class Wrapped(nn.Module):
    """A model that returns an object with logits, as many libraries do."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return Answer(self.model(x))


def test_several_layers_come_out_of_one_pass(tmp_path):
    model, data, calls = network(), dataset(), []
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    found = extract_layers(model, data, ("3", "0", INPUT, LOGITS), batch_size=60, cache=tmp_path)
    hook.remove()
    assert len(calls) == 7  # six batches, and the two images by which models are told apart
    assert {name: one.shape for name, one in found.items()} == {
        "3": (8, 4, 4), "0": (8, 8, 8), INPUT: (3, 8, 8), LOGITS: (2,),
    }  # fmt: skip
    for name in ("3", "0"):
        alone = extract(model, data, name, batch_size=60)
        np.testing.assert_array_equal(alone.features["test"].stored, found[name].features["test"].stored)
        torch.testing.assert_close(alone.logits["test"], found[name].logits["test"])
    pixels = torch.from_numpy(data.images[data.rows("test")]).float() / 255
    np.testing.assert_allclose(found[INPUT].features["test"].read(slice(0, 9)), (pixels[:9] - 0.5) / 0.25, atol=0.02)
    stored = found[LOGITS].features["test"].read(slice(0, 120))
    torch.testing.assert_close(stored, found[LOGITS].logits["test"], atol=0.01, rtol=0.01)


def test_only_layers_that_lack_are_computed(tmp_path):
    model, data, done = network(), dataset(), []
    extract(model, data, "3", cache=tmp_path)
    extract_layers(model, data, ("3", "0"), cache=tmp_path, tick=done.append)
    assert sum(done) == len(data)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_files_of_several_layers_go_with_the_last_of_them(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = extract_layers(network(), dataset(), ("3", "0"))
    last = found.pop("0")
    del found
    gc.collect()
    assert last.features["test"].read(slice(0, 2)).shape == (2, 8, 8, 8)
    assert len(list(tmp_path.iterdir())) == 1
    del last
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_cut_can_be_audited():
    data = dataset()
    found = extract(Wrapped(network()), data, "model.3")
    np.testing.assert_array_equal(found.features["test"].stored, extract(network(), data, "3").features["test"].stored)


@pytest.mark.parametrize(
    ("layer", "told"),
    [("conv", "called more than once"), ("idle", "does not call its layer `idle`"), ("pair", "not one tensor")],
)
def test_layers_that_release_no_single_tensor_are_refused(layer, told):
    with pytest.raises(CutError, match=told):
        extract(Twice(), dataset(), layer)


def test_a_model_without_logits_is_refused():
    with pytest.raises(CutError, match=r"a module that returns logits \[B, Y\]"):
        extract(nn.Sequential(nn.Conv2d(3, 4, 3)), dataset(), "0")


def test_a_finite_release_is_told_from_a_continuous_one():
    class Quantised(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)).mul(2).round()

    data = dataset()
    found = extract(nn.Sequential(Quantised(), nn.Linear(3, 2)), data, "0", precision="32-true")
    codes, values = found.codes["test"], found.features["test"].read(slice(0, 120)).numpy()
    _, by_code = np.unique(codes, return_inverse=True)
    _, by_value = np.unique(values, axis=0, return_inverse=True)
    pairs = {(int(a), int(b)) for a, b in zip(by_code.reshape(-1), by_value.reshape(-1), strict=True)}
    assert len(pairs) == len(np.unique(codes)) == len(np.unique(values, axis=0)) < 60
    assert extract(network(), data, "3").codes == {}
    # A batch in which nobody repeats does not tell.
    again = extract(nn.Sequential(Quantised(), nn.Linear(3, 2)), data, "0", batch_size=1)
    assert {split: codes.tolist() for split, codes in again.codes.items()} == {
        split: codes.tolist() for split, codes in found.codes.items()
    }


def test_codes_know_every_bit():
    rows = np.array([[1.0, 0.0], [1.0, -0.0], [1.0, 1e-45], [np.nextafter(np.float32(1), 2), 0.0]], np.float32)
    found = row_codes(rows)
    assert found[0] == found[1]
    assert len(set(found.tolist())) == 3


class Gained(nn.Module):
    """Two of these have one state_dict and one repr, whatever their gain."""

    def __init__(self, gain):
        super().__init__()
        self.features, self.last = nn.Conv2d(3, 8, 3, 4, 1), nn.Linear(8, 2)
        self.register_buffer("gain", torch.tensor(gain), persistent=False)

    def forward(self, images):
        return self.last((self.features(images) * self.gain).mean((2, 3)))


def test_models_that_differ_outside_their_state_do_not_share_a_cache(tmp_path):
    one, data = Gained(1.0), dataset()
    other = Gained(0.0)
    other.load_state_dict(one.state_dict())
    first, second = (extract(model, data, LOGITS, cache=tmp_path).logits["test"] for model in (one, other))
    assert not torch.equal(first, second)


def test_a_model_that_cannot_read_the_images_says_so():
    with pytest.raises(CutError, match=r"can't read images \[.*3, 8, 8\] \(torch.float32\): mat1 and mat2"):
        extract(nn.Sequential(nn.Flatten(), nn.Linear(10, 2)), dataset(), "0")
    with pytest.raises(CutError, match=r"can't read images .*: Input height \(8\) doesn't match model"):
        extract(build("vit_tiny_patch16_224", 2, 224, depth=1), dataset(), "blocks.0")
