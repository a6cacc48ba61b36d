"""Settings: strict, told all at once, written and read back, bound to a fingerprint."""

from importlib import resources

import pytest
import yaml

from efface.config import Config, MaskConfig, MethodConfig, override
from efface.errors import ConfigError, EffaceError
from efface.experiments import find_config, presets
from efface.experiments.variants import settled
from efface.methods import find_method


def test_yaml_round_trip(tmp_path):
    config = Config.from_mapping({"name": "a", "engine": {"epochs": 3}, "model": {"at": ["layer2", "layer3"]}})
    path = tmp_path / "a.yaml"
    path.write_text(config.to_yaml())
    assert Config.from_yaml(path) == config


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        Config.from_mapping({"engine": {"epoch": 3, "batch_size": 0}, "method": {"variant": "both"}, "sead": 1})
    text = str(caught.value)
    assert "4 problems" in text
    assert "Unknown setting `engine.epoch`. Did you mean 'epochs'?" in text
    assert "`engine.batch_size`: input should be greater than or equal to 2, but got 0." in text
    assert "`method.variant`: input should be 'conditional', 'paper', 'conditional_decoder' or " in text
    assert "but got 'both'." in text
    assert "Unknown setting `sead`. Did you mean 'seed'?" in text


def test_overrides_are_yaml_values():
    values = override({"engine": {"epochs": 3}}, ["engine.epochs=5", "data.attributes=[race, age_bin]", "seed=2"])
    assert values == {"engine": {"epochs": 5}, "data": {"attributes": ["race", "age_bin"]}, "seed": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs", "section.name=value"),
        ("seed.deep=1", "is a value, not a section"),
        ("seed=[1", "is not a YAML value"),
    ],
)
def test_bad_overrides(text, message):
    with pytest.raises(ConfigError, match=message):
        override({"seed": 0}, [text])


@pytest.mark.parametrize("content", ["- a\n", "a: [", "\x00"])
def test_unreadable_files(tmp_path, content):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"bad.yaml"):
        Config.from_yaml(path)


def test_fingerprint_follows_what_changes_the_weights():
    base = Config()
    same = base.updated(["audit.epochs=3", "engine.log_every=7", "engine.checkpoint_every=9", "data.cache=/elsewhere"])
    assert same.fingerprint() == base.fingerprint()
    for change in ("seed=1", "engine.lr=0.1", "method.removal_weight=9", "data.flip=false", "model.at=layer3"):
        assert base.updated([change]).fingerprint() != base.fingerprint(), change


def test_every_preset_is_valid_and_described():
    assert {"toyfaces-smiling-glasses", "utkface-gender-race", "celeba-smiling-male", "cifar10-living-class"} <= set(
        presets()
    )
    for name, text in presets().items():
        config = find_config(name)
        assert config.name == name
        assert text
        assert yaml.safe_load(config.to_yaml())


def test_unknown_preset_and_missing_file():
    with pytest.raises(ConfigError, match="Did you mean 'utkface-gender-race'"):
        find_config("utkface-gender-rase")
    with pytest.raises(ConfigError, match=r"No configuration file 'no.yaml'"):
        find_config("no.yaml")


def test_configurations_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 3  # type: ignore[misc]


def test_every_error_is_of_one_tree():
    from efface import errors

    leaves = [
        e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception) and e is not EffaceError
    ]
    assert len(leaves) >= 7
    for leaf in leaves:
        assert issubclass(leaf, EffaceError)
        assert issubclass(leaf, ValueError | TypeError | RuntimeError)


def test_a_method_that_is_named_brings_the_settings_that_suit_it(tmp_path):
    suggested = find_method("quantised").suggested
    demo = find_config("toyfaces-smiling-glasses").method
    found = find_config("toyfaces-smiling-glasses", ["method.name=quantised"]).method
    assert {name: getattr(found, name) for name in suggested} == dict(suggested)
    assert (found.keep, found.preserve_weight) == (demo.keep, demo.preserve_weight)
    of_mask = ["method.name=masked_retrain", "method.mask.threshold=0.3"]
    masked = find_config("toyfaces-smiling-glasses", of_mask).method.mask
    assert masked == MaskConfig(threshold=0.3), "one setting of a section leaves the others"
    # What a user sets wins, in a file and on the command line; so does what a preset was tuned to for its own method.
    changes = ["method.name=quantised", "method.target_weight=3"]
    assert find_config("toyfaces-smiling-glasses", changes).method.target_weight == 3
    preset = find_config("utkface-gender-race")
    assert preset.method.removal_weight == 24 != suggested["removal_weight"]
    path = tmp_path / "mine.yaml"
    path.write_text("method: {name: quantised, removal_weight: 7}")
    mine = find_config(str(path)).method
    assert (mine.removal_weight, mine.target_weight) == (7, suggested["target_weight"])
    path.write_text(preset.to_yaml())
    assert find_config(str(path)) == preset
    whole = find_config("utkface-gender-race", ["method={name: quantised}"]).method
    assert (whole.target_weight, whole.heads, whole.input_weight) == (24, ("conv",), MethodConfig().input_weight)
    # What suits one method is not left to another.
    path.write_text("method: {name: quantised, target_weight: 24, removal_weight: 48, heads: [conv]}")
    other = find_config(str(path), ["method.name=narrow"]).method
    assert (other.target_weight, other.removal_weight, other.heads) == (
        MethodConfig().target_weight, MethodConfig().removal_weight, MethodConfig().heads,
    )  # fmt: skip


def test_a_preset_has_settings_for_other_methods_than_its_own(tmp_path):
    preset = find_config("utkface-gender-race")
    assert (preset.method.name, preset.method.removal_weight, preset.method.preserve_weight) == ("quantised", 24, 16)
    narrow = find_config("utkface-gender-race", ["method.name=narrow", "method.target_weight=5"])
    assert (narrow.method.removal_weight, narrow.method.preserve_weight, narrow.method.target_weight) == (16, 8, 5)
    assert narrow.method.preserve == ("age_bin",)
    assert narrow.method.heads == ("conv", "pooled", "grid", "ridge")
    # A method's own suggestion wins over what is meant for all others.
    assert find_config("utkface-gender-race", ["method.name=maxent"]).method.removal_weight == 1
    # They are in what is run, once: the run's own file does not put them over it again.
    path = tmp_path / "run.yaml"
    path.write_text(narrow.to_yaml())
    assert find_config(str(path)) == narrow
    assert find_config(str(path), ["method.name=quantised"]).method.removal_weight == 48
    path.write_text(
        "method: {name: quantised, code: {levels: [2, 2], width: 32}}\n"
        "other_methods: {code: {levels: [3]}, heads: [grid]}"
    )
    own, other = find_config(str(path)), find_config(str(path), ["method.name=detachment"])
    assert (own.method.code.levels, own.method.heads) == ((2, 2), ("conv",))
    assert (other.method.code.levels, other.method.code.width, other.method.heads) == ((3,), 32, ("grid",))
    again = tmp_path / "again.yaml"
    again.write_text(own.to_yaml())
    assert find_config(str(again)) == own
    for code in (
        find_config(str(again), ["method.name=detachment"]).method.code,
        settled(own, "detachment", {}).method.code,
    ):
        assert code == other.method.code
    # Methods that can't keep columns are not asked to by a preset; a user who asks is told.
    assert find_config("utkface-gender-race", ["method.name=leace"]).method.preserve == ()
    assert find_config("utkface-gender-race", ["method.name=leace", "method.preserve=[age_bin]"]).method.preserve
    path.write_text("method: null")
    assert find_config(str(path), ["method={name: narrow}"]).method.name == "narrow"
    with pytest.raises(ConfigError, match="`method`: input should be a valid dictionary"):
        find_config(str(path))
    for wrong, texts in {
        "{heds: [conv]}": ("Unknown setting `other_methods.heds`", "Did you mean 'heads'"),
        "{removal_weight: -1}": ("`other_methods.removal_weight`", "-1"),
        "{name: narrow}": ("`other_methods`: settings only",),
        "[1]": ("`other_methods`", "[1]"),
    }.items():
        path.write_text(f"other_methods: {wrong}")
        with pytest.raises(ConfigError) as caught:
            find_config(str(path))
        assert all(text in str(caught.value) for text in texts), str(caught.value)


@pytest.mark.parametrize("name", sorted(presets()))
def test_what_a_preset_says_wins_over_what_suits_its_method(name):
    file = resources.files("efface.experiments").joinpath(f"presets/{name}.yaml")
    said = yaml.safe_load(file.read_text("utf-8"))["method"]
    found = find_config(name).model_dump(mode="json")["method"]
    assert {key: found[key] for key in said if not isinstance(said[key], dict)} == {
        key: value for key, value in said.items() if not isinstance(value, dict)
    }


@pytest.mark.parametrize("section", ["3", "[name]", "{name: 3}", "{name: [a]}"])
def test_a_section_that_is_none_is_told_as_before(tmp_path, section):
    path = tmp_path / "mine.yaml"
    path.write_text(f"method: {section}")
    with pytest.raises(ConfigError, match="`method"):
        find_config(str(path))
    path.write_text("method: {name: quantized}")  # wrong, and told where methods are looked up
    assert find_config(str(path)).method.name == "quantized"


def test_few_codes_are_softened_and_runs_of_before_keep_their_fingerprints():
    def marked(**code):
        return Config.from_mapping({"method": {"name": "quantised", "code": code}}).fingerprint()

    assert marked() == marked(soften=0) != marked(soften=0.3)
    assert marked(levels=(3,)) == marked(levels=(3,), soften=0.3) != marked(levels=(3,), soften=0)
    assert marked(levels=(2, 2)) == marked(levels=(2, 2), soften=0)
    assert marked() == marked(target_table=0) != marked(target_table=1) != marked(kept_table=1) != marked()
