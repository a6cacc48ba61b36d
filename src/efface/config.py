"""The configuration of a run: frozen, strict, read from YAML and written back.

Every setting has a default, a unit and a line of explanation; unknown names are refused with the nearest valid one.
``fingerprint`` identifies a configuration, so that a checkpoint is never resumed under another.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from efface.errors import ConfigError, EffaceError, Problems, did_you_mean, expected

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """A part of the configuration: frozen, no unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _refused(error, type(self)) from None

    # To pydantic, this is BaseModel's own: a section within a section is not made by it.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


class DerivedColumn(Section):
    """A column of classes made from another column: two from its classes, or several from numbers that are cut.

    Example:
        >>> DerivedColumn(of="label", values=("bird", "cat"), names=("vehicle", "animal")).names
        ('vehicle', 'animal')
        >>> DerivedColumn(of="age", bins=8).model_dump()
        {'of': 'age', 'bins': 8}
    """

    # YAML reads class names such as 0 as numbers.
    model_config = ConfigDict(coerce_numbers_to_str=True)

    of: str = Field(description="column of the source")
    values: tuple[str, ...] | None = Field(
        None, min_length=1, description="its classes that become class 1; all others are class 0"
    )
    bins: int | None = Field(None, ge=2, le=64, description="numbers are cut into so many classes of about equal size")
    edges: tuple[float, ...] | None = Field(None, min_length=1, description="numbers are cut here; an edge goes up")
    names: tuple[str, ...] | None = Field(None, description="of the classes; with values, no and yes by default")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        named = isinstance(given, Mapping) and given.get("values") is not None and given.get("names") is None
        return {**given, "names": ("no", "yes")} if named else given

    @model_validator(mode="after")
    def _fits(self) -> DerivedColumn:
        ways = {"values": 2, "bins": self.bins, "edges": len(self.edges or ()) + 1}
        given = [name for name in ways if getattr(self, name) is not None]
        if len(given) != 1:
            raise PydanticCustomError("derived", "expected one of values, bins and edges")
        if self.edges is not None and any(low >= high for low, high in pairwise(self.edges)):
            raise PydanticCustomError("derived", "expected edges that rise")
        if self.names is not None and len(self.names) != ways[given[0]]:
            raise PydanticCustomError("derived", "expected {n} names", {"n": ways[given[0]]})
        return self

    @model_serializer(mode="wrap")
    def _given(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Only what is given: what a column is made from decides which settings mean something."""
        return {name: value for name, value in handler(self).items() if value is not None}


class DataConfig(Section):
    """What is read, and which columns are the task and the attributes."""

    source: str = Field("toyfaces", description="hub name, folder, or toyfaces")
    target: str = Field("smiling", description="column of the main task y")
    attributes: tuple[str, ...] = Field(("glasses",), min_length=1, description="columns z to unlearn")
    layout: Literal["auto", "hub", "parquet", "folder", "celeba", "fairface", "toyfaces"] = "auto"
    image_column: str | None = Field(None, description="column with the images; None finds it")
    size: Positive | None = Field(None, description="images are decoded to size×size pixels; None keeps square ones")
    limit: Positive | None = Field(None, description="at most so many images per split (a seeded draw)")
    validation_fraction: Fraction = Field(0.1, description="taken out of train where the source has no validation")
    test_fraction: Fraction = Field(0.2, description="taken out of train where the source has no test")
    flip: bool = Field(True, description="mirror training images at random")
    shift: int = Field(4, ge=0, description="shift training images by up to so many pixels")
    cache: Path | None = Field(None, description="folder of decoded images; None: $EFFACE_CACHE or ~/.cache/efface")
    options: dict[str, Any] = Field(
        default_factory=dict, description="options of the source (toyfaces: n, correlation)"
    )
    derive: dict[str, DerivedColumn] = Field(
        default_factory=dict, description="columns to make where the source lacks them, by name"
    )


class ModelConfig(Section):
    """The network and where it is cut."""

    name: str = Field("resnet18", description="timm or torchvision name, or module:function")
    at: str | tuple[str, ...] = Field("layer2", description="named layer(s): the released features are its output")
    stem: Literal["auto", "small", "standard"] = Field("auto", description="small: 3×3 stride 1, for images up to 40")
    weights: Path | None = Field(None, description="trained weights (.safetensors, .pt) to start from")
    options: dict[str, Any] = Field(default_factory=dict, description="passed to the model's constructor")


class MaskConfig(Section):
    """What `masked_retrain` blots out of the images."""

    threshold: float = Field(
        0.5, gt=0, le=1, description="share of an image's highest attention from which it is masked"
    )
    fill: Literal["mean", "black", "noise"] = Field("mean", description="what takes the place of the key area")


class CodeConfig(Section):
    """The finite code of `quantised`."""

    levels: tuple[int, ...] = Field((2, 2, 2, 2, 2, 2), description="levels of each number; their product is M")
    width: Positive = Field(64, description="channels of the network that reads the features")
    table_weight: Weight = Field(1.0, description="on what the counted table of codes tells of z, beside the heads")
    target_table: Weight = Field(0.0, description="on what such a table tells of the target, beside the target head")
    kept_table: Weight = Field(0.0, description="on what such tables tell of kept columns, beside their heads")
    soften: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of training over which rounding sets in; default: 0.3 with 3 codes or fewer, else 0",
    )

    @property
    def softened(self) -> float:
        """Share of training over which rounding sets in: 2 or 3 codes, rounded at once, may never learn the target.

        Example:
            >>> CodeConfig(levels=(2,)).softened, CodeConfig().softened, CodeConfig(soften=0.1).softened
            (0.3, 0.0, 0.1)
        """
        if self.soften is not None:
            return self.soften
        return 0.3 if math.prod(self.levels) <= 3 else 0.0


class NarrowConfig(Section):
    """The passage of `narrow`."""

    channels: Positive = Field(16, description="that pass the cut")
    step: Weight = Field(0.5, description="of the grid they are rounded to, in standard deviations; 0: no rounding")
    noise: Weight = Field(0.0, description="added while training, in standard deviations; what is released has none")


class EraserConfig(Section):
    """Layers that are fitted to finished features: `leace`, `inlp`, `random_projection`."""

    dimensions: Positive = Field(2048, description="most numbers that an eraser reads; positions are averaged to fit")
    rounds: Positive = Field(10, description="of `inlp`: classifiers that are trained and projected out, per attribute")
    keep: float = Field(0.25, gt=0, le=1, description="of `random_projection`: share of the channels' dimensions")
    settle_epochs: int = Field(2, ge=0, description="epochs of the classifier on top, on the finished features")


class MethodConfig(Section):
    """How attributes are unlearned. Weights multiply mutual information in nats per image (THEORY, claim 2)."""

    name: str = Field("detachment", description="`efface ls methods`")
    variant: Literal["conditional", "paper", "conditional_decoder", "conditional_removal"] = Field(
        "conditional", description="what decoder and removal are told of the other labels: all, nothing, one of them"
    )
    init: Literal["scratch", "original"] = Field("original", description="start from fresh or from trained weights")
    input_weight: Weight = Field(0.001, description="λ1, on I(h;x), or I(h;x|z) if conditional")
    target_weight: Weight = Field(1.0, description="λ2, on I(h;y)")
    removal_weight: Weight = Field(8.0, description="λ3, on I(h;z), or I(h;z|y) if conditional")
    attribute_weights: dict[str, Weight] = Field(default_factory=dict, description="factor per attribute; default 1")
    preserve: tuple[str, ...] = Field(
        (), description="other columns that must stay readable, learned from their labels"
    )
    preserve_weight: Weight = Field(1.0, description="on I(h;column)/H(column): the share told of each")
    warmup: Fraction = Field(0.15, description="share of training over which the removal weight rises from 0")
    heads: tuple[str, ...] = Field(("conv", "grid", "ridge"), min_length=1, description="conv, pooled, grid, ridge")
    removal: Literal["confusion", "reversal", "vclub"] = Field("confusion", description="what the extractor minimises")
    inner_steps: Positive = Field(2, description="steps of the removal heads per step of the extractor")
    restart_every: int = Field(0, ge=0, description="epochs after which one removal head starts afresh; 0: never")
    head_average: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="kept per step by a moving average of the heads, which guides the extractor; 0: none",
    )
    head_lr: float = Field(1e-3, gt=0, description="learning rate of the removal heads")
    head_width: Positive = Field(64, description="channels of the auxiliary heads")
    decoder_width: Positive = Field(32, description="channels of the decoder")
    keep: Literal["image", "features"] = Field(
        "image", description="what the decoder draws: the image, or the features as they were before unlearning"
    )
    training: Literal["cross_entropy", "contrastive", "contrastive_target", "contrastive_removal"] = Field(
        "cross_entropy", description="how heads learn: by a supervised contrastive loss too, all or those of one side"
    )
    temperature: float = Field(0.1, gt=0, description="of the supervised contrastive loss")
    entropy_weight: Weight = Field(0.1, description="of `learning_not_to_learn`: on the heads' entropy")
    mask: MaskConfig = MaskConfig()
    code: CodeConfig = CodeConfig()
    eraser: EraserConfig = EraserConfig()
    narrow: NarrowConfig = NarrowConfig()

    @property
    def conditional_decoder(self) -> bool:
        """Whether the decoder is told z, so that what the features hold beyond z is kept: I(h;x|z)."""
        return self.variant in ("conditional", "conditional_decoder")

    @property
    def conditional_removal(self) -> bool:
        """Whether the adversaries are told y, so that what they hold beyond y is removed: I(h;z|y)."""
        return self.variant in ("conditional", "conditional_removal")


class OtherMethodsConfig(MethodConfig):
    """Settings of ``method`` for methods that are run instead of the one named there; what is not set stays."""

    @model_validator(mode="before")
    @classmethod
    def _name_no_method(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "name" in values:
            raise PydanticCustomError(
                "other_methods", "settings only: they are of every method that `method` names not"
            )
        return values

    @model_serializer(mode="wrap")
    def _what_is_set(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return _given(self, handler(self))


def _given(section: BaseModel, dumped: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a dumped section what was set, section by section."""
    found = {}
    for name in (name for name in dumped if name in section.model_fields_set):
        below = getattr(section, name)
        found[name] = _given(below, dumped[name]) if isinstance(below, BaseModel) else dumped[name]
    return found


class EngineConfig(Section):
    """The training loop."""

    schedule: Literal["local", "local_parallel", "end_to_end"] = "local"
    epochs: Positive = Field(10, description="epochs of the unlearning run")
    original_epochs: Positive | None = Field(None, description="epochs of the original model; None: as `epochs`")
    batch_size: int = Field(128, ge=2, description="batch normalisation needs two")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(1e-3, gt=0, description="peak learning rate; warm-up, then cosine")
    original_lr: float | None = Field(2e-3, gt=0, description="peak rate of the original model; None: as `lr`")
    lr_warmup: Fraction = 0.1
    weight_decay: Weight = 0.05
    label_smoothing: Fraction = 0.0
    grad_clip: float | None = Field(5.0, gt=0, description="largest gradient norm per block; None: no clipping")
    precision: Literal["auto", "bf16-mixed", "16-mixed", "32-true"] = Field(
        "auto", description="auto: bf16-mixed where the hardware computes it, else 32-true"
    )
    device: str = Field("auto", description="auto, cpu, cuda, mps")
    devices: Positive = Field(1, description="data-parallel processes; local_parallel: GPUs to spread the blocks over")
    graphs: bool = Field(False, description="local_parallel on one GPU: replay the steps as CUDA graphs")
    threads: Positive | None = Field(
        None, description="CPU threads per process; None: all cores (at most OMP_NUM_THREADS), shared out"
    )
    checkpoint_every: int = Field(0, ge=0, description="steps between checkpoints; 0: one per epoch")
    log_every: Positive = Field(20, description="steps between lines of metrics.jsonl")

    @field_validator("graphs")
    @classmethod
    def _graphs_fit(cls, graphs: bool, info: Any) -> bool:
        """What the host decides or reads between two kernels can't be in a graph: SGD's rate, a scaled gradient."""
        wanted = {"schedule": "local_parallel", "optimizer": "adamw", "devices": 1}
        wrong = [f"`engine.{name}={value}`" for name, value in wanted.items() if info.data.get(name, value) != value]
        if info.data.get("precision") == "16-mixed":
            wrong.append("another `engine.precision` than 16-mixed")
        if graphs and wrong:
            raise PydanticCustomError("graphs", "true goes with {needs} only", {"needs": " and ".join(wrong)})
        return graphs


Beyond = Literal["selectivity", "fairness", "numbers", "intersections", "recovery", "training_people", "learning_curve"]
"""What an audit looks at beside the attackers' figures."""


class AuditConfig(Section):
    """Who attacks, how long, and what else is looked at. What is None is decided by the suite."""

    # YAML reads layer names such as 0 as numbers.
    model_config = ConfigDict(coerce_numbers_to_str=True)

    suite: Literal["custom", "quick", "standard", "full"] = Field(
        "custom", description="strength: `efface ls attackers`"
    )
    attackers: tuple[str, ...] | None = Field(None, min_length=1, description="names, in place of the suite's")
    split: Literal["test", "validation"] = "test"
    epochs: Positive = Field(12, description="most epochs of an attacker; validation picks the best")
    seeds: Positive | None = Field(None, description="of attackers: each is trained so often, figures are means")
    batch_size: int = Field(256, ge=2, description="batch normalisation needs two")
    resamples: Positive = Field(2000, description="bootstrap resamples over people")
    confidence: float = Field(0.95, gt=0, lt=1)
    layers: Literal["all"] | tuple[str, ...] | None = Field(None, description="layers probed for the layer map")
    view: Literal["features", "logits", "probabilities"] = Field("features", description="what an attacker sees")
    releases: Literal["one", "augmented", "stochastic"] = Field(
        "one", description="of each person, averaged if several"
    )
    beyond: tuple[Beyond, ...] | None = Field(None, description="what else is looked at; [] for nothing")
    reconstruction: bool = Field(True, description="train decoders afresh, before and after")
    reconstruction_epochs: Positive = 6
    reconstruction_width: Positive = Field(64, description="channels of these decoders")
    faces: Positive = Field(8, description="people shown in the reconstruction figure")


class Config(Section):
    """A whole run.

    Example:
        >>> Config(name="mine").engine.schedule
        'local'
    """

    name: str = "run"
    description: str = ""
    seed: int = Field(0, ge=0)
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    method: MethodConfig = MethodConfig()
    other_methods: OtherMethodsConfig = OtherMethodsConfig()
    engine: EngineConfig = EngineConfig()
    audit: AuditConfig = AuditConfig()

    def fingerprint(self) -> str:
        """Return 16 hex digits over every setting that changes the trained weights."""
        relevant = self.model_dump(mode="json", include={"seed", "data", "model", "method", "engine"})
        relevant["data"].pop("cache")
        # Graphs fill and drain at checkpoints, where random layers draw other numbers.
        for name in ("log_every",) if self.engine.graphs else ("checkpoint_every", "log_every"):
            relevant["engine"].pop(name)
        if not self.engine.graphs:
            relevant["engine"].pop("graphs")
        # Runs that were made before there was such a setting are still theirs.
        if not self.method.preserve:
            for name in ("preserve", "preserve_weight"):
                relevant["method"].pop(name)
        method = relevant["method"]
        method["code"]["soften"] = self.method.code.softened
        later = {
            "head_average": method,
            "noise": method["narrow"],
            "soften": method["code"],
            "target_table": method["code"],
            "kept_table": method["code"],
        }
        for name, section in later.items():
            if not section[name]:
                section.pop(name)
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]

    def to_yaml(self) -> str:
        """Return the configuration as YAML, defaults written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Config:
        """Build from nested dictionaries; raise ConfigError with all problems at once."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _refused(error, cls) from None

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Iterable[str] = ()) -> Config:
        """Read a YAML file and apply ``section.name=value`` overrides."""
        return cls.from_mapping(override(read_yaml(path), overrides))

    def updated(self, overrides: Iterable[str]) -> Config:
        """Return a copy with ``section.name=value`` overrides applied."""
        return Config.from_mapping(override(self.model_dump(), overrides))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the settings in a YAML file, as they stand there.

    Raises:
        ConfigError: It can't be read, or holds something else.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"Cannot read the configuration {str(path)!r}: {error}.") from None
    if not isinstance(values, dict):
        raise ConfigError(expected(str(path), "a YAML mapping of settings", type(values).__name__))
    return values


def override(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Apply ``a.b=value`` overrides (values are YAML) to nested mappings; return a new one.

    Example:
        >>> override({"engine": {"epochs": 3}}, ["engine.epochs=5", "seed=1"])
        {'engine': {'epochs': 5}, 'seed': 1}
    """
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    problems = Problems(ConfigError)
    for text in overrides:
        dotted, separator, raw = text.partition("=")
        if not separator or not dotted:
            problems.add(expected("--set", "section.name=value", text, "For example: --set engine.epochs=5"))
            continue
        *parents, leaf = dotted.strip().split(".")
        node: Any = result
        for parent in parents:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            problems.add(f"--set {text}: {'.'.join(parents)!r} is a value, not a section.")
            continue
        try:
            node[leaf] = yaml.safe_load(raw)
        except (yaml.YAMLError, ValueError):  # the latter of dates that are none
            problems.add(f"--set {text}: {raw!r} is not a YAML value.")
    problems.raise_if_any()
    return result


def _refused(error: ValidationError, section: type[Section]) -> EffaceError:
    """One error for all of pydantic's findings."""
    problems = Problems(ConfigError)
    for detail in error.errors():
        problems.add(_explain(detail, section))
    return problems.collected()


def _explain(detail: Any, section: type[Section]) -> str:
    """One line for one of pydantic's findings: where, what was expected, what was given, what to try."""
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        parents = [str(part) for part in detail["loc"][:-1]]
        return f"Unknown setting `{where}`. {did_you_mean(str(detail['loc'][-1]), _names(section, parents))}"
    if detail["type"] == "tuple_type":
        return f"`{where}`: expected a list, such as [{detail['input']}], but got {detail['input']!r}."
    wanted = detail["msg"][0].lower() + detail["msg"][1:]
    return f"`{where}`: {wanted}, but got {detail['input']!r}."


def _names(root: type[Section], parents: list[str]) -> list[str]:
    """Names that are valid in a section of a section."""
    section: Any = root
    for parent in parents:
        # In a mapping of sections (data.derive) the parent is a key of the user's own.
        section = get_args(section)[1] if get_origin(section) is dict else section.model_fields[parent].annotation
    return list(section.model_fields)
