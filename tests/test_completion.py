"""Shell completion: the candidates, and that a real bash accepts the script."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from helpers.cli import thaw
from thaw.cli.app import cli
from thaw.cli.completion import SHELLS
from thaw.recipe import load_recipe


def offered(*words: str) -> list[str]:
    """Return the completions of the last of the words, typed after `thaw`."""
    complete = ShellComplete(cli, {}, "thaw", "_THAW_COMPLETE")
    return [item.value for item in complete.get_completions(list(words[:-1]), words[-1])]


def test_recipes_commands_and_keys_are_offered() -> None:
    assert {"study", "init", "recipes", "completion"} <= set(offered(""))
    assert offered("study", "--recipe", "ce") == ["celeba-hq-gender"]
    assert offered("recipes", "p") == ["photos"]
    assert offered("study", "--set", "train.pat") == ["train.patience="]
    assert offered("study", "--set", "images.resize") == [
        f"images.resize={way}" for way in ("squash", "crop", "letterbox", "auto")
    ]
    assert offered("study", "--set", "train.epochs=3", "--set", "arms.head.tra") == [
        "arms.head.train=",
        "arms.head.training=",
    ]


def test_every_key_that_is_offered_is_one_of_a_recipe() -> None:
    keys = {key.partition("=")[0] for key in offered("study", "--set", "")}
    assert {"name", "data.source", "images.size", "model.backbone", "search.steps", "cache.activations"} <= keys
    resolved = load_recipe("celeba-hq-gender").model_dump()
    for key in keys:
        section, _, name = key.rpartition(".")
        below = resolved
        for part in section.split(".") if section else []:
            below = below.get(part) or resolved["arms"]["head"]
        assert name in below, key


def test_every_shell_gets_a_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for shell in SHELLS:
        if shell == "bash" and shutil.which("bash") is None:
            continue
        assert thaw(monkeypatch, "completion", shell) == 0
        assert "_THAW_COMPLETE" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    """As Readline would call it, with a `thaw` on the path that runs this source."""
    program = tmp_path / "thaw"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m thaw "$@"\n')
    program.chmod(0o755)
    source = Path(__file__).parents[1] / "src"
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(source)}
    typed = (
        'eval "$(thaw completion bash)"; COMP_WORDS=(thaw study --recipe em); COMP_CWORD=3; '
        '_thaw_completion thaw em --recipe; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", typed], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["emoji-people"]
