"""Drawn faces: exact joint distributions, faces that depend on their own row only, and every error."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efface.data._canvas import Canvas, View
from efface.data._portrait import paint_faces
from efface.data._traits import RANGES, Stream, draw_traits
from efface.data.toyfaces import (
    FACTORS,
    VERSION,
    contact_sheet,
    draw_faces,
    draw_labels,
    joint,
    load_toyfaces,
    sample_sheet,
)
from efface.errors import DataError

NAMES = list(FACTORS)


def canvas(n, size, seed):
    """The pose of the first faces of a seed."""
    return Canvas(draw_traits(Stream(seed, "traits").uniform(n, len(RANGES))), size)


@st.composite
def forests(draw):
    """Correlations that form a forest: each factor may hang on one that comes before it."""
    order = draw(st.permutations(NAMES))
    correlation = {}
    for i, child in enumerate(order[1:], 1):
        parent = draw(st.sampled_from([None, *order[:i]]))
        if parent is not None:
            binary = len(FACTORS[parent]) == len(FACTORS[child]) == 2
            correlation[f"{parent}:{child}"] = draw(st.floats(-1 if binary else 0, 1))
    return correlation


def all_factors(correlation):
    """Oracle: the distribution over all 256 combinations, as the product of pair over product of marginals."""
    table = np.ones([len(classes) for classes in FACTORS.values()])
    for axis, classes in enumerate(FACTORS.values()):
        shape = [1] * len(NAMES)
        shape[axis] = len(classes)
        table = table * np.full(shape, 1 / len(classes))
    for key, rho in correlation.items():
        first, second = key.split(":")
        pair = joint({key: rho}, first, second) * (len(FACTORS[first]) * len(FACTORS[second]))
        order = sorted((NAMES.index(first), NAMES.index(second)))
        pair = pair if NAMES.index(first) == order[0] else pair.T
        shape = [1] * len(NAMES)
        for axis in order:
            shape[axis] = len(FACTORS[NAMES[axis]])
        table = table * pair.reshape(shape)
    return table


@settings(max_examples=40, deadline=None)
@given(forests(), st.sampled_from(NAMES), st.sampled_from(NAMES))
def test_joint_marginalises_the_distribution_over_all_factors(correlation, target, attribute):
    table = all_factors(correlation)
    y, z = NAMES.index(target), NAMES.index(attribute)
    if y == z:
        wanted = np.eye(len(FACTORS[target])) / len(FACTORS[target])
    else:
        wanted = table.sum(tuple(axis for axis in range(len(NAMES)) if axis not in (y, z)))
        wanted = wanted if y < z else wanted.T
    got = joint(correlation, target, attribute)
    np.testing.assert_allclose(got, wanted, atol=1e-12)
    np.testing.assert_allclose(got.sum(0), 1 / len(FACTORS[attribute]), atol=1e-12)
    np.testing.assert_allclose(got.sum(1), 1 / len(FACTORS[target]), atol=1e-12)
    np.testing.assert_allclose(got, joint(correlation, attribute, target).T, atol=1e-12)


@pytest.mark.parametrize("rho", [-1.0, -0.5, 0.0, 0.6, 1])
def test_binary_pair_is_the_stated_mixture(rho):
    same = (1 + rho) / 4
    np.testing.assert_allclose(
        joint({"smiling:glasses": rho}, "smiling", "glasses"), [[same, 0.5 - same], [0.5 - same, same]], atol=1e-15
    )


def test_matching_of_two_and_four_classes_keeps_both_uniform():
    eighth = joint({"smiling:skin_tone": 1.0}, "smiling", "skin_tone") * 4
    np.testing.assert_allclose(eighth, [[1, 1, 0, 0], [0, 0, 1, 1]])


CHAIN = {"smiling:glasses": 0.6, "glasses:skin_tone": 0.8, "hat:smiling": -0.5, "skin_tone:hair_colour": 1.0}


@pytest.mark.parametrize("correlation", [None, CHAIN])
def test_counts_and_label_floors_agree_with_joint(correlation):
    n = 40_000
    labels = draw_labels(n, 5, correlation)
    for target in NAMES:
        for attribute in NAMES:
            exact = joint(correlation, target, attribute)
            counts = np.zeros_like(exact)
            np.add.at(counts, (labels[target], labels[attribute]), 1)
            assert np.all(np.abs(counts / n - exact) <= 5 * np.sqrt(exact * (1 - exact) / n))
            assert counts.max(1).sum() / n == pytest.approx(exact.max(1).sum(), abs=0.012)


def test_exact_label_floor_of_a_chain():
    floor = joint(CHAIN, "hat", "glasses").max(1).sum()
    assert floor == pytest.approx(0.5 * (1 + 0.5 * 0.6))


def test_labels_of_fewer_rows_are_the_first_of_more():
    many, few = draw_labels(1000, 3, CHAIN), draw_labels(10, 3, CHAIN)
    assert all(np.array_equal(many[name][:10], few[name]) for name in NAMES)
    assert list(few) == NAMES
    assert any((draw_labels(1000, 4, CHAIN)[name] != many[name]).any() for name in NAMES)


@pytest.mark.parametrize("size", [32, 48, 75])
def test_a_face_depends_on_its_row_only(size):
    labels = draw_labels(150, 1)
    whole = draw_faces(labels, size, seed=2, batch=150)
    assert whole.dtype == np.uint8
    for batch in (1, 7, 32):
        np.testing.assert_array_equal(draw_faces(labels, size, seed=2, batch=batch), whole)
    few = {name: values[:9] for name, values in labels.items()}
    np.testing.assert_array_equal(draw_faces(few, size, seed=2), whole[:9])
    others = {name: np.concatenate([values[:9], 1 - values[9:] % 2]) for name, values in labels.items()}
    np.testing.assert_array_equal(draw_faces(others, size, seed=2)[:9], whole[:9])
    assert not np.array_equal(draw_faces(labels, size, seed=3), whole)


def whole_window(self, left, right, top, bottom, rows=None):
    """Oracle of Canvas.window: all pixels."""
    full, some = slice(None), slice(None) if rows is None else rows
    traits = {name: values[some] for name, values in self.traits.items()}
    return View(self.u[some], self.v[some], traits, self.pixel[some], self.pixels, (some, full, full, full))


@pytest.mark.parametrize("smiling", [0, 1])
def test_windows_hold_the_shapes_at_the_ends_of_every_range(smiling, monkeypatch):
    ends = (np.random.default_rng(0).random((48, len(RANGES))) > 0.5) * (1 - 2.0**-53)
    labels = {name: np.full(48, len(classes) - 1) for name, classes in FACTORS.items()}
    labels["smiling"] = np.full(48, smiling)
    each = []
    for i in range(48):
        one = {name: values[:1] for name, values in labels.items()}
        each.append(paint_faces(draw_traits(ends[i : i + 1]), one, 128))
    monkeypatch.setattr(Canvas, "window", whole_window)
    np.testing.assert_array_equal(np.concatenate(each), paint_faces(draw_traits(ends), labels, 128))


def test_the_same_version_draws_the_same_faces():
    """Golden values: where they change, raise VERSION, for caches and results are keyed by it."""
    labels = draw_labels(100, 0, {"smiling:glasses": 0.6})
    table = np.stack(list(labels.values())).astype("<i8")
    digests = [hashlib.sha256(array.tobytes()).hexdigest()[:16] for array in (table, draw_faces(labels, 48, 0))]
    assert (VERSION, *digests) == (1, "f74e7568d798b346", "036c94c7623c6f96")


REGIONS = {  # face coordinates (left, right, top, bottom) that a flip may change
    "glasses": (-0.58, 0.58, -0.20, 0.30),
    "smiling": (-0.36, 0.36, 0.28, 0.68),
    "hat": (-1.04, 1.04, -1.0, -0.08),
    "age_lines": (-0.50, 0.50, -0.34, 0.56),
}


@pytest.mark.parametrize("factor", REGIONS)
def test_flipping_a_label_changes_its_region_only(factor):
    n, size = 200, 48
    labels = draw_labels(n, 7)
    without, with_it = (draw_faces({**labels, factor: np.full(n, code)}, size, 7) for code in (0, 1))
    changed = (without != with_it).any(1)
    place = canvas(n, size, 7)
    left, right, top, bottom = REGIONS[factor]
    edge = place.pixel
    inside = (place.u > left - edge) & (place.u < right + edge) & (place.v > top - edge) & (place.v < bottom + edge)
    assert not (changed & ~inside).any()
    assert (changed.sum((1, 2)) >= 10).all()


def test_glasses_leave_most_of_the_face():
    n = 200
    labels = draw_labels(n, 8)
    pair = [draw_faces({**labels, "glasses": np.full(n, code)}, 48, 8).astype(int) for code in (0, 1)]
    strong = (np.abs(pair[1] - pair[0]).max(1) > 12).mean((1, 2))
    assert strong.min() > 0.01, "glasses must be seen"
    assert strong.max() < 0.20, "glasses must not cover the face"


def test_all_sizes_show_the_same_people():
    labels = draw_labels(20, 1)
    small, large = (draw_faces(labels, size, 1).astype(float) for size in (32, 128))
    shrunk = large.reshape(20, 3, 32, 4, 32, 4).mean((3, 5))
    assert np.abs(shrunk - small).mean() < 8


def test_mean_images_of_a_nuisance_do_not_follow_the_labels():
    """Faces of one seed have the same background corner whatever the labels say."""
    labels = draw_labels(60, 1)
    others = draw_labels(60, 2)
    corner = (slice(None), slice(None), slice(40, 48), slice(0, 2))
    place = canvas(60, 48, 3)
    outside = (np.abs(place.u) > 0.9)[:, 40:48, :2].all((1, 2))
    assert outside.sum() > 10
    np.testing.assert_array_equal(
        draw_faces(labels, 48, 3)[corner][outside], draw_faces(others, 48, 3)[corner][outside]
    )


def test_noise_is_centred_with_unit_variance():
    noise = Stream(0, "noise").grain(400, 32)
    assert abs(noise.mean()) < 0.005
    assert noise.std() == pytest.approx(1, abs=0.005)
    assert abs(np.corrcoef(noise[:, 0].ravel(), noise[:, 1].ravel())[0, 1]) < 0.01


def test_load_makes_a_data_set_of_all_factors():
    data = load_toyfaces("hat", ["glasses", "skin_tone"], n=300, size=32, seed=1)
    assert len(data) == 300
    assert data.image_shape == (3, 32, 32)
    assert data.target.classes == FACTORS["hat"]
    assert [column.name for column in data.attributes] == ["glasses", "skin_tone"]
    assert set(data.schema.columns) == set(FACTORS)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 210, "validation": 30, "test": 60}
    assert Counter(np.concatenate(list(data.splits.values())).tolist()) == Counter(range(300))
    np.testing.assert_array_equal(data.images, draw_faces(draw_labels(300, 1), 32, 1))


def test_fingerprint_follows_content():
    base = {"n": 200, "size": 32}
    variants = [{}, {"n": 210}, {"size": 33}, {"seed": 1}, {"correlation": {"smiling:glasses": 0.5}}]
    variants += [{"test_fraction": 0.3}, {"validation_fraction": 0.2}]
    prints = [load_toyfaces(**{**base, **change}).fingerprint for change in variants]
    assert len(set(prints)) == len(variants)
    assert load_toyfaces(**base).fingerprint == prints[0]
    turned = load_toyfaces(**base, correlation={"glasses:smiling": 0.5})
    assert turned.fingerprint == prints[4], "a link has no direction"
    straight = load_toyfaces(**base, correlation={"smiling:glasses": 0.5})
    assert all(np.array_equal(turned.labels[name], straight.labels[name]) for name in NAMES)
    assert load_toyfaces("hat", **base).fingerprint == prints[0], "roles of the columns are not content"


def test_sheets():
    picture = contact_sheet(np.zeros((5, 3, 10, 10), np.uint8), columns=3, zoom=2, gap=1)
    assert picture.size == (2 * (3 * 11 + 1), 2 * (2 * 11 + 1))
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    assert picture.getpixel((2, 2)) == (0, 0, 0)
    assert sample_sheet().size == (2 * (12 * 50 + 2), 2 * (4 * 50 + 2))


@pytest.mark.parametrize(
    ("correlation", "words"),
    [
        ({"smiling:glases": 0.5}, ["no factor 'glases'", "Did you mean 'glasses'?", "Valid names: smiling"]),
        ({"smiling": 0.5}, ["keyed by 'factor:factor'", "'smiling:glasses'"]),
        ({"a:b:c": 0.5}, ["keyed by 'factor:factor'"]),
        ({"hat:hat": 0.5}, ["links a factor with itself"]),
        ({"smiling:glasses": 1.5}, ["`correlation['smiling:glasses']`", "from -1 to 1", "1.5"]),
        ({"smiling:glasses": float("nan")}, ["from -1 to 1", "nan"]),
        ({"smiling:glasses": True}, ["from -1 to 1", "True"]),
        ({"smiling:skin_tone": -0.1}, ["from 0 to 1", "Only two binary factors"]),
        (
            {"smiling:hat": 0.1, "hat:glasses": 0.1, "glasses:smiling": 0.1},
            ["closes a circle", "glasses – hat – smiling"],
        ),
        ({"smiling:hat": 0.1, "hat:smiling": 0.1}, ["closes a circle"]),
        (
            {"smilin:hat": 2.0, "x": 0.1, "hat:glasses": -3.0},
            ["4 problems", "'smilin'", "but got 2.0", "keyed by", "but got -3.0"],
        ),
    ],
)
def test_errors_of_correlations(correlation, words):
    for call in (lambda: draw_labels(10, 0, correlation), lambda: joint(correlation, "smiling", "hat")):
        with pytest.raises(DataError) as error:
            call()
        assert all(word in str(error.value) for word in words), str(error.value)


def test_errors_of_names_and_numbers():
    with pytest.raises(DataError, match=r"(?s)2 problems.*`target`.*Did you mean 'smiling'.*`attribute`.*'hut'"):
        joint(None, "smilng", "hut")
    with pytest.raises(DataError, match=r"(?s)2 problems.*`n`.*at least 1.*`seed`.*at least 0"):
        draw_labels(0, -1)


def test_errors_of_labels():
    labels = draw_labels(4, 0)
    bad = {**labels, "hat": np.array([0, 1, 2, 0]), "glasses": np.zeros(3, int), "hats": np.zeros(4, int)}
    bad["age_lines"] = np.zeros(4)
    del bad["smiling"]
    with pytest.raises(DataError) as error:
        draw_faces(bad, size=20, seed=-1, batch=0)
    words = [
        "8 problems",
        "`seed`",
        "`batch`",
        "32 to 128",
        "No factor 'hats'",
        "Did you mean 'hat'",
        "missing: smiling",
    ]
    words += ["`labels['hat']` to be from 0 to 1", "`labels['age_lines']` to be a row of integers", "one length"]
    for word in words:
        assert word in str(error.value)


def test_errors_of_loading():
    with pytest.raises(DataError) as error:
        load_toyfaces("smile", ["hat", "glass"], n=0, size=129, validation_fraction=0.5, test_fraction=0.5)
    for word in ["'smile'", "'glass'", "`n`", "129", "Usual: 48 or 64", "leave some for training"]:
        assert word in str(error.value)
    with pytest.raises(DataError, match=r"(?s)`validation_fraction`.*`test_fraction`"):
        load_toyfaces(n=100, validation_fraction=0.0, test_fraction=1.5)
    with pytest.raises(DataError, match="both the target and an attribute"):
        load_toyfaces("hat", ["hat"], n=100, size=32)
    with pytest.raises(DataError, match=r"Try \['hat'\]"):
        load_toyfaces("smiling", "hat", n=100)
    with pytest.raises(DataError, match="split is empty"):
        load_toyfaces(n=4, size=32)
