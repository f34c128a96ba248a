"""A study that is killed, stopped, crowded or out of room ends as an unbroken one: the harness, in a short version."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def told() -> str:
    """What the harness prints; a difference between a broken study and an unbroken one fails it."""
    command = [sys.executable, "-m", "helpers.kill", "--kills=4", "--interrupts=1", "--together=3", "--fill"]
    tests = Path(__file__).parents[1]
    ended = subprocess.run(command, cwd=tests, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_killed_studies_end_as_unbroken_ones(told: str) -> None:
    assert re.search(r"^4 kills, 4 resumes, \d studies, all with the results of the unbroken one$", told, re.M)


def test_ctrl_c_stops_within_two_seconds(told: str) -> None:
    assert re.search(r"^1 times Ctrl-C: exit code 130, at most \d\.\d+ s, same results$", told, re.M)


def test_studies_that_share_a_cache_make_nothing_twice(told: str) -> None:
    assert re.search(r"^3 studies at once: same results, each of \d+ chunks made once$", told, re.M)


def test_a_full_disk_is_one_sentence_and_the_study_goes_on(told: str) -> None:
    if "cannot be mounted here" in told:
        pytest.skip("needs the right to mount a disk of its own")
    assert re.search(r"^a disk of 64 MiB, full at each of \d+ stages", told, re.M)
    assert "and the same results in the end" in told
