"""Arguments of other types are refused in Python by an error that says what is wanted: none is passed over.

In a process of its own: in the others, annotations are checked before any of our code sees an argument.
"""

import subprocess
import sys

CODE = """
import json
import numpy as np
import torch
from torch import nn
import efface
from efface.errors import EffaceError

data = efface.load_dataset("toyfaces", target="smiling", attributes="glasses", n=60, progress=False)
model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 48 * 48, 4), nn.ReLU(), nn.Linear(4, 2))
calls = {
    "method": lambda: efface.unlearn(model, data, "1", method={"name": "narrow"}, engine={"epochs": 1}, augment=True),
    "a class": lambda: efface.unlearn(model, data, "1", method=efface.methods.leace.Leace),
    "model": lambda: efface.unlearn("resnet18", data, at=3),
    "audit": lambda: efface.audit(model, data, None, config="quick", original="model.pt"),
    "attackers": lambda: efface.audit(model, data, "1", attackers=["linear"]),
    "settings": lambda: efface.MethodConfig(removal=3, heads=("conv",), epochs=1),
    "inner": lambda: efface.MethodConfig(narrow={"chanels": 3}),
    "data": lambda: efface.load_dataset("toyfaces", target=None, attributes=3, size="a", limit=2.5, seed=-1),
    "seeds": lambda: efface.unlearn(model, data, "1", seed="a", augment=(True, "far")),
    "source": lambda: efface.load_dataset(" ", target="a", attributes="b"),
}
for name, call in calls.items():
    try:
        call()
    except EffaceError as error:
        print(f"{name}: {' '.join(str(error).split())}")
# NumPy's integers, and a list for a pair, are as good.
one, few = np.int64(1), efface.EngineConfig(epochs=1, batch_size=16)
data = efface.load_dataset("toyfaces", target="smiling", attributes="glasses", n=90, seed=one, size=np.int32(32))
model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4), nn.ReLU(), nn.Linear(4, 2))
efface.unlearn(model, data, "1", engine=few, seed=one, augment=[True, 2], progress=False)
config = efface.AuditConfig(attackers=("linear",), reconstruction=False)
found = efface.audit(model, data, "1", config=config, seed=one, progress=False)
print(f"numpy: {json.loads(found.to_json())['seed']}")
"""


def test_arguments_of_other_types_are_refused_at_once():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert said["method"].startswith(
        "3 problems: 1. Expected `method` to be a name of `efface ls methods`, an efface.M"
    )
    assert "Expected `engine` to be an efface.EngineConfig, but got {'epochs': 1}" in said["method"]
    assert said["a class"].startswith("Expected `method` to be")
    assert said["model"].startswith("2 problems: 1. Expected `model` to be a torch.nn.Module")
    assert said["audit"].startswith("3 problems: 1. Expected `at` to be a layer's name")
    assert "by name: AuditConfig(attackers=('mlp',)), but got 'linear'" in said["attackers"]
    assert "`removal`: input should be 'confusion', 'reversal' or 'vclub', but got 3." in said["settings"]
    assert "Unknown setting `epochs`" in said["settings"]
    assert (
        said["inner"]
        == "Unknown setting `narrow.chanels`. Did you mean 'channels'? Valid names: channels, step, noise."
    )
    assert said["data"].startswith("5 problems")
    assert said["source"].startswith("Expected `data.source` to be a folder")
    assert said["seeds"].startswith(
        "2 problems: 1. Expected `seed` to be an integer, but got 'a'. 2. Expected `augment`"
    )
    assert said["numpy"] == "1"
