"""The command line as a user meets it: whole runs on drawn faces, help, and errors on one screen with exit code 2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from efface.report.schema import load_schema

SETTINGS = [
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
    "--set=data.attributes=[glasses, hat]",
    "--quiet",
]
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


def efface(*arguments, **environment):
    """Run the command as a process."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "NO_COLOR": "1", **environment}
    return subprocess.run(
        [sys.executable, "-m", "efface", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=variables,
        timeout=280,
        check=False,
    )


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


def test_a_killed_run_resumes_to_the_same_weights(finished, tmp_path):
    """Killed for real, by the operating system, in the middle of training."""
    import signal
    import time

    folder = tmp_path / "killed"
    more = [*SETTINGS, "--set=engine.checkpoint_every=1", "--out", str(folder)]
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
        (["run", "toyfaces-smiling-glasses", "--set", "method.name=detach"], ["Unknown method 'detach'"]),
        (["run", "toyfaces-smiling-glasses", "--data", "/no/such/folder"], ["/no/such/folder"]),
        (["run", "toyfaces-smiling-glasses", "--set", "data.target=smilng"], ["smilng", "Did you mean 'smiling'"]),
        (
            ["run", "toyfaces-smiling-glasses", "--set", "model.at=layer9", *SETTINGS],
            ["layer9", "layer2", "efface ls layers"],
        ),
        (["run", "toyfaces-smiling-glasses", *SETTINGS, "--set", "model.name=resnet17"], ["resnet17"]),
        (["audit", "no/run"], ["holds no run"]),
        (["report", "no/run"], ["No audit.json"]),
    ],
)
def test_errors_are_one_screen_with_exit_code_2(arguments, words, tmp_path):
    if arguments[0] == "run":
        arguments = [*arguments, "--out", str(tmp_path / "out")]
    done = efface(*arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 24
    flat = " ".join(done.stderr.replace("│", " ").split())
    for word in words:
        assert word in flat, done.stderr


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
def test_ls(arguments, word):
    done = efface("ls", *arguments)
    assert done.returncode == 0, done.stderr
    assert word in done.stdout


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


def test_every_public_name_exists():
    code = "import efface; print(all(callable(getattr(efface, n)) for n in efface.__all__), len(efface.__all__))"
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", code], capture_output=True, text=True
    )
    assert done.stdout.startswith("True"), done.stderr
