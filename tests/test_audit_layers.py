"""The layer map: sensible points, summaries in one pass, an attribute that ends or seems to come back."""

import gc
import json

import numpy as np
import pytest
import torch
from torch import nn

from audit_helpers import SIZES, column, dataset, feature_set, network
from efface.audit.features import INPUT, LOGITS, extract
from efface.audit.intervals import Resampling
from efface.audit.layers import extract_summaries, layer_map, layer_points
from efface.audit.probe import Probing
from efface.audit.store import summarise
from efface.errors import AuditError, CutError
from efface.models.zoo import build

N = sum(SIZES)
QUICK = Probing(attackers=("linear",), epochs=2, how=Resampling(resamples=300))


def test_points_of_a_resnet_are_its_stem_and_stages():
    model = build("resnet18", 2, 32, width=8)
    model.train()
    assert layer_points(model, torch.zeros(2, 3, 32, 32)) == (
        INPUT, "maxpool", "layer1", "layer2", "layer3", "layer4", "global_pool", LOGITS,
    )  # fmt: skip
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_points_of_a_transformer_are_spread_over_its_blocks_and_hold_the_cut():
    options = {"embed_dim": 24, "depth": 6, "num_heads": 2, "patch_size": 8}
    model = build("vit_tiny_patch16_224", 2, 32, **options)
    points = layer_points(model, torch.zeros(2, 3, 32, 32), at=["blocks.2"])
    assert points[0] == INPUT
    assert points[-1] == LOGITS
    assert "blocks.2" in points
    assert 6 <= len(points) <= 11
    blocks = [int(name.split(".")[1]) for name in points if name.startswith("blocks.")]
    assert blocks == sorted(blocks)
    assert len(blocks) >= 3
    assert blocks[0] < 2


class Uncuttable(nn.Module):
    """Branches on values, which no trace can follow."""

    def __init__(self):
        super().__init__()
        self.low, self.high, self.idle = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), nn.ReLU()

    def forward(self, x):
        x = self.low(x)
        return self.high(x.mean((2, 3)) if float(x.mean()) > 0 else x.amax((2, 3)))


def test_layers_of_a_model_that_cannot_be_cut_are_mapped_by_name():
    example = torch.zeros(2, 3, 8, 8)
    assert layer_points(Uncuttable(), example) == (INPUT, LOGITS)
    assert layer_points(Uncuttable(), example, at=["low"]) == (INPUT, "low", LOGITS)
    with pytest.raises(CutError, match="does not call its layer idle"):
        layer_points(Uncuttable(), example, at=["idle"])
    with pytest.raises(CutError, match=r"(?s)layer9"):
        layer_points(network(), example, at=["layer9"])


def test_summaries_are_those_of_the_whole_maps(tmp_path):
    model, data = network(), dataset(size=80)
    found = extract_summaries(model, data, [INPUT, "3", LOGITS], precision="32-true", cache=tmp_path)
    assert list(found) == [INPUT, "3", LOGITS]
    assert [one.layer for one in found.values()] == [INPUT, "3", LOGITS]
    whole = extract(model, data, "3", precision="32-true", cache=tmp_path)
    maps = whole.features["test"].read(slice(0, 120))
    close = {"rtol": 2**-6, "atol": 2**-6}
    torch.testing.assert_close(found["3"].features["test"].read(slice(0, 120)), summarise(maps), **close)
    images = torch.from_numpy(data.images[data.rows("test")]).float().div(255).sub(0.5).div(0.25)
    small = nn.functional.avg_pool2d(images, 4)
    torch.testing.assert_close(found[INPUT].features["test"].read(slice(0, 120)), small, **close)
    torch.testing.assert_close(found[LOGITS].features["test"].read(slice(0, 120)), whole.logits["test"], **close)
    for split in ("train", "validation", "test"):
        torch.testing.assert_close(found["3"].logits[split], whole.logits[split])
        np.testing.assert_array_equal(found["3"].labels[split]["z"], data.split_labels(split, "z"))


def test_the_cache_knows_the_layers_and_the_model_is_left_as_it_was(tmp_path, monkeypatch):
    model, data = network(), dataset()
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    one = extract_summaries(model, data, ["2", "3"], cache=tmp_path)
    other = extract_summaries(model, data, ["3", "6"], cache=tmp_path)
    assert one["2"].shape == other["3"].shape != other["6"].shape
    np.testing.assert_array_equal(one["3"].features["test"].stored, other["3"].features["test"].stored)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_temporary_summaries_stay_as_long_as_they_are_used(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = extract_summaries(network(), dataset(), ["2", "3"])
    gc.collect()
    assert len(list(tmp_path.rglob("*.npy"))) > 0
    del found
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def chain(*leaks, seed=0):
    """Features of layers, each with z so many standard deviations apart; y is a coin of its own."""
    generator = np.random.default_rng(seed)
    y, z = generator.integers(0, 2, N), generator.integers(0, 2, N)
    sets = {}
    for place, leak in enumerate(leaks):
        features = generator.normal(size=(N, 4))
        features[:, 0] += leak * z
        sets[f"layer{place}"] = feature_set(features, y, z)
    return sets


def test_the_map_shows_where_an_attribute_ends():
    after, before = chain(3.0, 0.0, 0.0), chain(3.0, 3.0, 0.0)
    found = layer_map(after, before, column(2), "y", QUICK, released="layer1")
    first, second, third = found.points
    assert [point.layer for point in found.points] == ["layer0", "layer1", "layer2"]
    assert first.excess.ci[0] > 0.35
    assert first.excess_leakage.value > 0.95
    assert second.original.value > 0.9 > second.accuracy.value + 0.3
    assert second.excess_leakage.value < 0.15
    assert third.excess_leakage is None  # the original's layer holds nothing
    assert second.original_bits.value > 0.5 > second.bits.value + 0.4
    assert first.implied == first.accuracy.value
    assert found.warnings == ()
    assert abs(found.floor - 0.5) < 0.05


def test_what_is_read_behind_the_release_counts_against_it():
    found = layer_map(chain(2.0, 0.0, 3.0), None, column(2), "y", QUICK, released="layer1")
    first, second, third = found.points
    assert [point.comes_back for point in found.points] == [False, False, True]
    assert first.implied == second.implied == third.implied == third.accuracy.value
    assert "at `layer2`, than at it" in found.warnings[0]
    assert first.original is first.excess_leakage is None
    assert not any(p.comes_back for p in layer_map(chain(2.0, 0.0, 3.0), None, column(2), "y", QUICK).points)
    values = json.loads(json.dumps(found.to_dict()))
    assert values["points"][2]["comes_back"] is True
    assert values["points"][0]["accuracy"]["value"] == first.accuracy.value
    assert values["warnings"] == list(found.warnings)


def test_the_images_are_read_once_for_both_models():
    sets = {INPUT: chain(1.0)["layer0"], LOGITS: chain(1.0, seed=1)["layer0"]}
    steps = []
    probing = Probing(attackers=("linear",), epochs=2, tick=lambda _, n: steps.append(n))
    found = layer_map(sets, sets, column(2), "y", probing)
    assert sum(steps) == 3 * probing.steps
    assert found.points[0].original.value == found.points[0].accuracy.value
    assert found.points[0].excess_leakage.value == 1.0


def test_features_that_are_not_finite_are_refused_by_name():
    model = network()
    with torch.no_grad():
        model[0].weight[0] = float("nan")
    with pytest.raises(AuditError, match="`2` hold values that are not finite"):
        extract_summaries(model, dataset(), [INPUT, "2"])
