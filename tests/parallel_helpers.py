"""What the tests of the parallel executors share: a training of a small network in two to four blocks."""

import time
from dataclasses import replace
from pathlib import Path

import torch

from conftest import Net
from efface.config import EngineConfig, MethodConfig
from efface.engine import Job
from efface.methods import find_method

FAST = EngineConfig(epochs=2, batch_size=32, precision="32-true", threads=1, log_every=2, device="cpu")
SMALL = MethodConfig(head_width=16, decoder_width=16, heads=("conv", "pooled"), restart_every=1, head_average=0.9)
WITH_RIDGE = SMALL.model_copy(update={"heads": ("conv", "ridge")})
CODED = MethodConfig.model_validate(
    {
        "name": "quantised",
        "head_width": 16,
        "decoder_width": 16,
        "heads": ("conv",),
        "code": {"levels": (2, 3), "soften": 0.5, "target_table": 1, "kept_table": 1},
    }
)
METHODS = {2: WITH_RIDGE, 3: CODED, 4: SMALL}
"""What so many blocks are trained by: together, all that one of them may hold."""
CUTS = {2: ["low"], 3: ["low", "middle"], 4: ["low", "middle", "high"]}


def few(faces):
    """Faces for six steps an epoch."""
    return replace(faces, splits=faces.splits | {"train": faces.rows("train")[: 6 * FAST.batch_size]})


def train(faces, blocks, schedule, folder=None, resume=False, config=FAST, method=None):
    """Train; return the weights and the history."""
    torch.manual_seed(0)
    model = Net(dropout=0.3)
    job = Job(progress=False, seed=3, folder=folder, fingerprint="f", resume=resume)
    engine = config.model_copy(update={"schedule": schedule})
    method = method or METHODS[blocks]
    history = find_method(method.name).fit(model, few(faces), CUTS[blocks], method, engine, job).history
    return {name: value.clone() for name, value in model.state_dict().items()}, history


def assert_equal(found, wanted, at=""):
    """Weights, or whole checkpoints, equal to the bit."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), at
        for name, value in wanted.items():
            assert_equal(found[name], value, f"{at}/{name}")
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted), at
        for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
            assert_equal(one, other, f"{at}/{number}")
    elif isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted), at
    else:
        assert found == wanted, at


def assert_ended_with(parent, children):
    """Kill the parent; its children, by their process ids, end within a minute."""
    parent.kill()
    parent.join()
    deadline = time.monotonic() + 60
    while any(_running(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_running(pid) for pid in children)


def _running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
