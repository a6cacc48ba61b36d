"""Convolutions on small maps: the same values as the library's, only where they are meant, and gone afterwards."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from efface.engine.convolutions import Product, small_maps_as_products

GEOMETRIES = [(3, 1, 1, 4, 4), (3, 2, 1, 8, 8), (1, 2, 0, 8, 6), (3, 1, 0, 5, 6), (5, 3, 2, 7, 9)]


@pytest.fixture
def products(monkeypatch):
    """Shapes of the maps that were computed as products."""
    seen, apply = [], Product.apply
    monkeypatch.setattr(Product, "apply", lambda *given: (seen.append(tuple(given[0].shape)), apply(*given))[1])
    return seen


@pytest.mark.parametrize(("kernel", "stride", "padding", "height", "width"), GEOMETRIES)
def test_values_and_gradients_are_those_of_the_library(kernel, stride, padding, height, width, products):
    torch.manual_seed(0)
    layer = nn.Conv2d(128, 24, kernel, stride, padding).to(memory_format=torch.channels_last)
    maps = torch.randn(6, 128, height, width).bfloat16().float()
    exact, found = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    rounded = [p.detach().bfloat16().float().requires_grad_() for p in layer.parameters()]
    wanted = F.conv2d(exact, *rounded, stride, padding)
    push = torch.randn_like(wanted).bfloat16().float()
    wanted.backward(push)
    with small_maps_as_products(layer), torch.autocast("cpu", torch.bfloat16):
        got = layer(found)
    got.float().backward(push)
    assert products == [tuple(maps.shape)]
    assert got.dtype == torch.bfloat16
    for one, other in ((got, wanted), (found.grad, exact.grad), (layer.weight.grad, rounded[0].grad)):
        assert one.shape == other.shape
        assert (one.float() - other).abs().max() < 0.01 * other.abs().max()
    torch.testing.assert_close(layer.bias.grad, rounded[1].grad, rtol=0.02, atol=0.05)


def test_other_layers_maps_and_precisions_are_left_alone(products):
    wide, grouped = nn.Conv2d(128, 128, 3, padding=1), nn.Conv2d(128, 128, 3, padding=1, groups=2)
    layers = nn.ModuleList(
        [wide, grouped, nn.Conv2d(64, 64, 3), nn.Conv2d(128, 8, 3, dilation=2), nn.Conv2d(128, 8, 3, padding="same")]
    )
    small = torch.randn(2, 128, 4, 4)
    with small_maps_as_products(layers):
        assert [layer for layer in layers if "_conv_forward" in vars(layer)] == [wide]
        assert torch.equal(wide(small), F.conv2d(small, wide.weight, wide.bias, padding=1))
        with torch.autocast("cpu", torch.bfloat16):
            wide(torch.randn(2, 128, 5, 5))
            with torch.no_grad():
                wide(small)
            assert not products
            wide(small)
            assert len(products) == 1


def test_nothing_stays_and_copies_work():
    model = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1), nn.ReLU())
    keys = list(model.state_dict())
    with small_maps_as_products(model, None):
        assert list(model.state_dict()) == keys
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            twin[0].weight.data.zero_()
            with torch.autocast("cpu", torch.bfloat16):
                assert torch.equal(twin(torch.ones(1, 128, 2, 2))[0, :, 0, 0], twin[0].bias.bfloat16().relu())
                assert model(torch.ones(1, 128, 2, 2)).abs().sum() > 0
    assert "_conv_forward" not in vars(model[0])


@pytest.mark.parametrize("frozen", ["maps", "weight"])
def test_a_gradient_that_nobody_wants_is_not_computed(frozen):
    layer = nn.Conv2d(128, 16, 3, padding=1).requires_grad_(frozen != "weight")
    maps = torch.randn(3, 128, 2, 2, requires_grad=frozen != "maps")
    with small_maps_as_products(layer), torch.autocast("cpu", torch.bfloat16):
        released = layer(maps).float()
    with FlopCounterMode(display=False) as counter:
        released.sum().backward()
    # One product of 12 rows, 1152 numbers of a patch, 16 channels; both gradients would be two.
    assert counter.get_total_flops() == 2 * 12 * 1152 * 16
    wanted = layer.weight if frozen == "maps" else maps
    assert wanted.grad.abs().sum() > 0
