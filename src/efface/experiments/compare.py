"""``efface compare``: every method on one preset under one budget, from one original per seed, before one suite."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from efface.audit import audit
from efface.audit.remembered import remembering
from efface.config import Config
from efface.data.dataset import AttributeDataset
from efface.data.load import load
from efface.engine.devices import device_for
from efface.errors import ConfigError, EffaceError, Problems, expected
from efface.experiments.cells import ORIGINAL, Cell, train_apart
from efface.experiments.environment import describe
from efface.experiments.folder import RunFolder, refuse_runs
from efface.experiments.joined import Joined, mark_of, read_joined
from efface.experiments.leaderboard import Leaderboard, portable_environment, row_of
from efface.experiments.runner import fresh_model, preflight, refuse_auto, refuse_several_processes
from efface.experiments.variants import ALL, Variants, chosen, settled
from efface.methods import find_method, released_data, restore
from efface.models import split

ROOT = Path("comparisons")


@dataclass
class Comparison:
    """A comparison under way.

    Attributes:
        config: The preset, with the audit that all methods meet.
        methods: Names of methods and variants, in the order in which they are made.
        seeds: Of data, weights and attackers, one after the other.
        overrides: ``method.…=value``; they win over what a method suggests.
        folder: Where everything goes.
        progress: Whether to show progress bars.
        console: Where remarks go.
        variants: Methods with settings of their own, by names of their own.
        joined: Rows that were made elsewhere, and are not made again.
    """

    config: Config
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    overrides: tuple[str, ...]
    folder: RunFolder
    progress: bool = True
    console: Console = field(default_factory=lambda: Console(quiet=True))
    variants: Variants = field(default_factory=dict)
    joined: Joined = field(default_factory=Joined)

    def __post_init__(self) -> None:
        self.environment = describe(self.config.seed)
        self.rows: list[dict[str, Any]] = []
        self.failed: list[dict[str, Any]] = []
        self.origins: dict[str, Mapping[str, Any]] = {}
        self._data: tuple[int, AttributeDataset] | None = None

    def settings(self, method: str, seed: int) -> Config:
        """Return the configuration of a cell: the preset's, what suits the method, the variant's, what the user set."""
        found = settled(self.config, method, self.variants).updated([*self.overrides, f"seed={seed}"])
        # What the preset asks to keep is asked of those that can.
        asked = find_method(found.method.name).preserves or "preserve" in self.variants.get(method, {})
        return found if asked else found.updated(["method.preserve=[]"])

    def mark(self, method: str, seed: int) -> str | None:
        """Return what a row of this comparison has as its fingerprint; None for cells that it has not."""
        return mark_of(self.settings(method, seed)) if method in self.methods and seed in self.seeds else None

    @property
    def kept(self) -> tuple[str, ...]:
        """Columns that the comparison asks to keep."""
        return self.config.updated(self.overrides).method.preserve

    def place(self, method: str, seed: int) -> Path:
        """Return the run folder of a cell."""
        return self.folder.path / f"seed-{seed}" / method

    def data(self, seed: int) -> AttributeDataset:
        """Return the data of a seed; those of the last one asked for are kept."""
        if self._data is None or self._data[0] != seed:
            self._data = seed, load(self.config.data, seed, self.progress)
        return self._data[1]

    def run(self) -> Leaderboard:
        """Make every cell that is not made, and the leaderboard after each."""
        for seed in self.seeds:
            with remembering():
                for method in self.methods:
                    self._attempt(method, seed)
                    self.leaderboard.write(self.folder.path)
        return self.leaderboard

    def _attempt(self, method: str, seed: int) -> None:
        """Make a cell, or note why it failed."""
        try:
            found = self.joined.rows.get((method, seed))
            self.rows.append(dict(found) if found else self._cell(method, seed))
        except Exception as error:  # memory, or a fault of ours: hours of other cells are not lost for it
            text = str(error)
            if not isinstance(error, EffaceError):
                self.console.print_exception()
                text = f"{type(error).__name__}: {error}".splitlines()[0]
            self.failed.append({"method": method, "seed": seed, "error": text})
            self.console.print(f"{method}, seed {seed}, failed: {text}", highlight=False, markup=False, style="red")

    @property
    def leaderboard(self) -> Leaderboard:
        """What there is so far."""
        done = {(one["method"], one["seed"]) for one in (*self.rows, *self.failed)}
        pending = [
            {"method": method, "seed": seed}
            for seed in self.seeds
            for method in self.methods
            if (method, seed) not in done
        ]
        return Leaderboard(self.rows, self.failed, pending, self.about)

    @property
    def about(self) -> dict[str, Any]:
        """What the leaderboard says of itself."""
        config = self.config
        return {
            "name": config.name,
            "suite": config.audit.suite if config.audit.attackers is None else ", ".join(config.audit.attackers),
            "split": config.audit.split,
            "target": config.data.target,
            "attributes": list(config.data.attributes),
            "preserve": list(self.kept),
            "variants": {name: dict(self.variants[name]) for name in self.methods if name in self.variants},
            "joined": self._origins(),
            "environment": self.environment,
            "config": config.model_dump(mode="json"),
        }

    def _origins(self) -> list[Mapping[str, Any]]:
        """Return what other calls rows are of: of joined files, and of this folder's finished cells."""
        known = {one["started"]: one for one in (*self.joined.environments, *self.origins.values())}
        return [one for started, one in known.items() if started != self.environment["started"]]

    def _cell(self, method: str, seed: int) -> dict[str, Any]:
        """Return the row of a cell: the finished one, or a new one."""
        config, folder = self.settings(method, seed), RunFolder(self.place(method, seed))
        stamp = {"fingerprint": config.fingerprint(), "audit": config.audit.model_dump(mode="json")}
        kept = folder.read_json("cell.json")
        found, training = folder.read_json("audit.json"), folder.read_json("training.json")
        if kept.get("stamp") != stamp or not found or not training:
            self.console.print(f"{method}, seed {seed}", highlight=False)
            training = self._trained(method, seed)
            found = self._audited(config, folder, training)
            kept = {"stamp": stamp, "environment": portable_environment(self.environment)}
            folder.write_json("cell.json", kept)
        row = {**row_of(method, seed, found, training, self.kept), "fingerprint": self.mark(method, seed)}
        # Cells of before there was such a note are told to be of this call.
        environment = kept.get("environment") or portable_environment(self.environment)
        self.origins[environment["started"]] = environment
        return {**row, "made": environment["started"]}

    def _trained(self, method: str, seed: int) -> dict[str, Any]:
        """Return time and memory of a cell's training; train it, and before it the original, if that is not done."""
        config, folder = self.settings(method, seed), RunFolder(self.place(method, seed))
        try:
            folder.begin(config, resume=True, overwrite=False)
        except ConfigError as error:
            raise ConfigError(f"{error} Or delete that folder, and it is made again.") from None
        if found := folder.read_json("training.json"):
            return found
        original = None if method == ORIGINAL else self.place(ORIGINAL, seed)
        if original is not None:
            self._trained(ORIGINAL, seed)
        found = train_apart(Cell(config, folder.path, original, self.progress))
        folder.write_json("training.json", found)
        return found

    def _audited(self, config: Config, folder: RunFolder, training: dict[str, Any]) -> dict[str, Any]:
        """Attack a cell's model and the original; write audit.json."""
        data, method = self.data(config.seed), config.method.name
        models = {}
        for name, place, file in (
            (ORIGINAL, self.place(ORIGINAL, config.seed), ORIGINAL),
            ("model", folder.path, ORIGINAL if method == ORIGINAL else "model"),
        ):
            made = restore(fresh_model(config, data, name), RunFolder(place).weights(file))
            models[name] = made.to(device_for(config.engine))
        at = config.model.at if isinstance(config.model.at, str) else config.model.at[0]
        data = data.preserving(config.method.preserve)
        released = released_data(data, folder.path, config.method, config.seed)
        found = audit(
            models["model"],
            released,
            split(models["model"], at).at[0],
            original=models[ORIGINAL],
            # A model that was trained on masked images is meant for such images; the original is not.
            original_data=data,
            config=config.audit,
            seed=config.seed,
            progress=self.progress,
            name=f"{self.config.name}, {method}",
        )
        found = replace(found, model={**found.model, "name": config.model.name, "auxiliary": training["auxiliary"]})
        phases = {"train_unlearned_s": training["train_s"], "peak_rss_mb": training["peak_rss_mb"]}
        found = replace(found, phases={**found.phases, **phases})
        folder.write_json("audit.json", found.to_json())
        return found.to_dict()


def compare(
    config: Config,
    methods: str | Sequence[str] = ALL,
    seeds: int = 3,
    out: Path | None = None,
    *,
    variants: Variants | None = None,
    suite: str | None = None,
    overrides: Sequence[str] = (),
    join: Sequence[Path] = (),
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    console: Console | None = None,
) -> tuple[Leaderboard, Path]:
    """Compare methods of unlearning; what is finished is kept, and not made again on ``resume``.

    Args:
        config: The preset: data, model, cut, engine.
        methods: Names of methods and variants, or ``all``.
        variants: Methods with settings of their own, by names of their own (``read_variants``).
        seeds: How many; the first is the preset's.
        out: Folder; None: ``comparisons/NAME``.
        suite: Suite of attackers that all models meet; None: as configured, else ``standard``.
        overrides: ``method.…=value`` for all methods; they win over what a method suggests.
        join: Files leaderboard.json of the same comparison, made elsewhere: their rows are not made again.
        resume: Go on with a comparison, also with more methods or seeds.
        overwrite: Replace the comparison that is there.
        progress: Show progress bars.
        console: Where remarks go.

    Returns:
        The leaderboard, and the folder with leaderboard.json, leaderboard.md, pareto.svg, pareto.png and a run folder
        per method and seed.

    Raises:
        ConfigError: A name, number or setting is wrong, or the folder holds something else; all problems at once.
    """
    variants = variants or {}
    names = chosen(methods, variants)
    if seeds < 1:
        raise ConfigError(expected("--seeds", "at least 1", seeds))
    keys = {text.partition("=")[0].strip() for text in overrides}
    if "method.name" in keys:
        raise ConfigError("`method.name` can't be set for a comparison: --methods says which are made.")
    if "method" in keys:
        raise ConfigError("`method` can't be set as a whole for a comparison: name its settings, method.KEY=VALUE.")
    refuse_auto(config, "efface compare")
    refuse_several_processes(config)
    config = with_suite(config, suite)
    folder = RunFolder(Path(out)) if out is not None else RunFolder(ROOT / config.name)
    own = tuple(text for text in overrides if text.startswith("method."))
    numbers = tuple(config.seed + number for number in range(seeds))
    comparison = Comparison(config, names, numbers, own, folder, progress, console or Console(quiet=True), variants)
    comparison.joined = read_joined([Path(path) for path in join], config, comparison.about, comparison.mark)
    if join:
        there, wanted = len(comparison.joined.rows), len(names) * len(numbers)
        comparison.console.print(f"{there} of {wanted} rows were made before, with the same settings.", highlight=False)
    check_folder(folder, config, resume, overwrite)
    check_methods(comparison)
    if overwrite and not resume:
        for place in folder.path.glob("seed-*"):
            shutil.rmtree(place)
    folder.begin(config, resume, overwrite)
    return comparison.run(), folder.path


def with_suite(config: Config, suite: str | None) -> Config:
    """Return the configuration with the attackers that all models meet, without what the table does not show.

    Example:
        >>> with_suite(Config(), None).audit.suite
        'standard'
    """
    values = config.model_dump()
    if suite is not None:
        # A suite that is asked for wins over attackers that were configured.
        values["audit"] |= {"suite": suite, "attackers": None}
    elif config.audit.attackers is None and config.audit.suite == "custom":
        values["audit"]["suite"] = "standard"
    if config.audit.beyond is None:
        values["audit"]["beyond"] = ("selectivity",)
    values["audit"]["reconstruction"] = False
    return Config.from_mapping(values)


def check_folder(folder: RunFolder, config: Config, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that holds another comparison, or a run.

    Raises:
        ConfigError: It does.
    """
    refuse_runs(folder.path)
    folder.check(config, resume, overwrite)


def check_methods(comparison: Comparison) -> None:
    """Try what can fail before hours are spent, for every method; all problems at once.

    Raises:
        ConfigError: A setting does not fit a method or the data.
    """
    problems = Problems(ConfigError)
    for text in _wrong(comparison):
        problems.add(text)
    problems.raise_if_any()


def _wrong(comparison: Comparison) -> Iterator[str]:
    seed, first = comparison.config.seed, comparison.methods[0]
    configs, wrong = {}, []
    for name in comparison.methods:
        try:
            configs[name] = comparison.settings(name, seed)
        except ConfigError as error:
            wrong += [f"{name}: {text}" for text in error.problems or (str(error),)]
    if wrong:
        yield from wrong
        return
    whole = [name for name, one in configs.items() if one.method.name == ORIGINAL and name != ORIGINAL]
    for name in whole:
        yield f"{name}: its method is the preset's, the original, which is one for all. Give the variant a `name`."
    if whole:
        return
    data = preflight(configs[first], lambda: comparison.data(seed))
    found: dict[str, list[str]] = {}
    for method in comparison.methods[1:]:
        config = configs[method].method
        try:
            find_method(config.name).check(config, data)
        except EffaceError as error:
            for text in error.problems or (str(error),):
                found.setdefault(text, []).append(method)
    yield from (f"{', '.join(methods)}: {text}" for text, methods in found.items())


__all__ = ["Comparison", "compare"]
