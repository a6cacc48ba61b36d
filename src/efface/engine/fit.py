"""``fit``: parts and data in, trained blocks out; resumable to the bit, never silent about what is not finite."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from efface.config import EngineConfig
from efface.data.batches import Batches
from efface.data.dataset import AttributeDataset
from efface.engine.convolutions import small_maps_as_products
from efface.engine.devices import data_shard, make_fabric, writes_files
from efface.engine.job import Evaluate, History, Job
from efface.engine.ledger import Ledger
from efface.engine.parallel import executor
from efface.engine.seeds import derive
from efface.engine.shortcuts import shortcuts_first
from efface.engine.stages import Part, Stage
from efface.engine.training import Training


def fit(
    parts: Sequence[Part],
    data: AttributeDataset,
    config: EngineConfig,
    job: Job,
    evaluate: Evaluate | None = None,
) -> History:
    """Train the parts' blocks, objectives and adversaries in place.

    Args:
        parts: One per block, from input to output.
        data: Where the train split comes from.
        config: Schedule, optimiser and precision.
        job: Where to write, the seed, whether to resume.
        evaluate: Figures of the validation split, called after each epoch.

    Raises:
        TrainingError: The loss is not finite, a batch can't be filled, or a process of a block died.
        CheckpointError: The checkpoint to resume from does not fit.
    """
    fabric = make_fabric(config, len(parts))
    for part in parts:
        for module in (part.block, part.objective, part.adversary):
            if module is not None:
                module.to(fabric.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    stages = [Stage(part, fabric, config) for part in parts]
    batches = Batches(
        data,
        "train",
        config.batch_size,
        fabric.device,
        augment=job.augment,
        seed=derive(job.seed, job.model, "batches"),
        shard=data_shard(config, fabric, len(parts)),
    )
    ledger = Ledger(config, job, len(batches), writes_files(fabric))
    ledger.restore(stages)
    if config.threads is None and ledger.threads is not None:
        torch.set_num_threads(ledger.threads)
    modules = [module for part in parts for module in (part.block, part.objective, part.adversary)]
    with small_maps_as_products(*modules), shortcuts_first(*modules):
        executor(config, fabric, len(parts))(Training(fabric, stages, batches, ledger, config, job, evaluate))
    return ledger.history()


__all__ = ["History", "Job", "fit"]
