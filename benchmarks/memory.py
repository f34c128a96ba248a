"""Peak memory of a study of six AlexNet arms, beside that of its largest arm alone.

    python benchmarks/memory.py SOURCE --weights WEIGHTS.safetensors [--set data.validation=400 ...]

Each study is a process of its own, with a cache of its own; the peak is what the system says of it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ARMS = {
    "last-stage": '"last-stage"',
    "last-two-fc": '["classifier.4", "classifier.6"]',
    "lora": '"lora"',
    "first-fc": '["classifier.1", "classifier.6"]',
    "last-fc-bias": '["classifier.4.bias", "classifier.6"]',
    "head": '"head"',
}
RECIPE = """
name = "memory"
[data]
source = {source!r}
[images]
size = 224
resize = "squash"
[model]
backbone = "torchvision/alexnet"
weights = {weights!r}
[search]
learning_rates = [1e-4]
steps = 2
[train]
epochs = 1
batch_size = 128
precision = "fp32"
"""
MEASURE = """
import resource, sys
from thaw.recipe import load_recipe
from thaw.study import run_study
run_study(load_recipe(sys.argv[1], None, tuple(sys.argv[3:])), sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10)
"""


def peak_bytes(folder: Path, recipe: str, arms: list[str], settings: list[str]) -> int:
    """The peak memory of a study of these arms."""
    folder.mkdir()
    lines = [f"[arms.{arm}]\ntrain = {ARMS[arm]}\n" for arm in arms]
    (folder / "memory.toml").write_text(recipe + "".join(lines))
    arguments = [sys.executable, "-c", MEASURE, str(folder / "memory.toml"), str(folder / "run"), *settings]
    environment = {**os.environ, "THAW_CACHE": str(folder / "cache")}
    ended = subprocess.run(arguments, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return int(ended.stdout.split()[-1])


def main() -> None:
    """Run both studies and print their peaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--weights", required=True, help="a .safetensors file of AlexNet's weights")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="a setting, key.path=value")
    options = parser.parse_args()
    recipe = RECIPE.format(source=str(Path(options.source).resolve()), weights=str(Path(options.weights).resolve()))
    with tempfile.TemporaryDirectory() as folder:
        one, six = (
            peak_bytes(Path(folder) / name, recipe, arms, options.settings)
            for name, arms in (("one", ["last-stage"]), ("six", list(ARMS)))
        )
    print("| arms | peak memory |\n|---|---|")
    print(f"| last-stage | {one / 2**20:,.0f} MiB |")
    print(f"| {', '.join(ARMS)} | {six / 2**20:,.0f} MiB |")
    print(f"\nSix arms take {six / one - 1:+.1%} of one.")


if __name__ == "__main__":
    main()
