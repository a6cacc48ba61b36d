"""Shortcuts first: the same values and gradients to the bit, another order on the way back, and gone afterwards."""

import copy
import pickle

import pytest
import timm
import torch
import torchvision
from torch import nn

from efface.engine.shortcuts import shortcuts_first

NETWORKS = {
    "timm": lambda: timm.create_model("resnet18", num_classes=3),
    "timm, bottlenecks": lambda: timm.create_model("resnet26", num_classes=3),
    "torchvision": lambda: torchvision.models.resnet18(num_classes=3),
}
KINDS = ("BasicBlock", "Bottleneck")


def learn(model, images, dtype=None):
    """Outputs, gradients and running figures of one step."""
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None):
        made = model(images)
    made.float().square().sum().backward()
    found = {"made": made.detach(), **{f"grad {name}": p.grad for name, p in model.named_parameters()}}
    return found | {name: buffer.clone() for name, buffer in model.named_buffers()}


def calls(model):
    """Names of convolutions, in the order of the calls."""
    seen = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(lambda layer, given, name=name: seen.append(name))
    return seen


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_values_and_gradients_are_equal_to_the_bit_and_nothing_stays(build, dtype):
    torch.manual_seed(0)
    model = build()
    twin, images = copy.deepcopy(model), torch.randn(4, 3, 64, 64)
    usual = learn(model, images, dtype)
    keys, order = list(twin.state_dict()), calls(twin)
    with shortcuts_first(twin, None):
        found = learn(twin, images, dtype)
        assert list(twin.state_dict()) == keys
    assert order.index("layer2.0.downsample.0") < order.index("layer2.0.conv1")
    assert found.keys() == usual.keys()
    for name, value in usual.items():
        assert torch.equal(found[name], value), name
    blocks = [layer for layer in twin.modules() if type(layer).__name__ in KINDS]
    assert blocks
    assert not any(block._forward_pre_hooks or block._forward_hooks for block in blocks)


def test_the_main_path_goes_backward_first():
    block = timm.create_model("resnet18").layer2[0]
    back = []
    for name in ("conv1", "downsample"):
        getattr(block, name).register_full_backward_hook(lambda layer, to, given, name=name: back.append(name))
    images = torch.randn(2, 64, 8, 8, requires_grad=True)
    with shortcuts_first(block):
        block(images).sum().backward()
    assert back == ["conv1", "downsample"]
    back.clear()
    block(images).sum().backward()
    assert back == ["downsample", "conv1"]


def test_copies_have_shortcuts_of_their_own_and_a_failure_leaves_the_block_whole():
    block = timm.create_model("resnet18").layer2[0]
    images = torch.randn(2, 64, 8, 8)
    with shortcuts_first(block):
        for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
            for parameter in twin.parameters():
                parameter.data.zero_()
            assert not twin(images).any()
        assert block(images).any()
        with pytest.raises(RuntimeError):
            block(torch.zeros(2, 5, 8, 8))
        handle = block.bn2.register_forward_pre_hook(lambda layer, given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            block(images)
        handle.remove()
        assert isinstance(block.downsample, nn.Sequential)
        order = calls(block)
        with torch.no_grad():
            block(images)
        assert order == ["conv1", "conv2", "downsample.0"]


def test_other_blocks_are_left_alone():
    class Own(timm.models.resnet.BasicBlock):
        pass

    own = Own(4, 4, downsample=nn.Conv2d(4, 4, 1))
    plain = timm.models.resnet.BasicBlock(4, 4)
    with shortcuts_first(own, plain):
        assert not own._forward_pre_hooks
        assert not plain._forward_pre_hooks
