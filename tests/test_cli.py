"""The command line as a user meets it: whole runs on drawn faces, help, and errors on one screen with exit code 2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from efface.cli import app as application
from efface.report.schema import load_schema

SETTINGS = [
    "--set=engine.threads=1",  # a core that other work holds changes how many are used, and that the last bits
    "--set=data.options={n: 700}",
    "--set=data.size=32",
    "--set=model.name=resnet18",
    "--set=model.stem=small",
    "--set=model.options={width: 8}",
    "--set=engine.epochs=1",
    "--set=engine.original_epochs=1",
    "--set=engine.batch_size=64",
    "--set=method.head_width=16",
    "--set=method.decoder_width=16",
    "--set=audit.epochs=1",
    "--set=audit.reconstruction_epochs=1",
    "--set=audit.resamples=200",
    "--set=audit.attackers=[resnet18, mlp, linear]",
    "--set=data.attributes=[glasses, hat]",
    "--quiet",
]
FOREIGN = ["audit", "--data", "toyfaces", "--at", "0", "--target", "smilng", "--attributes", "glasses"]
NET = """
from torch import nn
def build(num_classes):
    head = nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, num_classes)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), *head)
"""
RUN_FOLDER = {
    "config.yaml",
    "environment.json",
    "metrics.jsonl",
    "checkpoints",
    "original.safetensors",
    "model.safetensors",
    "audit.json",
    "report.html",
    "figures",
    "README.md",
}


def efface(*arguments, cwd=None, **environment):
    """Run the command as a process."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "NO_COLOR": "1", **environment}
    return subprocess.run(
        [sys.executable, "-m", "efface", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=variables,
        cwd=cwd,
        timeout=280,
        check=False,
    )


@pytest.fixture
def here(monkeypatch, capsys):
    """Run the command in this process, which has imported what a command needs."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["efface", *map(str, arguments)])
        for one in (application.console, application.errors):
            monkeypatch.setattr(one, "width", 120)
        with pytest.raises(SystemExit) as ended:
            application.main()
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    done = efface("run", "toyfaces-smiling-glasses", *SETTINGS, "--out", folder)
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    return folder


def test_a_run_leaves_the_whole_folder(finished):
    assert {path.name for path in finished.iterdir()} >= RUN_FOLDER


def test_audit_json_keeps_its_contract(finished):
    audit = json.loads((finished / "audit.json").read_text())
    assert list(Draft202012Validator(load_schema()).iter_errors(audit)) == []
    assert {"value", "ci", "original"} <= set(audit["fidelity"])
    for name in ("glasses", "hat"):
        entry = audit["attributes"][name]
        assert set(entry["floors"]) >= {"chance", "majority", "label"}
        assert {a["name"] for a in entry["attackers"]} == {"resnet18", "mlp", "linear"}
        assert all({"name", "accuracy", "ci", "bits"} <= set(a) for a in entry["attackers"])
        assert 0 <= entry["best"]["accuracy"] <= 1
        assert entry["best"]["ci"][0] <= entry["best"]["accuracy"] <= entry["best"]["ci"][1]
        assert entry["aum"] <= 1
        assert entry["verdict"] in ("leaks", "at the floor for this suite", "inconclusive")
        assert {"original_best", "excess_leakage", "aum_ceiling"} <= set(entry)
    assert {"read_s", "train_s", "audit_s", "report_s", "peak_rss_mb"} <= set(audit["phases"])
    assert all(value > 0 for value in audit["phases"].values())
    trainings = audit["phases"]["train_original_s"] + audit["phases"]["train_unlearned_s"]
    assert audit["phases"]["train_s"] == pytest.approx(trainings, abs=1e-3)


def test_the_unlearned_model_loads_into_the_original_architecture(finished):
    from safetensors.torch import load_file

    from efface.models import build

    model = build("resnet18", 2, 32, stem="small", width=8)
    model.load_state_dict(load_file(finished / "model.safetensors"))


def test_audit_again_and_report_again(finished):
    before = json.loads((finished / "audit.json").read_text())
    done = efface("audit", finished, "--split", "validation", "--attackers", "linear", "--epochs", 1, "--quiet")
    assert done.returncode == 0, done.stderr
    after = json.loads((finished / "audit.json").read_text())
    assert (before["split"], after["split"]) == ("test", "validation")
    assert [a["name"] for a in after["attributes"]["glasses"]["attackers"]] == ["linear"]
    assert after["model"]["auxiliary"] == before["model"]["auxiliary"]
    (finished / "report.html").unlink()
    done = efface("report", finished)
    assert done.returncode == 0, done.stderr
    assert (finished / "report.html").exists()
    page = finished.parent / "both.html"
    done = efface("report", finished, finished, "--out", page)
    assert done.returncode == 0, done.stderr
    assert page.exists()


def test_an_audit_again_takes_a_suite_and_settings(finished):
    before = (finished / "audit.json").read_text()
    more = ["--set=audit.beyond=[fairness, selectivity]", "--set=audit.reconstruction=false", "--seeds", 2, "--quiet"]
    done = efface("audit", finished, "--attackers", "linear", "--layers", "layer1", "--epochs", 1, *more)
    assert done.returncode == 0, done.stderr
    audit = json.loads((finished / "audit.json").read_text())
    assert list(Draft202012Validator(load_schema()).iter_errors(audit)) == []
    assert {"selectivity", "fairness", "layers", "suite"} <= set(audit)
    assert [point["layer"] for point in audit["layers"]["hat"]["points"]][:2] == ["input", "layer1"]
    assert audit["attributes"]["hat"]["attackers"][0]["seeds"] == 2
    done = efface("audit", finished, "--set=engine.epochs=3")
    assert done.returncode == 2
    assert "a setting of audit" in " ".join(done.stderr.replace("│", " ").split())
    (finished / "audit.json").write_text(before)


def test_a_model_made_elsewhere_is_audited(tmp_path):
    (tmp_path / "mynet.py").write_text(NET)
    sets = ["--set=data.options={n: 400}", "--set=data.size=32", "--set=audit.resamples=200", "--quiet"]
    arguments = [*FOREIGN[:6], "smiling", *FOREIGN[7:], "--model", "mynet:build", "--attackers", "linear", *sets]
    done = efface(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "audits" / "mynet.build-0"
    assert json.loads((folder / "audit.json").read_text())["model"]["at"] == "0"
    done = efface("report", folder, "--format", "text", "--out", tmp_path / "told.txt")
    assert done.returncode == 0, done.stderr
    assert "glasses" in (tmp_path / "told.txt").read_text()
    done = efface("audit", folder, COLUMNS="400")  # no line is broken, however long the path
    assert done.returncode == 2
    assert "made elsewhere" in done.stderr


def test_embeddings_are_audited(tmp_path):
    z = np.arange(500) % 2
    np.save(tmp_path / "emb.npy", np.random.default_rng(0).normal(size=(500, 4)) + z[:, None])
    (tmp_path / "labels.csv").write_text("race\n" + "\n".join("ab"[i] for i in z) + "\n")
    arguments = [
        "audit",
        "--features",
        tmp_path / "emb.npy",
        "--labels",
        tmp_path / "labels.csv",
        "--attributes",
        "race",
    ]
    done = efface(*arguments, "--attackers", "linear", "--out", tmp_path / "out", "--quiet")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["attributes"]["race"]["verdict"] == "leaks"
    assert (tmp_path / "out" / "report.html").exists()
    done = efface(*arguments, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "--overwrite" in done.stderr


def test_a_killed_run_resumes_to_the_same_weights(finished, tmp_path):
    """Killed for real, by the operating system, in the middle of training."""
    import signal
    import time

    folder = tmp_path / "killed"
    # The audit has no part in the weights, which are all that is compared: the cheapest will do.
    audit = ["--set=audit.attackers=[mlp-small]", "--set=audit.beyond=[]", "--set=audit.reconstruction=false"]
    more = [*SETTINGS, *audit, "--set=engine.checkpoint_every=1", "--out", str(folder)]
    command = [sys.executable, "-m", "efface", "run", "toyfaces-smiling-glasses", *more]
    process = subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    checkpoint = folder / "checkpoints" / "unlearned.pt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.exists()
    assert not (folder / "model.safetensors").exists(), "the kill came too late to prove anything"
    done = efface("run", "toyfaces-smiling-glasses", *more, "--resume")
    assert done.returncode == 0, done.stderr
    for name in ("original.safetensors", "model.safetensors"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes(), name


def test_an_interrupt_says_how_to_go_on(tmp_path):
    import signal
    import time

    folder = tmp_path / "interrupted"
    command = [sys.executable, "-m", "efface", "run", "toyfaces-smiling-glasses", *SETTINGS, "--out", str(folder)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    process = subprocess.Popen(
        [*command, "--set=engine.original_epochs=500"], env=variables, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "original.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "go on with the same command and --resume" in " ".join(text.split())
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "toyface"], ["Unknown preset 'toyface'", "Did you mean 'toyfaces-smiling-glasses'"]),
        (["run", "none.yaml"], ["No configuration file 'none.yaml'"]),
        (
            ["run", "toyfaces-smiling-glasses", "--set", "engine.epoch=1", "--set", "seed=-1"],
            ["2 problems", "Did you mean 'epochs'", "`seed`"],
        ),
        (["run", "toyfaces-smiling-glasses", *SETTINGS, "--set", "method.name=detach"], ["Unknown method 'detach'"]),
        (["run", "toyfaces-smiling-glasses", "--data", "/no/such/folder"], ["/no/such/folder"]),
        (["run", "toyfaces-smiling-glasses", "--set", "data.target=smilng"], ["smilng", "Did you mean 'smiling'"]),
        (
            ["run", "toyfaces-smiling-glasses", "--set", "model.at=layer9", *SETTINGS],
            ["layer9", "layer2", "efface ls layers"],
        ),
        (["run", "toyfaces-smiling-glasses", *SETTINGS, "--set", "model.name=resnet17"], ["resnet17"]),
        (
            [
                "run",
                "toyfaces-smiling-glasses",
                *SETTINGS,
                "--set",
                "data.target=smilng",
                "--set",
                "audit.attackers=[cnov]",
            ],
            ["2 problems", "'smiling'", "Did you mean 'conv'"],
        ),
        (
            ["run", "toyfaces-smiling-glasses", *SETTINGS, "--set", "model.at=layr2", "--set", "method.heads=[rigde]"],
            ["2 problems", "Did you mean 'layer2'", "Did you mean 'ridge'"],
        ),
        (["audit", "no/run"], ["holds no run"]),
        (["audit"], ["given the folder of a run, --model or --features"]),
        (["audit", "no/run", "--features", "x.npy"], ["a run and --features"]),
        (
            ["audit", "--model", "resnet18", "--labels", "x.csv"],
            ["5 problems", "--labels does not go with --model", "--model needs --at", "--model needs --attributes"],
        ),
        (
            ["audit", "--features", "no.npy", "--labels", "no.csv", "--attributes", "race"],
            ["2 problems", "no.npy", "no.csv"],
        ),
        (
            [*FOREIGN, "--model", "mynet:build", "--attackers", "liner"],
            ["3 problems", "'linear'", "Did you mean 'smiling'", "Cannot import 'mynet'"],
        ),
        (["report", "no/run", "--format", "pdf"], ["html, md or text"]),
        (["report", "no/run"], ["No audit.json"]),
        (["run", "toyfaces-smiling-glasses", *SETTINGS, "--set", "audit.layers=[nope]"], ["nope", "layer2"]),
        (["run", "toyfaces-smiling-glasses", *SETTINGS, "--set", "engine.device=foo"], ["engine.device=foo"]),
        (["run", "toyfaces-smiling-glasses", "--set", "engine.batch_size=1"], ["engine.batch_size", "2, but got 1"]),
        (["run", "toyfaces-smiling-glasses", "--set", "name=2024-13-45"], ["is not a YAML value"]),
        (
            ["run", "toyfaces-smiling-glasses", "--set", "model.at=auto", "--target-leakage", "0.1"],
            ["model.at", "a named layer", "--measure"],
        ),
        (["compare", "toyfaces-smiling-glasses", "--set", "model.at=auto"], ["model.at", "a named layer"]),
        (
            [
                "run",
                "toyfaces-smiling-glasses",
                *SETTINGS,
                "--set",
                "engine.device=tpu",
                "--set",
                "engine.batch_size=100000",
                "--set",
                "data.shift=99",
            ],
            ["engine.device=tpu", "`engine.batch_size` to be at most", "the images of the train split", "`data.shift`"],
        ),
        (
            ["run", "toyfaces-smiling-glasses", "--set", "data.target=smilng", "--set", "model.name=resnet1"],
            ["2 problems", "'smiling'", "`model.name`"],
        ),
        (
            ["run", "toyfaces-smiling-glasses", *SETTINGS, "--set", "model.name=convnext_atto"],
            ["--set 'model.options={}' leaves them out"],
        ),
        (["run", "toyfaces-smiling-glasses", "--set", "data.attributes=glasses"], ["a list, such as [glasses]"]),
        (["run", "toyfaces-smiling-glasses", "--data", ""], ["`data.source` to be a folder"]),
        (["compare", "toyfaces-smiling-glasses", "--methods", ""], ["at least one"]),
        (
            [
                "audit",
                "--features",
                "no.npy",
                "--labels",
                "no.csv",
                "--attributes",
                "race",
                "--set",
                "data.limit=5",
                "--set",
                "audit.view=logits",
            ],
            ["2 problems", "no setting of 'data' has any effect", "audit.view"],
        ),
    ],
)
def test_errors_are_one_screen_with_exit_code_2(arguments, words, here, tmp_path):
    if arguments[0] == "run":
        arguments = [*arguments, "--out", str(tmp_path / "out")]
    code, _, said = here(*arguments)
    assert code == 2, said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 24
    flat = " ".join(said.replace("│", " ").split())
    for word in words:
        assert word in flat, said


def test_nothing_is_written_into_the_folder_of_a_run(finished, here):
    for command in (["sweep", "toyfaces-smiling-glasses", "--trials", "1"], ["compare", "toyfaces-smiling-glasses"]):
        code, _, said = here(*command, "--out", str(finished))
        assert code == 2
        assert "holds a run or an audit" in " ".join(said.replace("│", " ").split())
    assert not (finished / "study.log").exists()


def test_an_error_before_training_leaves_no_half_run_behind(tmp_path):
    out = tmp_path / "out"
    assert efface("run", "toyfaces-smiling-glasses", "--data", "/no/such/folder", "--out", out).returncode == 2
    again = efface("run", "toyfaces-smiling-glasses", "--data", "/no/such/folder", "--out", out)
    assert "already holds a run" not in again.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["models", "resnet18"], "resnet18"),
        (["layers", "resnet18", "--size", "32"], "layer2"),
        (["datasets"], "toyfaces"),
        (["methods"], "detachment"),
        (["attackers"], "resnet18"),
        (["presets"], "utkface-gender-race"),
    ],
)
def test_ls(arguments, word, here):
    code, said, errors = here("ls", *arguments)
    assert code == 0, errors
    assert word in said


@pytest.mark.parametrize("verb", ["run", "audit", "report", "ls"])
def test_help_reads_like_documentation(verb):
    done = efface(verb, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout
    if verb != "ls":
        assert f"efface {verb}" in done.stdout


def test_import_is_light():
    heavy = ["matplotlib", "datasets", "timm", "optuna", "torch", "sklearn"]
    code = f"import sys, efface; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_command_that_computes_nothing_starts_without_what_computes():
    """Each of these takes seconds to import; whoever misspells a setting should not wait for them."""
    heavy = ["lightning_fabric", "sklearn", "timm", "torchvision", "torch._dynamo", "datasets", "optuna"]
    code = f"import sys, efface.experiments.runner; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_exists():
    code = "import efface; print(all(callable(getattr(efface, n)) for n in efface.__all__), len(efface.__all__))"
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", code], capture_output=True, text=True
    )
    assert done.stdout.startswith("True"), done.stderr
