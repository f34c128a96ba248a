"""A new head on a frozen AlexNet by fastai and by thaw: the same pictures, weights and epochs, in turn, in one run.

    python3.11 -m venv /tmp/fastai-venv
    echo "$PWD/.venv/lib/python3.11/site-packages" > /tmp/fastai-venv/lib/python3.11/site-packages/project.pth
    .venv/bin/pip freeze | grep -E "^(torch|torchvision|numpy)==" > /tmp/fastai-constraints.txt
    /tmp/fastai-venv/bin/pip install -c /tmp/fastai-constraints.txt fastai
    .venv/bin/python benchmarks/fastai_head.py --source ../shared/faces \\
        --weights ../shared/weights/alexnet_tiny_imagenet_fp16.safetensors

The first four lines install fastai (2.8.12 of September 2026 runs with torch 2.14) beside the project's own packages,
which it uses and leaves as they are. Each side runs in a process of its own, thaw with a cold cache. Memory is that of
a side's processes together (proportional set size, looked at four times a second) and the peak of the largest one.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
FASTAI = {"fastai": "same", "fastai-own-head": "own"}
THAW = {"thaw": "auto", "thaw-fp32": "fp32"}
SAME = """\
same:    pictures and their splits, both sides squashed to 224 (bilinear), no augmentation, ImageNet's mean and std;
         torchvision's AlexNet from the same file, everything frozen but a new linear layer of 4,096 inputs, dropout of
         the frozen layers active while training; cross-entropy, batch size, epochs, largest learning rate; validation
         is scored after each epoch, the test images once
differs: fastai decodes in its loader's workers anew in each epoch and runs the whole network in fp32, its Adam (weight
         decay 0.01) follows one cycle of rates; thaw decodes once (data), traces the network and computes what is
         frozen once (both in training), tries the rate for one step and holds it, and writes intervals, figures, a
         report and a bundle (rest); its precision stands beside it. fastai's own head, two linear layers with batch
         normalisation, 265,216 parameters, sits on the convolutions and leaves AlexNet's other layers out"""


def main() -> None:
    """Write the pictures, run the sides, print the table."""
    arguments = parse()
    if arguments.fastai_side:
        fastai_side(arguments)
        return
    if any(side in FASTAI for side in arguments.sides) and not arguments.fastai_python.is_file():
        raise SystemExit(f"{arguments.fastai_python} is not there; install fastai as --help says, or leave it out.")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        counts = write_pictures(arguments, work / "images")
        for side in arguments.sides:
            found[side] = run_fastai(side, work, arguments) if side in FASTAI else run_thaw(side, work, arguments)
            print(f"{side}: {found[side]['total']:.1f} s", file=sys.stderr, flush=True)
    print_table(found, counts, arguments)
    if arguments.out:
        arguments.out.write_text(json.dumps({"command": sys.argv, "images": counts, "sides": found}, indent=1) + "\n")


def write_pictures(arguments: argparse.Namespace, folder: Path) -> dict[str, int]:
    """Class folders under train, validation and test, the files as they are; returns how many each split has.

    Test pictures are the first of the source's validation split, the others of its train split; thaw orders a source by
    content digests, which is as good as at random.
    """
    from thaw.data.source import read_source
    from thaw.recipe import Data

    source = read_source(Data(source=arguments.source))
    rows = {split: [row for row, own in enumerate(source.splits) if own == split] for split in ("train", "validation")}
    chosen = {
        "train": rows["train"][: arguments.train],
        "validation": rows["train"][arguments.train :][: arguments.validation],
        "test": rows["validation"][: arguments.test],
    }
    for split, members in chosen.items():
        for row in members:
            path = folder / split / source.classes[source.labels[row]] / f"{row:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.picture(row))
    return {split: len(members) for split, members in chosen.items()}


def run_fastai(side: str, work: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """This script anew, in the environment that has fastai."""
    out = work / "fastai.json"
    command = [str(arguments.fastai_python), __file__, "--fastai-side", str(work / "images"), "--out", str(out)]
    command += ["--head", FASTAI[side], "--weights", str(arguments.weights), "--workers", str(arguments.workers)]
    command += ["--epochs", str(arguments.epochs), "--batch-size", str(arguments.batch_size)]
    measured = watch([*command, "--learning-rate", str(arguments.learning_rate)], work, dict(os.environ))
    return with_rest({**measured, **json.loads(out.read_text())})


def run_thaw(side: str, work: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """A study of the one arm `head`, from a cold cache."""
    import tomlkit

    recipe = tomllib.loads(
        subprocess.check_output([sys.executable, "-m", "thaw", "recipes", "celeba-hq-gender"], text=True)
    )
    recipe["data"] |= {"validation": "validation", "test": "test"}
    recipe["model"]["weights"] = str(arguments.weights.resolve())
    recipe["search"] = {"learning_rates": [arguments.learning_rate], "steps": 1}
    recipe["train"] |= {"batch_size": arguments.batch_size, "epochs": arguments.epochs, "refit": "train"}
    recipe["train"]["precision"] = THAW[side]
    recipe["arms"] = {"head": recipe["arms"]["head"]}
    name = f"thaw-{THAW[side]}"
    file, run = work / f"{name}.toml", work / name
    file.write_text(tomlkit.dumps(recipe))
    command = [sys.executable, "-m", "thaw", "study", str(work / "images"), "--recipe", str(file), "--out", str(run)]
    measured = watch(command, work, {**os.environ, "THAW_CACHE": str(work / f"{name}-cache")})
    from thaw.run.metrics import read_metrics

    study = read_metrics(run)
    arm = study.arms["head"]
    stages = {
        "data": study.seconds.pixels,
        "training": arm.seconds.prepare + arm.seconds.search + arm.seconds.train,
        "test": arm.seconds.test,
    }
    versions = json.loads((run / "environment.json").read_text())
    return with_rest(
        {
            **measured,
            **stages,
            "accuracy": arm.test.accuracy,
            "trained": arm.parameters.trainable,
            "precision": study.model.precision,
            "activations": arm.seconds.prepare,
            "versions": {"thaw": versions["thaw"], "torch": versions["torch"]},
        }
    )


def with_rest(found: dict[str, Any]) -> dict[str, Any]:
    """With the seconds that no stage accounts for: start-up, building the network, writing."""
    return {**found, "rest": found["total"] - found["data"] - found["training"] - found["test"]}


def watch(command: list[str], work: Path, environment: dict[str, str]) -> dict[str, float]:
    """Run a command; its seconds, and in MiB the peak memory of all its processes and of the largest."""
    log = work / "log.txt"
    with log.open("wb") as output:
        begun = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        ended, peak = threading.Event(), [0]
        sampler = threading.Thread(target=sample, args=(process.pid, ended, peak))
        sampler.start()
        _, status, usage = os.wait4(process.pid, 0)
        total = time.perf_counter() - begun
        ended.set()
        sampler.join()
    if status:
        raise SystemExit(f"failed: {' '.join(command)}\n{log.read_text()[-3000:]}")
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return {"total": total, "memory_mib": peak[0] / (1 << 20), "largest_process_mib": usage.ru_maxrss / unit}


def sample(pid: int, ended: threading.Event, peak: list[int]) -> None:
    """Keep in `peak` the most bytes that a process and its children were seen to take; shared pages count once."""
    import psutil

    while not ended.wait(0.25):
        try:
            first = psutil.Process(pid)
            family = [first, *first.children(recursive=True)]
        except psutil.Error:
            return
        taken = 0
        for member in family:
            try:
                taken += getattr(member.memory_full_info(), "pss", 0)
            except psutil.Error:  # it has ended in between
                continue
        peak[0] = max(peak[0], taken)


def fastai_side(arguments: argparse.Namespace) -> None:
    """Train and test with fastai, and write what that took; runs where fastai is installed."""
    import fastai
    import torch
    from fastai.callback.core import Callback
    from fastai.callback.schedule import Learner  # brings fit_one_cycle
    from fastai.data.transforms import Normalize, get_image_files
    from fastai.metrics import accuracy
    from fastai.torch_core import set_seed
    from fastai.vision.augment import Resize
    from fastai.vision.data import ImageDataLoaders
    from fastai.vision.learner import create_vision_model, default_split, vision_learner
    from safetensors.torch import load_file
    from torch import nn
    from torchvision import models

    class Waiting(Callback):
        """Adds up the seconds between asking for a batch and having it."""

        seconds = 0.0

        def _ask(self) -> None:
            self.asked = time.perf_counter()

        before_train = before_validate = after_batch = _ask

        def before_batch(self) -> None:
            self.seconds += time.perf_counter() - self.asked

    def alexnet(pretrained: bool) -> nn.Module:
        state = load_file(arguments.weights)
        model = models.alexnet(num_classes=len(state["classifier.6.bias"]))  # a head that is cut off below
        model.load_state_dict(state)
        return model

    def all_but_head(model: models.AlexNet) -> nn.Module:
        return nn.Sequential(model.features, model.avgpool, nn.Flatten(1), *model.classifier[:6])

    set_seed(0)
    begun = time.perf_counter()
    loaders = ImageDataLoaders.from_folder(
        arguments.fastai_side,
        train="train",
        valid="validation",
        item_tfms=Resize(224, method="squish"),
        batch_tfms=Normalize.from_stats(MEAN, STD),
        bs=arguments.batch_size,
        drop_last=False,  # by default fastai leaves out the images that fill no batch
        num_workers=arguments.workers,
    )
    listing = time.perf_counter() - begun
    if arguments.head == "same":  # `vision_learner` takes a cut and leaves it unused, so its two steps stand here
        head = nn.Linear(4096, loaders.c)
        model = create_vision_model(alexnet, loaders.c, cut=all_but_head, custom_head=head, init=None)
        learner = Learner(loaders, model, splitter=default_split, metrics=accuracy)
        learner.freeze()
    else:
        learner = vision_learner(loaders, alexnet, metrics=accuracy)
    waiting = Waiting()
    with learner.no_bar():
        begun = time.perf_counter()
        learner.fit_one_cycle(arguments.epochs, arguments.learning_rate, cbs=waiting)
        fitting = time.perf_counter() - begun
        begun = time.perf_counter()
        files = get_image_files(arguments.fastai_side / "test")
        logits, labels = learner.get_preds(dl=loaders.test_dl(files, with_labels=True))
        testing = time.perf_counter() - begun
    result = {
        "data": listing + waiting.seconds,
        "training": fitting - waiting.seconds,
        "test": testing,
        "accuracy": (logits.argmax(1) == labels).double().mean().item(),
        "trained": sum(p.numel() for p in learner.model.parameters() if p.requires_grad),
        "precision": "fp32",
        "versions": {"fastai": fastai.__version__, "torch": torch.__version__},
    }
    arguments.out.write_text(json.dumps(result))


def print_table(found: dict[str, dict[str, Any]], counts: dict[str, int], arguments: argparse.Namespace) -> None:
    """A row for each side, with how many times faster than the first it is."""
    versions = {name: version for one in found.values() for name, version in one["versions"].items()}
    sizes = " + ".join(f"{count:,}" for count in counts.values())
    print(f"{sizes} images (train, validation, test), {arguments.epochs} epochs, batch {arguments.batch_size}")
    print(f"{platform.machine()}, {os.cpu_count()} cores, {', '.join(f'{n} {v}' for n, v in versions.items())}")
    print(SAME)
    print("seconds; images/s: training images times epochs over data and training; memory in MiB")
    heads = ("data", "training", "test", "rest", "total")
    print(f"{'side':<21}{'':<4}{''.join(f'{name:>9}' for name in heads)}", end="")
    print(f"{'images/s':>10}{'accuracy':>10}{'memory':>8}{'largest':>9}{'ratio':>8}{'less rest':>11}")
    base = found[arguments.sides[0]]
    for side, one in found.items():
        speed = counts["train"] * arguments.epochs / (one["data"] + one["training"])
        work, base_work = (each["total"] - each["rest"] for each in (one, base))
        print(f"{side:<21}{one['precision']:<4}{''.join(f'{one[name]:>9.1f}' for name in heads)}", end="")
        print(f"{speed:>10.0f}{one['accuracy']:>10.4f}{one['memory_mib']:>8,.0f}", end="")
        print(f"{one['largest_process_mib']:>9,.0f}{base['total'] / one['total']:>7.1f}x{base_work / work:>10.1f}x")


def parse() -> argparse.Namespace:
    """The command line; the side that runs fastai is called with some options of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="../shared/faces", help="with splits train and validation (%(default)s)")
    parser.add_argument(
        "--weights",
        type=Path,
        default=Path("../shared/weights/alexnet_tiny_imagenet_fp16.safetensors"),
        help="AlexNet's weights, a .safetensors file (%(default)s)",
    )
    parser.add_argument("--train", type=int, default=4334, help="images (%(default)s)")
    parser.add_argument("--validation", type=int, default=333, help="images (%(default)s)")
    parser.add_argument("--test", type=int, default=333, help="images (%(default)s)")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="fastai's own default (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="of fastai's loader (%(default)s)")
    parser.add_argument("--sides", nargs="+", choices=[*FASTAI, *THAW], default=[*FASTAI, *THAW])
    parser.add_argument("--fastai-python", type=Path, default=Path("/tmp/fastai-venv/bin/python"))
    parser.add_argument("--out", type=Path, help="write all figures as JSON")
    parser.add_argument("--fastai-side", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--head", choices=FASTAI.values(), default="same", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
