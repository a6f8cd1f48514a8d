"""Studies of every kind, killed at some events here and at all of them by `python -m tests.kills`."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def killed(*arguments: str) -> str:
    """What the trials printed; none may differ from an undisturbed run."""
    command = [sys.executable, "-m", "tests.kills", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("kind", "first", "every"),
    [("saes", 61, 150), ("networks", 200, 500), ("xor", 20, 37)],
    ids=["saes", "networks", "xor"],
)
def test_a_killed_study_ends_as_an_undisturbed_one(kind, first, every):
    said = killed("--kinds", kind, "--first", str(first), "--every", str(every))
    assert " 0 differ" in said
    assert not said.startswith(f"{kind}: 0 events")


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_an_interrupted_study_ends_as_an_undisturbed_one(number):
    """In the middle of training: a metrics line is half written."""
    assert " 0 differ" in killed("--kinds", "saes", "--first", "230", "--every", "1000", "--signal", number)


@pytest.mark.slow
@pytest.mark.timeout(20_000)
@pytest.mark.parametrize("kind", ["saes", "networks", "xor"])
def test_every_single_event(kind, capsys):
    with capsys.disabled():
        print(killed("--kinds", kind))
