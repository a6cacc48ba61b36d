"""Recovery: a classifier of real images reads drawings; good drawings give all away, empty ones nothing."""

import json

import numpy as np
import pytest
import torch

from audit_helpers import column
from efface.audit.intervals import Resampling
from efface.audit.recovery import blurred, fit_reader, recover, recovered
from efface.data.dataset import AttributeDataset, build_schema
from efface.errors import AuditError

HOW = Resampling(resamples=300)


def drawn(n=900, size=16, seed=0, missing=0):
    """y brightens the left half, z makes the images red, green or blue."""
    generator = np.random.default_rng(seed)
    y, z = generator.integers(0, 2, n), generator.integers(0, 3, n)
    images = generator.integers(0, 120, (n, 3, size, size))
    images[:, :, :, : size // 2] += 60 * y[:, None, None, None]
    images[np.arange(n), z] += 30
    z[generator.permutation(n)[:missing]] = -1
    third = n // 3
    splits = {s: np.arange(i * third, (i + 1) * third) for i, s in enumerate(("train", "validation", "test"))}
    labels = {"y": y, "z": z}
    schema = build_schema(labels, {"y": ("dark", "bright"), "z": ("red", "green", "blue")}, splits, "y", ["z"])
    return AttributeDataset(images.astype(np.uint8), labels, splits, schema, "drawn")


@pytest.fixture(scope="module")
def made():
    torch.set_num_threads(1)
    data = drawn(missing=30)
    return data, fit_reader(data, [data.target, *data.attributes], epochs=6, width=8)


def real(data):
    return lambda places: torch.from_numpy(data.images[data.rows("test")[places]]).float() / 255


def test_good_drawings_give_all_away_and_empty_ones_nothing(made):
    data, reader = made

    def grey(places):
        return torch.full((len(places), 3, 16, 16), 0.4)

    y, z = recover(reader, {"original": real(data), "unlearned": grey}, data, "y", how=HOW)
    assert (y.attribute, z.attribute) == ("y", "z")
    assert z.n == (data.split_labels("test", "z") >= 0).sum() < y.n == 300
    assert z.real.value > 0.9
    assert z.drawn["original"].value == z.real.value
    assert z.share["original"].value == 1.0
    assert z.drawn["unlearned"].value < 0.45
    assert z.share["unlearned"].value < 0.15
    assert z.change.ci[1] < -0.4
    assert z.change.value == pytest.approx(z.drawn["unlearned"].value - z.drawn["original"].value)
    values = json.loads(json.dumps(z.to_dict()))
    assert values["drawn"]["unlearned"]["value"] == z.drawn["unlearned"].value
    assert values["floors"]["label"] == pytest.approx(z.floors.label)


def test_drawings_without_colour_lose_z_and_keep_y(made):
    data, reader = made

    def without(places):
        return real(data)(places).mean(1, keepdim=True).expand(-1, 3, -1, -1)

    y, z = recover(reader, {"unlearned": without}, data, "y", how=HOW)
    assert y.drawn["unlearned"].value > 0.9
    assert z.drawn["unlearned"].value < 0.5
    assert z.change is None


def test_blurred_drawings_are_still_read(made):
    data, reader = made
    _, z = recover(reader, {"model": lambda places: blurred(real(data)(places), 4)}, data, "y", how=HOW)
    assert z.drawn["model"].value > 0.85


def test_a_classifier_that_fails_on_real_images_says_nothing():
    generator = np.random.default_rng(0)
    z, y = generator.integers(0, 2, 500), generator.integers(0, 2, 500)
    coin = generator.random(500) < 0.5
    found = recovered(coin, {"a": z == 0}, column(2), y, z, HOW)
    assert found.share == {"a": None}
    sees = recovered(generator.random(500) < 0.9, {"a": coin}, column(2), y, z, HOW)
    assert sees.share["a"].value < 0.2


def test_the_same_seed_is_the_same_reader_and_the_generator_is_left_alone():
    data = drawn(240, size=8)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two = (fit_reader(data, data.attributes, epochs=1, width=8, seed=1) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, two.network.state_dict()[name])
    assert not one.network.training


def test_every_epoch_is_told():
    ticks = []
    fit_reader(drawn(120, size=8), drawn(120, size=8).attributes, epochs=2, width=8, tick=lambda: ticks.append(1))
    assert len(ticks) == 2


def test_errors(made):
    data, reader = made
    with pytest.raises(AuditError, match="at least one column to read"):
        fit_reader(data, [])
    empty = drawn(120, size=8)
    empty.labels["z"][:] = -1
    with pytest.raises(AuditError, match="Nobody in the train split has a label of 'z'"):
        fit_reader(empty, empty.attributes)
    bad = {
        "small": lambda places: torch.zeros(len(places), 3, 8, 8),
        "outside": lambda places: torch.full((len(places), 3, 16, 16), 1.5),
        "bytes": lambda places: torch.zeros(len(places), 3, 16, 16, dtype=torch.uint8),
    }
    for role, draw in bad.items():
        with pytest.raises((AuditError, Exception), match=r"draws\['" + role + r"'\]|violates|type"):
            recover(reader, {role: draw}, data, "y", how=HOW)
    blank = AttributeDataset(data.images, {**data.labels, "z": data.labels["z"] * 0 - 1}, data.splits, data.schema)
    with pytest.raises(AuditError, match="Nobody in the test split has a label of 'z'"):
        recover(reader, {"model": real(data)}, blank, "y", how=HOW)
