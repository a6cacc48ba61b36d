"""The plain loop: float32, a DataLoader with workers, Pillow augmentation, the loss read every step.

It runs in a process of its own, with the allocator as the C library comes: as whoever writes it would start it.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from efface.data.dataset import AttributeDataset
from efface.experiments.bench.apart import apart
from efface.experiments.bench.workload import Load, network, noise, rows_of


class PillowImages(Dataset[tuple[Tensor, int]]):
    """Decoded images as Pillow images, augmented one by one."""

    def __init__(self, data: AttributeDataset, size: int):
        self.images = np.ascontiguousarray(data.images[data.rows("train")].transpose(0, 2, 3, 1))
        self.labels = data.split_labels("train", data.target.name)
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(size, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize([0.5] * 3, [0.25] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def plain_seconds(load: Load, threads: int, device: str = "cpu") -> float:
    """Train for a few steps; return the median seconds from step to step, data included.

    Args:
        load: Network, batch and steps.
        threads: Of the process; as many workers read.
        device: Where to compute; reading the loss every step waits for a GPU.
    """
    return float(apart(_plain, load, threads, device, plain=True))


def _plain(load: Load, threads: int, device: str) -> float:
    torch.set_num_threads(threads)
    data, model = noise(rows_of(load), load.size), network(load).train().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    loader = DataLoader(PillowImages(data, load.size), load.batch, shuffle=True, num_workers=threads, drop_last=True)
    criterion, times, running = nn.CrossEntropyLoss(), [], 0.0
    for images, target in loader:
        optimizer.zero_grad()
        loss = criterion(model(images.to(device)), target.to(device))
        loss.backward()
        optimizer.step()
        running += loss.item()
        times.append(time.monotonic())
    return float(np.median(np.diff(times)[load.skip :]))
