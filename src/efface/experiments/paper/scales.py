"""How large each scale is: networks, images, epochs, and who attacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from efface.experiments.paper.printed import DATASETS, MODELS


@dataclass(frozen=True)
class Grid:
    """The values of figure 6.

    Attributes:
        dataset: Of the paper.
        attribute: That is unlearned.
        input_weights: λ1, two values; the paper's are in the ratio 2 : 1 too.
        target_weights: λ2.
        removal_weights: λ3.
        settings: ``section.name=value`` on top of the scale's.
    """

    dataset: str
    attribute: str
    input_weights: tuple[float, float]
    target_weights: tuple[float, ...]
    removal_weights: tuple[float, ...]
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scale:
    """A scale.

    Attributes:
        name: On the command line.
        about: In a line.
        drawn: Whether drawn faces stand in for all data.
        models: Of tables 1 and 2.
        settings: ``section.name=value`` of every cell.
        of_model: More of them, by model.
        only: Data sets of table 1, by model; all, where a model is not named. Table 2 needs cifar10 of every model.
        grid: Of figure 6.
        speed: Settings of table 2's training steps: base channels, batch, rounds, steps, and images per epoch.
        faces: People shown in figures 3 and 4.
        reconstruction_epochs: Of figure 4's decoders.
    """

    name: str
    about: str
    drawn: bool
    models: tuple[str, ...]
    settings: tuple[str, ...]
    grid: Grid
    of_model: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    speed: Mapping[str, int] = field(default_factory=dict)
    faces: int = 6
    reconstruction_epochs: int = 3

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield the models and data sets of table 1, the cheapest model first."""
        for model in self.models:
            for dataset in DATASETS:
                if dataset in self.only.get(model, DATASETS):
                    yield model, dataset


_NOTHING_BEYOND = ("audit.beyond=[]", "audit.layers=[]", "audit.reconstruction=false")
_FOUR = "audit.attackers=[resnet18, mlp, linear, least-squares]"

SMOKE = Scale(
    name="smoke",
    about="drawn faces, a network of 8 channels, two epochs: shows that everything runs, and says nothing of the paper",
    drawn=True,
    models=("resnet18",),
    settings=(
        *_NOTHING_BEYOND,
        "audit.attackers=[resnet18, mlp, linear]",
        "data.size=32",
        "data.options.n=600",
        "model.stem=standard",
        "model.options={width: 8}",
        "engine.epochs=2",
        "engine.original_epochs=2",
        "engine.batch_size=64",
        "method.head_width=16",
        "method.decoder_width=16",
        "audit.epochs=1",
        "audit.resamples=200",
    ),
    grid=Grid("celeba", "Male", (0.01, 0.005), (1.0, 4.0), (0.001, 8.0), ("audit.attackers=[mlp, linear]",)),
    speed={"width": 8, "batch": 16, "rounds": 1, "steps": 2, "images": 600},
    reconstruction_epochs=2,
)

SMALL = Scale(
    name="small",
    about="real images in reduced number, half-width ResNets, for two cores",
    drawn=False,
    models=MODELS,
    settings=(
        *_NOTHING_BEYOND,
        _FOUR,
        "model.options={width: 32}",
        "engine.epochs=8",
        "engine.original_epochs=6",
        "engine.batch_size=128",
        "audit.epochs=5",
        "data.limit=7000",
    ),
    of_model={"resnet34": ("data.limit=5000",), "resnet50": ("data.limit=3500",)},
    only={"resnet34": ("cifar10",), "resnet50": ("cifar10",)},
    # The phase rule is proved for z independent of y, which drawn faces are to the letter.
    grid=Grid(
        "drawn",
        "Male",
        (0.01, 0.005),
        (0.5, 1.0, 2.0, 4.0),
        (0.001, 0.01, 0.1, 1.0, 8.0, 32.0),
        (
            "data.size=48",
            "data.options.n=4000",
            "model.stem=standard",
            "model.options={width: 16}",
            "engine.epochs=5",
            "engine.original_epochs=5",
            "audit.attackers=[mlp, linear, least-squares]",
            "data.limit=null",
        ),
    ),
    speed={"width": 64, "batch": 128, "rounds": 5, "steps": 6, "images": 50_000},
)

PAPER = Scale(
    name="paper",
    about="all images, full-width ResNets; for a GPU",
    drawn=False,
    models=MODELS,
    settings=(
        *_NOTHING_BEYOND,
        "audit.attackers=[resnet18, conv, mlp, linear, least-squares, knn, trees, output, ensemble]",
        "data.limit=null",
        "model.options={}",
        "engine.epochs=30",
        "engine.original_epochs=30",
        "engine.batch_size=128",
        "audit.epochs=12",
    ),
    grid=Grid(
        "fairface",
        "race",
        (0.01, 0.005),
        (0.5, 1.0, 2.0, 4.0, 8.0),
        (0.001, 0.01, 0.1, 1.0, 4.0, 16.0, 64.0),
        ("audit.suite=quick", "engine.epochs=12", "engine.original_epochs=12"),
    ),
    speed={"width": 64, "batch": 128, "rounds": 9, "steps": 8, "images": 50_000},
    faces=8,
    reconstruction_epochs=8,
)

SCALES = {scale.name: scale for scale in (SMOKE, SMALL, PAPER)}
