"""What the tests of the parallel executors share: a training of a small network in two to four blocks."""

from dataclasses import replace

import torch

from conftest import Net
from efface.config import EngineConfig, MethodConfig
from efface.engine import Job
from efface.methods import Detachment

FAST = EngineConfig(epochs=2, batch_size=32, precision="32-true", threads=1, log_every=2, device="cpu")
SMALL = MethodConfig(head_width=16, decoder_width=16, heads=("conv", "pooled"), restart_every=1, head_average=0.9)
WITH_RIDGE = SMALL.model_copy(update={"heads": ("conv", "ridge")})
CUTS = {2: ["low"], 3: ["low", "middle"], 4: ["low", "middle", "high"]}


def few(faces):
    """Faces for six steps an epoch."""
    return replace(faces, splits=faces.splits | {"train": faces.rows("train")[: 6 * FAST.batch_size]})


def train(faces, blocks, schedule, folder=None, resume=False, config=FAST, method=SMALL):
    """Train; return the weights, the log and the history."""
    torch.manual_seed(0)
    model = Net(dropout=0.3)
    job = Job(progress=False, seed=3, folder=folder, fingerprint="f", resume=resume)
    engine = config.model_copy(update={"schedule": schedule})
    history = Detachment().fit(model, few(faces), CUTS[blocks], method, engine, job).history
    return {name: value.clone() for name, value in model.state_dict().items()}, history


def assert_equal(found, wanted):
    """Weights equal to the bit."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name
