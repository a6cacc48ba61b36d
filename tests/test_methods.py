"""Detachment beyond the contract of all methods (test_method_contract.py): costs, cuts, variants, removal; errors."""

import pytest
import torch

from conftest import Net
from efface.config import EngineConfig, MethodConfig
from efface.data.toyfaces import load_toyfaces
from efface.engine import History
from efface.errors import ConfigError, CutError
from efface.methods import Registry, UnlearnedModel, find_method, unlearn

FAST = EngineConfig(epochs=1, batch_size=64, precision="32-true", threads=1, device="cpu")
SMALL = MethodConfig(head_width=16, decoder_width=16, inner_steps=1)


def test_detachment_costs_are_reported(faces, net):
    result = unlearn(net, faces, at="low", method=SMALL, engine=FAST, progress=False)
    assert result.auxiliary is not None
    own = sum(p.numel() for p in net.parameters())
    assert result.auxiliary.share_parameters == pytest.approx(result.auxiliary.parameters / own)
    assert result.auxiliary.flops > 0
    assert result.auxiliary.share_flops > 0


def test_several_cuts_make_several_blocks(faces, net):
    result = unlearn(net, faces, at=["middle", "low"], method=SMALL, engine=FAST, progress=False)
    assert result.at == ("low", "middle")


@pytest.mark.parametrize("training", ["cross_entropy", "contrastive"])
@pytest.mark.parametrize("variant", ["conditional", "paper"])
def test_variants_and_trainings_run(faces, net, variant, training):
    method = SMALL.model_copy(update={"variant": variant, "training": training})
    assert unlearn(net, faces, at="low", method=method, engine=FAST, progress=False).history.steps == 6


def test_the_penalised_attribute_is_harder_to_find():
    """Detachment against itself without removal: the trained heads find less, with the same budget.

    With removal, the mean of two seeds: a game ends now here, now there. 300 people are counted.
    """
    faces = load_toyfaces(n=1500, size=32, seed=0, attributes=("hat",), validation_fraction=0.2, test_fraction=0.1)

    def found(weight, seed):
        torch.manual_seed(seed)
        model = Net()
        changes = {"removal_weight": weight, "input_weight": 0.0, "warmup": 0.0, "inner_steps": 2, "target_weight": 0.1}
        engine = FAST.model_copy(update={"epochs": 10, "lr": 1e-2})
        job = {"seed": seed, "progress": False, "augment": (False, 0)}
        method = SMALL.model_copy(update=changes)
        result = unlearn(model, faces, at="middle", method=method, engine=engine, **job)
        lines = [line["metrics"] for line in result.history.lines if line["split"] == "validation"]
        return sum(line["removal_accuracy/hat"] for line in lines[-4:]) / 4

    assert (found(20.0, seed=0) + found(20.0, seed=1)) / 2 < found(0.0, seed=0) - 0.1


def test_a_name_alone_brings_the_settings_that_suit_the_method(faces, net, monkeypatch):
    seen = []

    def fit(method, model, data, at, config, engine, job):
        seen.append(config)
        return UnlearnedModel(model, tuple(at), config.name, History(0.0, 0))

    for name in ("vclub", "quantised", "detachment"):
        monkeypatch.setattr(type(find_method(name)), "fit", fit)
        unlearn(net, faces, at="low", method=name, engine=FAST)
    unlearn(net, faces, at="low", method=MethodConfig(name="vclub"), engine=FAST)
    assert [(one.name, one.removal_weight, one.variant) for one in seen] == [
        ("vclub", 1.0, "paper"),
        ("quantised", 48.0, "conditional"),
        ("detachment", MethodConfig().removal_weight, "conditional"),
        ("vclub", MethodConfig().removal_weight, "conditional"),
    ]


def test_error_messages(faces, net):
    with pytest.raises(ConfigError, match=r"Unknown method 'detachmen'. Did you mean 'detachment'"):
        unlearn(net, faces, at="low", method="detachmen")
    with pytest.raises(ConfigError, match=r"`method.attribute_weights` names 'glases'. Did you mean 'glasses'"):
        unlearn(net, faces, at="low", method=MethodConfig(attribute_weights={"glases": 1.0}), engine=FAST)
    with pytest.raises(ConfigError, match=r"`method.heads` names 'cnv'. Did you mean 'conv'"):
        unlearn(net, faces, at="low", method=MethodConfig(heads=("cnv",)), engine=FAST)
    with pytest.raises(CutError, match="low"):
        unlearn(net, faces, at="lowe", engine=FAST)


def test_a_registry_refuses_duplicates():
    method = type(find_method("original"))
    with pytest.raises(ValueError, match="Two methods are named 'original'"):
        Registry([method, method])
