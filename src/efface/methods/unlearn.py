"""``efface.unlearn``: any method on any model, from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from types import NoneType

from torch import nn

from efface.config import EngineConfig, MethodConfig
from efface.data.dataset import AttributeDataset
from efface.engine import Job
from efface.engine.cuts import settle_cut
from efface.errors import ConfigError, Problems, did_you_mean, expected
from efface.methods.adversarial import Adversarial
from efface.methods.base import Method, Registry, UnlearnedModel
from efface.methods.detachment import Detachment
from efface.methods.hsic import Hsic
from efface.methods.inlp import Inlp
from efface.methods.layers import check_outputs
from efface.methods.leace import DetachmentLeace, Leace
from efface.methods.learning_not_to_learn import LearningNotToLearn
from efface.methods.masked_retrain import MaskedRetrain
from efface.methods.maxent import MaxEnt
from efface.methods.narrow import Narrow
from efface.methods.original import Original
from efface.methods.quantised import Quantised
from efface.methods.random_projection import RandomProjection
from efface.methods.task_bottleneck import Bottleneck
from efface.methods.vclub import VClub
from efface.models.measure import auto_goal

METHODS = Registry(
    [
        Original,
        Detachment,
        MaskedRetrain,
        Adversarial,
        MaxEnt,
        LearningNotToLearn,
        VClub,
        Hsic,
        Leace,
        DetachmentLeace,
        Narrow,
        Inlp,
        Bottleneck,
        RandomProjection,
        Quantised,
    ]
)


def find_method(name: str) -> Method:
    """Return the method of that name.

    Raises:
        ConfigError: No method has that name.
    """
    method = METHODS.get(name)
    if method is None:
        raise ConfigError(f"Unknown method {name!r}. {did_you_mean(name, METHODS.names())}")
    return method


def unlearn(
    model: nn.Module,
    data: AttributeDataset,
    at: str | Sequence[str] = "layer2",
    *,
    method: Method | MethodConfig | str | None = None,
    engine: EngineConfig | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    augment: tuple[bool, int] = (True, 4),
) -> UnlearnedModel:
    """Unlearn the attributes of ``data`` from what ``model`` releases at a layer; train it in place.

    Args:
        model: Any classifier of the target; it starts from the weights it has, fresh or trained.
        data: Images, target and attributes to unlearn.
        at: Named layer(s); their output is what others will see. ``auto``, ``auto:speed``, ``auto:memory`` or
            ``auto:balance``: measured on this machine (``UnlearnedModel.at`` says what came of it).
        method: Settings, or a name from ``efface ls methods``, with the settings that suit it; default: detachment,
            conditional.
        engine: Settings of the training loop.
        seed: Of everything random.
        folder: Where checkpoints and metrics.jsonl go; None: nowhere.
        resume: Go on from the checkpoint in ``folder``.
        progress: Show a progress bar.
        augment: (mirror at random, largest shift in pixels) of the training images.

    Returns:
        ``.model`` is the model given: same architecture, same state_dict keys; ``LAYER.release.…`` are added where the
        method puts a layer at the cut.

    Raises:
        ConfigError: A setting does not fit, or an argument is of another type.
        CutError: The model can't be cut at the layer; the message names those where it can.
        TrainingError: Training met a loss that is not finite.
    """
    given = {"model": model, "data": data, "at": at, "method": method, "engine": engine, "augment": augment}
    check_types({**given, "seed": seed})
    mirror, shift = augment
    seed, augment = int(seed), (bool(mirror), int(shift))  # NumPy's are integers too
    config = method if isinstance(method, MethodConfig) else MethodConfig()
    if isinstance(method, str):
        config = MethodConfig.model_validate({**find_method(method).suggested, "name": method})
    chosen = method if isinstance(method, Method) else find_method(config.name)
    engine = engine or EngineConfig()
    if resume and auto_goal(at) is not None:
        advice = "Name what the first run chose: `UnlearnedModel.at`."
        raise ConfigError(expected("at", "named layers when a training resumes", at, advice))
    model.to("cpu")  # methods prepare there; training moves it to where it computes
    cuts = settle_cut(model, at, data, engine)
    check_outputs(model, data)
    chosen.check(config, data)
    job = Job(
        folder=Path(folder) if folder is not None else None,
        fingerprint=_fingerprint(chosen, config, engine, at if auto_goal(at) is None else cuts, data, augment, seed),
        seed=seed,
        resume=resume,
        progress=progress,
        augment=augment,
    )
    if job.folder is not None:
        job.folder.mkdir(parents=True, exist_ok=True)
    return chosen.fit(model, data, cuts, config, engine, job)


def check_types(given: Mapping[str, object]) -> None:
    """Refuse arguments of other types, all at once: a mapping of settings would otherwise be passed over.

    Raises:
        ConfigError: With the problems.
    """
    problems = Problems(ConfigError)
    problems.check("model", given["model"], nn.Module, "a torch.nn.Module; by name: `efface.build_model`")
    problems.check("data", given["data"], AttributeDataset, "what `efface.load_dataset` returns")
    problems.check("at", given["at"], (str, list, tuple), "a layer's name, or several")
    kinds = (Method, MethodConfig, str, NoneType)
    problems.check(
        "method", given["method"], kinds, "a name of `efface ls methods`, an efface.MethodConfig or a method"
    )
    problems.check("engine", given["engine"], (EngineConfig, NoneType), "an efface.EngineConfig")
    problems.check("seed", given["seed"], Integral, "an integer")
    mirror_and_shift = given["augment"]
    if not isinstance(mirror_and_shift, (tuple, list)) or [isinstance(one, Integral) for one in mirror_and_shift] != [
        True,
        True,
    ]:
        problems.add(expected("augment", "(mirror at random, largest shift in pixels)", mirror_and_shift))
    problems.raise_if_any()


def _fingerprint(
    method: Method,
    config: MethodConfig,
    engine: EngineConfig,
    at: str | Sequence[str],
    data: AttributeDataset,
    augment: tuple[bool, int],
    seed: int,
) -> str:
    kind, roles = type(method), [data.target.name, *(column.name for column in data.attributes)]
    settings = f"{config.model_dump_json()}|{engine.model_dump_json()}|{at}|{augment}|{seed}"
    return f"{kind.__module__}.{kind.__qualname__}|{settings}|{data.fingerprint}|{roles}"


__all__ = ["METHODS", "find_method", "unlearn"]
