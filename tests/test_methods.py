"""Every method, the same contract: the same architecture and keys, trained in place, resumable, no hook left."""

import copy
from dataclasses import replace

import pytest
import torch

from conftest import Net
from efface.config import EngineConfig, MethodConfig
from efface.engine import Job
from efface.errors import ConfigError, CutError
from efface.methods import METHODS, Registry, find_method, unlearn

FAST = EngineConfig(epochs=1, batch_size=64, precision="32-true", threads=1, device="cpu")
SMALL = MethodConfig(head_width=16, decoder_width=16, inner_steps=1)


def settings(name):
    return SMALL.model_copy(update={"name": name})


@pytest.mark.parametrize("name", METHODS.names())
def test_a_method_returns_the_same_model(name, faces, net):
    keys, layout = list(net.state_dict()), str(net)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    result = unlearn(net, faces, at="low", method=settings(name), engine=FAST, progress=False)
    assert result.model is net
    assert list(net.state_dict()) == keys
    assert str(net) == layout
    assert any(not torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in net.modules())
    assert all(p.requires_grad for p in net.parameters())
    assert result.history.steps == 6
    assert "fidelity" in result.history.lines[-1]["metrics"]


@pytest.mark.parametrize("name", METHODS.names())
def test_a_method_is_deterministic_by_seed(name, faces):
    def train(seed):
        torch.manual_seed(0)
        model = Net(dropout=0.2)
        unlearn(model, faces, at="low", method=settings(name), engine=FAST, seed=seed, progress=False)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(train(1), train(1))
    assert not torch.equal(train(1), train(2))


@pytest.mark.parametrize("name", METHODS.names())
def test_a_finished_run_resumes_to_itself(name, faces, tmp_path):
    from efface.methods.base import Method

    method = find_method(name)
    assert isinstance(method, Method)
    states = []
    for resume in (False, True):
        torch.manual_seed(0)
        model = Net()
        job = Job(folder=tmp_path, fingerprint="x", progress=False, resume=resume)
        method.fit(model, faces, ["low"], settings(name), FAST, job)
        states.append(copy.deepcopy(model.state_dict()))
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


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


def test_missing_attribute_labels_are_allowed(faces, net):
    import numpy as np

    hidden = dict(faces.labels)
    hidden["glasses"] = np.where(np.arange(len(faces)) % 3 == 0, -1, faces.labels["glasses"])
    partial = replace(faces, labels=hidden)
    assert unlearn(net, partial, at="low", method=SMALL, engine=FAST, progress=False).history.steps == 6


def test_the_penalised_attribute_is_harder_to_find(faces):
    """Detachment against itself without removal: the trained heads find less, with the same budget."""

    def found(weight):
        torch.manual_seed(0)
        model = Net()
        method = SMALL.model_copy(
            update={
                "removal_weight": weight,
                "input_weight": 0.0,
                "warmup": 0.0,
                "inner_steps": 2,
                "target_weight": 0.1,
            }
        )
        engine = FAST.model_copy(update={"epochs": 15, "lr": 1e-2})
        result = unlearn(model, faces, at="middle", method=method, engine=engine, progress=False, augment=(False, 0))
        lines = [line["metrics"] for line in result.history.lines if line["split"] == "validation"]
        return sum(line["removal_accuracy/hat"] for line in lines[-4:]) / 4

    assert found(20.0) < found(0.0) - 0.1


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
