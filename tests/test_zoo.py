"""Models by name: what they are built as, what is refused, and weights that must fit."""

import sys
import textwrap

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from efface.errors import ConfigError
from efface.models import build, count_parameters, list_models, split


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    source = """
        from torch import nn
        def tiny(num_classes, hidden=4):
            return nn.Sequential(nn.Flatten(), nn.Linear(12, hidden), nn.Linear(hidden, num_classes))
        class Resnetlike(nn.Module):
            def __init__(self, num_classes):
                super().__init__()
                self.conv1, self.maxpool = nn.Conv2d(3, 4, 7, 2, 3), nn.MaxPool2d(2)
        def broken(num_classes):
            raise RuntimeError("no such luck")
        def number(num_classes):
            return 3
    """
    (tmp_path / "own_models.py").write_text(textwrap.dedent(source))
    (tmp_path / "own_wrong.py").write_text("def")
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_models"
    sys.modules.pop("own_models", None)


def test_the_list_names_what_build_takes():
    names = list_models()
    assert {"resnet18", "vit_tiny_patch16_224", "torchvision/resnet18", "torchvision/vit_b_16"} <= set(names)
    assert len(names) == len(set(names)) > 1000
    assert not any("fcn" in name or "raft" in name for name in names if name.startswith("torchvision/"))


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("resnet18", 32, {}),
        ("resnet18.a1_in1k", 48, {}),
        ("torchvision/resnet18", 32, {}),
        ("squeezenet1_1", 64, {}),
        ("vit_tiny_patch16_224", 48, {"depth": 2}),
        ("convnext_atto", 32, {}),
        ("mobilenetv3_small_100", 32, {}),
    ],
)
def test_a_name_gives_a_model_of_that_size(name, size, options):
    model = build(name, 3, size, **options).eval()
    assert model(torch.zeros(2, 3, size, size)).shape == (2, 3)


def test_the_image_size_reaches_models_made_for_one_size():
    model = build("vit_tiny_patch16_224", 2, 48, depth=1)
    assert model.pos_embed.shape[1] == 3 * 3 + 1
    assert build("vit_tiny_patch16_224", 2, 48, depth=1, img_size=64).pos_embed.shape[1] == 4 * 4 + 1


def test_fresh_weights_depend_on_the_seed_alone():
    def weights(seed):
        torch.manual_seed(seed)
        return build("resnet18", 2, 32, width=16).state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


@pytest.mark.parametrize("name", ["resnet18", "torchvision/resnet18"])
def test_stems(name):
    def first(size, stem="auto"):
        model = build(name, 2, size, stem=stem)
        return model.conv1.kernel_size, model.conv1.stride, isinstance(model.maxpool, nn.Identity)

    small, standard = ((3, 3), (1, 1), True), ((7, 7), (2, 2), False)
    assert first(32) == first(40) == first(224, "small") == small
    assert first(41) == first(32, "standard") == standard


def test_a_small_stem_is_refused_where_there_is_none():
    with pytest.raises(ConfigError, match=r"Expected `model.stem` to be 'auto' or 'standard' for this model, but got"):
        build("convnext_atto", 2, 32, stem="small")
    assert build("resnet18d", 2, 32).conv1[0].stride == (2, 2)


@pytest.mark.parametrize(("name", "width"), [("resnet18", 16), ("resnet34", 32), ("resnet50", 16), ("resnet18", 128)])
def test_width_is_that_of_every_stage(name, width):
    model = build(name, 2, 32, width=width)
    expansion = 4 if name == "resnet50" else 1
    images = torch.randn(2, 3, 32, 32)
    parts = split(model, ["conv1", "layer1", "layer2", "layer3", "layer4"], example=images)
    widths = [parts.features(images, at=layer).shape[1] for layer in parts.at]
    assert widths == [width, *(width * expansion * factor for factor in (1, 2, 4, 8))]
    full = timm.create_model(name, num_classes=2)
    assert set(model.state_dict()) == set(full.state_dict())
    assert count_parameters(model) / count_parameters(full) == pytest.approx((width / 64) ** 2, rel=0.1)


def test_the_default_width_is_timms_own_model():
    torch.manual_seed(1)
    ours = build("resnet18", 2, 64, width=64).state_dict()
    torch.manual_seed(1)
    theirs = timm.create_model("resnet18", num_classes=2).state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


@pytest.mark.parametrize("width", [0, 4, "32", 1.5])
def test_a_wrong_width_is_refused(width):
    with pytest.raises(ConfigError, match=r"`model.options.width` to be an integer from 8 on, but got"):
        build("resnet18", 2, 32, width=width)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"but got 'resnett18'\. Did you mean 'resnet18'\?.*Try `efface ls models`"):
        build("resnett18", 2, 32)


def test_options_that_the_constructor_refuses():
    with pytest.raises(ConfigError, match=r"Cannot build the model 'resnet18' with .*depht=3: TypeError: .*'depht'"):
        build("resnet18", 2, 32, depht=3)
    with pytest.raises(ConfigError, match=r"Cannot build the model 'resnet18' with .*width=32"):
        build("torchvision/resnet18", 2, 32, width=32)


def test_your_own_function(own_module):
    model = build(f"{own_module}:tiny", 5, 32, hidden=7)
    assert [layer.out_features for layer in model[1:]] == [7, 5]
    assert build(f"{own_module}:Resnetlike", 5, 32).conv1.stride == (2, 2)
    assert build(f"{own_module}:Resnetlike", 5, 32, stem="small").conv1.stride == (1, 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_missing:f", "Cannot import 'own_missing' for the model 'own_missing:f': ModuleNotFoundError.*PYTHONPATH"),
        ("own_wrong:f", "Cannot import 'own_wrong' for the model 'own_wrong:f': SyntaxError"),
        ("own_models:tinny", "No function 'tinny' in 'own_models'. Did you mean 'tiny'?"),
        ("own_models:broken", "Cannot build the model 'own_models:broken' with num_classes=2: RuntimeError: no such"),
        ("own_models:number", "Expected `model.name` to be a function that returns an nn.Module.*It gave 3"),
        (":f", "Cannot import ''"),
    ],
)
def test_your_own_function_fails_clearly(own_module, name, message):
    with pytest.raises(ConfigError, match=message):
        build(name, 2, 32)


@pytest.mark.parametrize("kind", ["safetensors", "pt", "nested"])
def test_weights_come_back(kind, tmp_path):
    model = build("resnet18", 2, 32, width=16)
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    state = model.state_dict()
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if kind == "nested" else state, path)
    torch.manual_seed(5)
    loaded = build("resnet18", 2, 32, weights=path, width=16).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_weights_that_do_not_fit_are_refused_with_every_reason(tmp_path):
    state = build("resnet18", 2, 32, width=16).state_dict()
    state["fc.weight"] = torch.zeros(7, 128)
    state["head.scale"] = state.pop("bn1.weight")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError) as error:
        build("resnet18", 2, 32, weights=tmp_path / "w.safetensors", width=16)
    assert "don't fit ResNet. Check `model.name`, `model.stem`" in str(error.value)
    assert str(error.value).splitlines()[1:] == [
        "  missing: bn1.weight",
        "  unexpected: head.scale",
        "  shape of fc.weight: [7, 128] in the file, [2, 128] in the model",
    ]


def test_many_mismatched_keys_are_counted(tmp_path):
    torch.save({}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"missing: bn1\.bias, .*, … \(122 in all\)"):
        build("resnet18", 2, 32, weights=tmp_path / "w.pt")


class Code:
    pass


def test_files_that_are_no_weights(tmp_path):
    def loading(name):
        return pytest.raises(ConfigError, match=name)

    with loading("Expected `weights` to be a .safetensors or .pt file, but got .*There is no such file"):
        build("resnet18", 2, 32, weights=tmp_path / "none.pt")
    for name in ("w.pt", "w.safetensors"):
        (tmp_path / name).write_bytes(b"not weights at all")
        with loading("Cannot read the weights"):
            build("resnet18", 2, 32, weights=tmp_path / name)
    torch.save(Code(), tmp_path / "code.pt")
    with loading("Cannot read the weights"):
        build("resnet18", 2, 32, weights=tmp_path / "code.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with loading("Expected `weights` to be a state dict, {name: tensor}, but got 'list'"):
        build("resnet18", 2, 32, weights=tmp_path / "list.pt")
