"""Cuts: the blocks are the model, to the bit, on the architectures people use; what can't be cut says why."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from efface.errors import CutError
from efface.models import count_flops, count_parameters, cut_points, split
from efface.models.layers import canonical_names, offered_names
from efface.models.state import undisturbed


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def plain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Conv2d(8, 8, 3, 2, 1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip


def vision(name, **options):
    return lambda: torchvision.models.get_model(name, weights=None, num_classes=2, **options)


def pytorch_image(name, **options):
    return lambda: timm.create_model(name, pretrained=False, num_classes=2, **options)


ARCHITECTURES = [
    *[(pytorch_image(f"resnet{n}", drop_rate=0.2), f"layer{i}", 32) for n in (18, 34, 50) for i in (1, 2, 3, 4)],
    (pytorch_image("resnet18"), "layer2.0", 32),
    (pytorch_image("resnet50", drop_path_rate=0.3), "layer3.4", 32),
    (pytorch_image("resnet18"), ("layer1", "layer2.0", "layer4"), 32),
    (vision("resnet18"), "layer2", 32),
    (pytorch_image("convnext_atto", drop_path_rate=0.3), "stages.1", 32),
    (pytorch_image("convnext_atto"), "stages.2.blocks.3", 32),
    (vision("convnext_tiny"), "features.3.1", 32),
    (pytorch_image("vit_tiny_patch16_224", img_size=64, drop_rate=0.1, drop_path_rate=0.1), "blocks.5", 64),
    (pytorch_image("vit_tiny_patch16_224", img_size=64), ("blocks.2", "blocks.8"), 64),
    (pytorch_image("eva02_tiny_patch14_224", img_size=56), "blocks.3", 56),
    (
        lambda: torchvision.models.VisionTransformer(32, 8, 4, 2, 32, 64, dropout=0.1, num_classes=2),
        "encoder.layers.encoder_layer_1",
        32,
    ),
    (vision("densenet121", drop_rate=0.1), "features.denseblock2", 64),
    (pytorch_image("densenet121"), "features.transition2", 64),
    (vision("densenet121"), "features", 64),
    (pytorch_image("efficientnet_b0", drop_path_rate=0.2), "blocks.3", 32),
    (vision("efficientnet_b0"), "features.3", 32),
    (pytorch_image("mobilenetv3_small_100"), "blocks.3", 32),
    (vision("mobilenet_v3_small"), "features.6", 32),
    (pytorch_image("swin_tiny_patch4_window7_224", img_size=56), "layers.1", 56),
    (pytorch_image("regnety_002"), "s2", 32),
    (vision("squeezenet1_1", dropout=0.5), "features.4", 64),
    (plain, "4", 32),
    (plain, "1", 32),
]


def grads(model):
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize(("make", "at", "size"), ARCHITECTURES, ids=range(len(ARCHITECTURES)))
def test_the_blocks_are_the_model(make, at, size):
    model = make()
    images = torch.randn(2, 3, size, size)
    parts = split(model, at, example=images)

    assert parts.join() is model
    assert len(parts.blocks) == len(parts.at) + 1
    assert set().union(*(block.state_dict() for block in parts.blocks)) == set(model.state_dict())
    names = [name for block in parts.blocks for name, _ in block.named_parameters()]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())

    reference = copy.deepcopy(model).train()
    parts.train()
    torch.manual_seed(1)
    expected = reference(images)
    torch.manual_seed(1)
    features = parts.features(images)
    obtained = features
    for block in parts.blocks[1:]:
        before = obtained.clone()
        previous, obtained = obtained, block(obtained)
        assert torch.equal(previous, before), "a block wrote into the features"
    assert torch.equal(obtained, expected)
    expected.square().sum().backward()
    obtained.square().sum().backward()
    assert all(torch.equal(grads(model)[name], grad) for name, grad in grads(reference).items())
    for name, value in reference.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), f"{name} differs: running statistics"
    reference.eval()
    assert torch.equal(parts.eval()(images), reference(images))


def test_features_are_what_a_hook_on_the_layer_sees():
    model = timm.create_model("resnet18", num_classes=2).eval()
    images = torch.randn(2, 3, 32, 32)
    seen = {}
    for name in ("layer1", "layer3"):
        model.get_submodule(name).register_forward_hook(lambda m, i, out, name=name: seen.update({name: out}))
    model(images)
    expected = dict(seen)
    parts = split(model, ["layer3", "layer1"])
    assert parts.at == ("layer1", "layer3")
    assert torch.equal(parts.features(images), expected["layer1"])
    assert torch.equal(parts.features(images, at="layer3"), expected["layer3"])
    assert torch.equal(parts.extractor(images), expected["layer1"])
    with pytest.raises(
        CutError, match=r"`at` to be a layer at which the model is cut, but got 'layer2'.*layer1, layer3"
    ):
        parts.features(images, at="layer2")


def test_training_a_block_trains_the_model():
    model = plain()
    parts = split(model, "4")
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(parts.extractor.parameters(), lr=0.1)
    parts.train().features(torch.randn(4, 3, 16, 16)).sum().backward()
    optimizer.step()
    changed = {name for name, value in parts.join().state_dict().items() if not torch.equal(value, before[name])}
    assert {"0.weight", "1.running_mean", "4.weight"} <= changed
    assert not changed & {"8.weight", "8.bias"}


class Functional(nn.Module):
    """Drops features by a function at the root, as many models do before their head."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x):
        x = F.dropout(self.first(x), 0.5, training=self.training)
        return self.second(x) if self.training else self.second(x) * 2


def test_each_block_takes_the_code_of_its_own_mode():
    model = Functional().train()
    x = torch.randn(4, 6)
    parts = split(model, "first", example=x)
    assert all(block.training for block in parts.blocks)
    torch.manual_seed(3)
    expected = model(x)
    torch.manual_seed(3)
    assert torch.equal(parts(x), expected)
    assert torch.equal(parts.eval()(x), model(x))
    assert not model.training
    assert torch.equal(parts.extractor.train()(x), model.first(x))
    assert not parts.classifier.training


class Loose(nn.Module):
    """Parameters and buffers at the root, on either side; batch size and device are read from the input."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.patch, self.block, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), nn.Linear(16, 2)
        self.gain = nn.Parameter(torch.ones(8))
        self.calls = []

    def forward(self, x, mask=None):
        batch, device = x.shape[0], x.device
        token, shared = self.token * self.scale, self.scale + 1
        x = self.patch((x - self.mean) * shared).flatten(2).transpose(1, 2)
        if mask is not None:
            x = x[:, mask]
        x = self.block(x) * self.gain
        x = torch.cat([x.mean(1, keepdim=True), token.expand(batch, -1, -1)], dim=1) * shared.to(device)
        return self.head(x.reshape(batch, -1))


@pytest.mark.parametrize("at", ["patch", "block"])
def test_loose_parameters_go_where_they_are_used(at):
    model = Loose()
    images = torch.randn(3, 3, 8, 8)
    parts = split(model, at, example=images)
    assert set(parts.classifier.state_dict()) >= {"token", "gain"}
    keys = [set(block.state_dict()) for block in parts.blocks]
    assert keys[0] | keys[1] == set(model.state_dict())
    assert not keys[0] & keys[1]
    assert "mean" in keys[0]


def test_a_block_follows_the_model_and_the_model_its_blocks():
    model = Loose()
    parts = split(model, "block")
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    model.double()
    model.mean = model.mean * 0.3
    assert torch.equal(parts(images), model(images))
    assert parts.extractor.mean is model.mean
    parts.extractor.float()
    parts.classifier.float()
    assert model.mean.dtype == model.scale.dtype == torch.float32
    assert torch.equal(parts(images.float()), model(images.float()))


def test_a_copy_is_a_split_of_its_own():
    model = Loose()
    images = torch.randn(2, 3, 8, 8)
    parts = split(model, "block")
    other = copy.deepcopy(parts)
    with torch.no_grad():
        for parameter in other.extractor.parameters():
            parameter.zero_()
        other.model.token.fill_(7.0)
    assert torch.equal(other(images), other.join()(images))
    assert not torch.equal(other(images), parts(images))
    assert torch.equal(parts(images), model(images))


def test_cutting_leaves_the_model_as_it_was():
    model = timm.create_model("resnet18", num_classes=2, drop_rate=0.5).train()
    model.layer1.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    state = copy.deepcopy(model.state_dict())
    attributes = {name: set(module.__dict__) for name, module in model.named_modules()}
    random_state = torch.get_rng_state()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    split(model, "layer2", example=images)
    cut_points(model, images)
    count_flops(model, images)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == attributes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


class Toy(nn.Module):
    """A root whose forward is given by the test."""

    def __init__(self, forward, **members):
        super().__init__()
        for name, member in {"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "c": nn.Linear(4, 2), **members}.items():
            setattr(self, name, member)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(x), x


def tied():
    toy = Toy(lambda m, x: m.c(m.b(m.a(x))))
    toy.b.weight = toy.a.weight
    return toy


def noisy():
    def forward(m, x):
        noise = F.dropout(m.a.bias, training=m.training)
        return m.c(m.b(m.a(x)) + noise)

    return Toy(forward)


UNCUTTABLE = [
    (lambda: Toy(lambda m, x: m.c(m.b(m.a(x)) + x)), "a", "the model's input is also used after it"),
    (
        lambda: Toy(lambda m, x: (h := m.a(x)) is None or m.c(m.b(h) + h)),
        "b",
        "the output of `a` is also used after it",
    ),
    (lambda: Toy(lambda m, x: m.c(m.b(m.a(x)) + (x * 2).tanh())), "b", "`tanh` of `mul` of the model's input is also"),
    (lambda: Toy(lambda m, x: m.c(m.b(m.a(x)).view(x.shape[0], x.shape[1]))), "a", "`getitem` of `shape` of the mod"),
    (lambda: Toy(lambda m, x: m.c(m.a(m.b(m.a(x))))), "a", "the forward pass calls `a` 2 times"),
    (lambda: Toy(lambda m, x: m.c(m.a(m.b(m.a(x))))), "b", "the parameter `a.weight` is used on both sides"),
    (tied, "a", "the parameter `b.weight` is used on both sides"),
    (lambda: Toy(lambda m, x: m.c(m.a(x))), "b", "the forward pass never calls `b`"),
    (lambda: Toy(lambda m, x: (m.b(x), m.c(m.a(x)))[1]), "b", "the model's output does not depend on `b`"),
    (lambda: Toy(lambda m, x: m.c(sum(m.p(x))), p=Pair()), "p", "can't be traced"),
    (lambda: Toy(lambda m, x: m.c(m.p(x)[0]), p=Pair()), "p", "`p` returns a tuple, not one tensor"),
    (
        lambda: Toy(lambda m, x: m.c(m.b(m.a(x))) if x.sum() > 0 else m.c(x)),
        "a",
        "can't be traced: symbolically traced",
    ),
    (lambda: Toy(lambda m, x: m.c(m.a(x)) + torch.rand(2)), "a", "draws random numbers"),
    (noisy, "a", "a result of `dropout` is also used after it"),
    (lambda: Toy(lambda m, x: m.c(m.b(m.a(x)))), "c", "there are no parameters after it"),
    (lambda: Toy(lambda m, x: m.c(m.b(m.i(x))), i=nn.Identity()), "i", "there are no parameters before it"),
    (lambda: Toy(lambda m, x: m.c(m.a(x) + m.b(x))), ("a", "b"), "`b` does not depend on the cut before it"),
    (lambda: Toy(lambda m, x: m.c(m.b(m.a(x)))), ("a", "a"), "named more than once"),
    (lambda: Toy(lambda m, x: m.c(m.b(m.a(x)))), (), "no layer is named"),
    (lambda: Toy(lambda m, x: m.c(m.b(m.a(x)))), "", "has no submodule ''"),
    (
        lambda: Toy(lambda m, x: m.c(m.b(m.a(x)) if m.training else m.a(m.b(x)))),
        ("a", "b"),
        "training and evaluation call the layers in different orders",
    ),
]


@pytest.mark.parametrize(("make", "at", "reason"), UNCUTTABLE, ids=[reason[:40] for *_, reason in UNCUTTABLE])
def test_what_cannot_be_cut_says_why(make, at, reason):
    with pytest.raises(CutError) as error:
        split(make(), at)
    assert reason in str(error.value)


def test_an_unknown_layer_is_answered_with_the_layers_that_can_be_cut():
    with pytest.raises(CutError) as error:
        split(timm.create_model("resnet18", num_classes=2), "layr2")
    message = str(error.value)
    assert message.startswith(
        "Expected `at` to be a layer at which ResNet can be cut, but got 'layr2'. "
        "Reason: ResNet has no submodule 'layr2'. Did you mean 'layer2'? Valid names: layer2, "
    )
    assert message.endswith("Try `efface ls layers MODEL`.")
    assert "fc" not in message


def test_the_layers_offered_do_not_include_those_that_cannot_be_cut():
    with pytest.raises(CutError) as error:
        split(timm.create_model("resnet18", num_classes=2), "layer2.0.bn1")
    assert "the output of `layer2.0.downsample` is also used after it" in str(error.value)
    assert "Valid names: layer2.0, layer2, " in str(error.value)
    with pytest.raises(CutError, match="No other layer of Toy can be cut: that takes one tensor"):
        split(Toy(lambda m, x: m.c(m.a(x)) if x.sum() > 0 else m.c(x)), "a")


def test_several_inputs_are_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x, y):
            return self.layer(x) + y

    with pytest.raises(CutError, match="the model needs more than one input: x, y"):
        split(Two(), "layer")
    with pytest.raises(CutError, match="has no submodule"):
        split(plain(), "0.")


class Folding(nn.Module):
    """Puts patches into the batch dimension: the features have another batch size than the images."""

    def __init__(self):
        super().__init__()
        self.fold, self.head = (
            nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (2, 2)), nn.Flatten(0, 1)),
            nn.Linear(2, 2),
        )

    def forward(self, x):
        return self.head(self.fold(x)).reshape(x.shape[0], -1)


def test_the_dry_run_catches_a_batch_size_that_the_features_do_not_have():
    model, x = Folding(), torch.randn(3, 4)
    assert split(model, "fold")(x).shape != model(x).shape
    with pytest.raises(CutError, match="on the example, the blocks one after the other don't give the model's output"):
        split(model, "fold", example=x)


def test_the_dry_run_wants_tensors():
    model = Toy(lambda m, x: m.c(m.second(m.p(x))), p=Pair(), second=Second())
    with pytest.raises(CutError, match="`p` returns a tuple, not one tensor"):
        split(model, "p", example=torch.randn(2, 4))
    with pytest.raises(CutError, match="`p` returns a tuple, not one tensor"):
        split(model, "p").features(torch.randn(2, 4))
    with pytest.raises(CutError, match="the model returns a dict, not one tensor of logits"):
        split(Toy(lambda m, x: {"logits": m.c(m.a(x))}), "a", example=torch.randn(2, 4))


class Second(nn.Module):
    def forward(self, pair):
        return pair[1]


def test_nan_outputs_compare_equal():
    model = plain()
    with torch.no_grad():
        model[8].bias.fill_(float("nan"))
    assert split(model, "4", example=torch.randn(2, 3, 8, 8)).at == ("4",)


def test_an_alias_names_the_same_layer():
    toy = Toy(lambda m, x: m.c(m.b(m.a(x))))
    toy.z = toy.a
    assert canonical_names(toy, ["z"]) == ("a",)
    parts = split(toy, "z", example=torch.randn(2, 4))
    assert parts.at == ("z",)
    assert parts.features(torch.randn(2, 4), at="z").shape == (2, 4)


def test_proxies_stored_by_the_model_are_taken_back():
    def forward(m, x):
        m.last = m.a(x)
        return m.c(m.last)

    toy = Toy(forward)
    split(toy, "a")
    assert not hasattr(toy, "last")


def test_a_constant_of_the_forward_pass_is_part_of_the_block_but_not_of_its_state():
    toy = Toy(lambda m, x: m.c(m.b(m.a(x)) * torch.arange(4)))
    parts = split(toy, "a", example=torch.randn(2, 4))
    assert set(parts.classifier.state_dict()) == {"b.weight", "b.bias", "c.weight", "c.bias"}
    assert not hasattr(toy, "_tensor_constant0")


def test_what_does_not_depend_on_the_input_is_repeated_where_it_is_used():
    def forward(m, x):
        direction, size = F.normalize(m.direction, dim=0), x.size(0) + 0
        return m.c(m.b(m.a(x) * direction) * direction).view(size, 2)

    toy = Toy(forward)
    toy.register_buffer("direction", torch.randn(4))
    parts = split(toy, "b", example=torch.randn(3, 4))
    assert all("direction" in block.state_dict() for block in parts.blocks)
    assert parts(torch.randn(5, 4)).shape == (5, 2)


POINTS = {
    "resnet18": (
        "conv1 bn1 act1 maxpool layer1.0 layer1 layer2.0 layer2 layer3.0 layer3 layer4.0 layer4 global_pool",
        32,
    ),
    "convnext_atto": ("stages.1.blocks.0 stages.1 stages.2.downsample", 32),
    "densenet121": ("features.denseblock2 features.transition2", 64),
    "efficientnet_b0": ("blocks.3.0 blocks.3.1 blocks.3 blocks.4.0", 32),
}


@pytest.mark.parametrize("name", POINTS)
def test_cut_points_are_cuts(name):
    names, size = POINTS[name]
    model = timm.create_model(name, num_classes=2)
    images = torch.randn(2, 3, size, size)
    points = cut_points(model, images)
    listed = " ".join(point.name for point in points)
    assert names in listed
    assert listed == names or name != "resnet18"
    total = count_flops(model, images)
    for point in points[:: max(1, len(points) // 4)]:
        parts = split(model, point.name)
        assert tuple(parts.features(images).shape) == point.shape
        assert point.parameters == count_parameters(parts.extractor)
        assert point.flops_share == pytest.approx(count_flops(parts.extractor, images) / total)
    shares = [point.flops_share for point in points]
    assert shares == sorted(shares)
    assert shares[-1] <= 1


def test_a_torchvision_vit_offers_its_encoder_layers():
    model = torchvision.models.VisionTransformer(32, 8, 3, 2, 32, 64, num_classes=2)
    names = [point.name for point in cut_points(model, torch.randn(1, 3, 32, 32))]
    assert "encoder.layers.encoder_layer_1" in names


def test_lists_without_a_forward_are_looked_into_but_not_offered():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)])

        def forward(self, x):
            for part in self.parts:
                x = part(x)
            return x

    assert list(offered_names(Listed())) == ["parts.0", "parts.1", "parts.2"]
    assert [p.name for p in cut_points(Listed(), torch.randn(1, 4))] == ["parts.0", "parts.1"]


def test_flops_of_known_layers():
    assert count_flops(nn.Conv2d(3, 5, 3, padding=1, bias=False), torch.zeros(2, 3, 8, 8)) == 2 * 2 * 8 * 8 * 3 * 5 * 9
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    tokens = torch.zeros(1, 5, 8)
    projections, products = 2 * 5 * 8 * 8 * 4, 2 * (2 * 5 * 5 * 8)
    assert count_flops(attention, tokens, tokens, tokens) == projections + products


def test_undisturbed_gives_back_state_after_an_error():
    norm = nn.BatchNorm1d(2)
    norm.eval()
    before, random_state = copy.deepcopy(norm.state_dict()), torch.get_rng_state()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        _train_on_too_little(norm)
    assert not norm.training
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def _train_on_too_little(norm):
    with undisturbed(norm):
        norm.train()(torch.randn(4, 2))
        norm(torch.randn(1, 2))
