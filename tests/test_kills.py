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


def test_a_killed_study_ends_as_an_undisturbed_one():
    """At two or three events of each kind, in the harvest, in training and while it is published."""
    said = killed("--at", "saes:61", "saes:290", "networks:620", "xor:20", "xor:50")
    assert said.count(" 0 differ") == 3
    assert said.count(" 2 events") == 2


def test_an_interrupted_study_ends_as_an_undisturbed_one():
    """In the middle of training: a metrics line is half written."""
    assert " 0 differ" in killed("--at", "saes:230", "--signal", "SIGTERM")


@pytest.mark.slow
@pytest.mark.timeout(20_000)
@pytest.mark.parametrize("kind", ["saes", "networks", "xor"])
def test_every_single_event(kind, capsys):
    with capsys.disabled():
        print(killed("--kinds", kind))
