"""What the tests share: one thread (two processes that spin slow each other), tiny data, a tiny network."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
# A cache of the user's must not be read or written by tests.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from torch import nn

from efface.data.dataset import AttributeDataset
from efface.data.toyfaces import load_toyfaces


@pytest.fixture(autouse=True)
def _one_thread(tmp_path_factory, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def faces() -> AttributeDataset:
    """600 drawn faces at 32 pixels: smiling is the task, glasses and hat are unlearned."""
    return load_toyfaces(n=600, size=32, seed=0, attributes=("glasses", "hat"))


class Net(nn.Module):
    """Three convolutions; cut it after ``low`` or ``middle``."""

    def __init__(self, classes: int = 2, dropout: float = 0.0):
        super().__init__()
        self.low = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.high = nn.Sequential(nn.Conv2d(12, 16, 3, 2, 1), nn.ReLU(), nn.Dropout(dropout))
        self.head = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.high(self.middle(self.low(x))).mean((2, 3)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()
