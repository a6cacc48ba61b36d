"""The audit of embeddings: leaks, splits, targets that are there or not, finite codes, all problems at once."""

import numpy as np
import pyarrow as pa
import pytest

import efface
from efface.audit.embeddings import FRACTIONS, audit_embeddings, load_embeddings, make_subject
from efface.config import AuditConfig
from efface.errors import AuditError, DataError
from efface.report.document import plain_text
from efface.report.schema import findings

N = 1500
QUICK = AuditConfig(attackers=("linear",), resamples=200, beyond=())


def drawn(leak=1.0, seed=0, n=N):
    generator = np.random.default_rng(seed)
    y, z = generator.integers(0, 2, n), generator.integers(0, 3, n)
    h = generator.normal(size=(n, 6))
    h[:, 0] += 4 * y
    h[:, 1] += leak * z
    return h, {"y": np.array(["no", "yes"])[y], "z": np.array(["a", "b", "c"])[z]}


def quick(*arguments, **settings):
    return audit_embeddings(*arguments, config=settings.pop("config", QUICK), progress=False, **settings)


@pytest.fixture(scope="module")
def result():
    h, labels = drawn(leak=0.0)
    return quick(h, labels, attributes="z", target="y", original=drawn(leak=2.0)[0], name="mine")


def test_a_leak_is_found_and_its_absence_is_not_called_one(result):
    entry = result.attributes["z"]
    assert entry["verdict"] == "at the floor for this suite"
    assert entry["original_best"] > 0.6
    assert entry["excess_leakage"] < 0.2
    leaky = quick(*drawn(leak=1.5), attributes=["z"], target="y").attributes["z"]
    assert leaky["verdict"] == "leaks"


def test_the_probe_stands_for_the_model(result):
    assert result.fidelity["value"] > 0.95
    assert result.fidelity["original"] > 0.95
    assert any("linear probe" in text for text in result.warnings)
    assert result.threat["view"] == "embeddings"
    assert result.model["at"] == "embeddings"
    assert result.model["name"] is None


def test_the_result_is_an_audit_like_any_other(result, tmp_path):
    assert list(findings(result.to_dict())) == []
    assert "mine" in result.save_report(tmp_path / "report.html").read_text()
    assert "No attacker in this suite exceeded" in result.to_markdown()
    assert "z (3 classes" in result.summary()
    assert result.to_text() == plain_text(result.to_dict())


def test_without_a_target_the_floor_is_the_majority():
    h, labels = drawn()
    found = quick(h, {"z": labels["z"]}, attributes="z")
    floors = found.attributes["z"]["floors"]
    assert floors["label"] == floors["majority"]
    assert found.fidelity["value"] is None
    assert found.attributes["z"]["aum"] is None
    assert found.attributes["z"]["attackers"][0]["conditional_bits"] is None
    assert found.data["target"] is None
    assert list(findings(found.to_dict())) == []
    assert "no task was named" in " ".join(found.to_text().split())


def test_the_same_seed_gives_the_same_audit():
    h, labels = drawn(n=400)

    def once(seed):
        found = quick(h, labels, attributes="z", target="y", seed=seed)
        return [{**row, "seconds": 0} for row in found.attributes["z"]["attackers"]], found.data["n"]

    assert once(3) == once(3)
    assert once(3) != once(4)


def test_splits_are_drawn_stratified_by_seed():
    h, labels = drawn()
    found = load_embeddings(h, labels, ["z"], "y", seed=1)
    assert not found.given
    assert {name: len(rows) for name, rows in found.splits.items()} == {"train": 900, "validation": 150, "test": 450}
    for name in ("validation", "test"):
        cells, counts = np.unique(
            found.labels["y"][found.splits[name]] * 3 + found.labels["z"][found.splits[name]], return_counts=True
        )
        every = np.bincount(found.labels["y"] * 3 + found.labels["z"])
        assert np.abs(counts - FRACTIONS[name] * every[cells]).max() <= 1.5
    again = load_embeddings(h, labels, ["z"], "y", seed=1)
    assert all((again.splits[name] == rows).all() for name, rows in found.splits.items())


def test_splits_can_be_given_in_three_ways():
    h, labels = drawn(n=600)
    words = np.array(["train", "val", "test"])[np.arange(600) % 3]
    rows = {name: np.flatnonzero(np.arange(600) % 3 == i) for i, name in enumerate(("train", "validation", "test"))}
    ways = [
        load_embeddings(h, {**labels, "split": words}, ["z"], "y"),
        load_embeddings(h, labels, ["z"], "y", splits=words),
        load_embeddings(h, labels, ["z"], "y", splits=rows),
    ]
    for found in ways:
        assert found.given
        assert {name: where.tolist() for name, where in found.splits.items()} == {
            n: w.tolist() for n, w in rows.items()
        }
        assert "split" not in found.columns


def test_people_without_a_target_are_dropped_and_counted():
    h, labels = drawn(n=600)
    labels["y"] = np.where(np.arange(600) < 50, "", labels["y"])
    found = load_embeddings(h, labels, ["z"], "y")
    assert sum(len(rows) for rows in found.splits.values()) == 550
    assert found.warnings == ("50 rows have no 'y', the target; dropped.",)


def test_a_finite_code_gets_a_certificate_and_numbers_do_not(result):
    assert result.attributes["z"]["certificate"] is None
    generator = np.random.default_rng(0)
    table = generator.normal(size=(8, 4))
    code, z = generator.integers(0, 8, 4000), generator.integers(0, 2, 4000)
    found = quick(table[code], {"z": z, "code": code}, attributes="z")
    made = found.attributes["z"]["certificate"]
    assert made["n_codes"] == 8
    assert made["n"] == found.attributes["z"]["n"]
    assert made["empirical"] < made["bound"] < 0.6
    assert made["checked"] is False
    split = np.array(["train", "validation", "test", "test"])[np.arange(4000) % 4]
    found = quick(table[code], {"z": z, "split": split}, attributes="z")
    assert found.attributes["z"]["certificate"]["checked"] is True


def test_embeddings_are_not_rounded():
    h, labels = drawn(n=300)
    found = load_embeddings(h, labels, ["z"], "y")
    subject = make_subject(found, ["z"], "y", "test")
    kept = subject.model.features["test"].read(slice(0, 90)).numpy()
    np.testing.assert_allclose(kept, h[found.splits["test"]].astype(np.float32), rtol=1e-6, atol=1e-6)


def test_labels_may_stand_beside_the_embeddings(tmp_path):
    import pandas as pd

    h, labels = drawn(n=300)
    pd.DataFrame({"emb": list(h), **labels}).to_parquet(tmp_path / "all.parquet")
    found = quick(tmp_path / "all.parquet", attributes="z", target="y")
    assert set(found.attributes) == {"z"}


def test_all_problems_are_told_at_once():
    h, labels = drawn(n=100)
    with pytest.raises(DataError) as error:
        load_embeddings(h[:50], labels, ["zz", "y", "one"], "y", original=h[:40])
    text = str(error.value)
    for part in (
        "5 problems",
        "embeddings of the same 50 people",
        "one row for each of the 50",
        "'zz'",
        "both the target",
    ):
        assert part in text
    with pytest.raises(DataError, match=r"2 problems:\n1\..*a file that exists(.|\n)*2\..*no such file"):
        load_embeddings("no.npy", "no.csv", ["z"], None)
    with pytest.raises(DataError, match="at least one column to attack"):
        load_embeddings(h, labels, [], "y")
    with pytest.raises(DataError, match="a table with a row per embedding"):
        load_embeddings(h, None, ["z"], "y")


@pytest.mark.parametrize(
    ("splits", "told"),
    [
        ({"trian": [0]}, "Did you mean 'train'"),
        ({"train": [0, 1], "test": [1, 2]}, "in another split too"),
        ({"train": [0, 100]}, "row numbers from 0 to 99"),
        (["train"] * 99, "a name for each of the 100 rows"),
        (["train"] * 99 + ["rest"], "names of splits"),
    ],
)
def test_splits_that_make_no_sense_are_refused(splits, told):
    h, labels = drawn(n=100)
    with pytest.raises(DataError, match=told):
        load_embeddings(h, labels, ["z"], "y", splits=splits)


def test_splits_with_one_class_are_refused():
    h, labels = drawn(n=300)
    split = np.where(labels["z"] == "a", "test", "train")
    with pytest.raises(DataError, match=r"Column 'z' has 1 class\(es\) in the test split"):
        load_embeddings(h, {**labels, "split": split}, ["z"], "y")


def test_unknown_attackers_are_told_before_anything_is_read():
    with pytest.raises(AuditError, match="Unknown attacker 'liner'"):
        quick("no.npy", attributes="z", config=AuditConfig(attackers=("liner",)))


def test_it_is_a_public_name():
    assert efface.audit_embeddings is audit_embeddings
    assert callable(efface.certify)


def test_splits_beside_the_embeddings_hold_where_the_labels_name_none():
    h, labels = drawn(n=300)
    words = np.array(["train"] * 150 + ["validation"] * 60 + ["test"] * 90)
    table = pa.table({"h": list(h), "split": words})
    found = load_embeddings(table, labels, ["z"], "y", column="h")
    assert {name: len(rows) for name, rows in found.splits.items()} == {"train": 150, "validation": 60, "test": 90}


def test_embeddings_and_an_original_of_another_shape():
    """Maps and vectors leave other attackers without anything to read: they are matched by name."""
    h, labels = drawn(leak=2.0, n=900)
    maps = np.repeat(h[:, :3, None], 16, 2).reshape(-1, 3, 4, 4)
    config = QUICK.model_copy(update={"attackers": ("conv", "linear"), "epochs": 1})
    found = quick(maps, labels, attributes=["z"], target="y", original=h, config=config)
    assert [row["name"] for row in found.attributes["z"]["attackers"]] == ["conv", "linear"]
    assert [row["name"] for row in found.attributes["z"]["original_attackers"]] == ["linear"]


@pytest.mark.parametrize("attacker", ["output", "trees"])
def test_a_class_of_three_people_is_no_reason_to_stop(attacker):
    h, labels = drawn(n=9000)
    z = np.full(9000, "often")
    z[[5, 4100, 6100, 7600]] = "rare"
    splits = {"train": np.arange(6000), "validation": np.arange(6000, 7500), "test": np.arange(7500, 9000)}
    config = QUICK.model_copy(update={"attackers": (attacker,)})
    for seed in (0, 1):
        found = quick(h, {**labels, "z": z}, attributes=["z"], target="y", splits=splits, config=config, seed=seed)
        assert found.attributes["z"]["best"]["accuracy"] > 0.99
