"""Every way of training on the same photographs, with three seeds: a table for each backbone.

    python benchmarks/ways.py SOURCE --alexnet WEIGHTS.safetensors [--out runs/ways] [--seeds 3]

MobileNetV2 comes with thaw and has no linear layers before its head, so that adapters are tried on AlexNet, which has
no normalisation layers in turn.
"""

import argparse
from pathlib import Path
from typing import Any

from thaw.recipe import Recipe, validate
from thaw.study import run_study

TRAIN = {
    "batch_size": 64,
    "epochs": 3,
    "refit": "train",
    "optimizer": "adamw",
    "weight_decay": 0.05,
    "schedule": "cosine",
    "warmup": 0.2,
}
SEARCH = {
    "method": "halving",
    "range": [1e-4, 1e-2],
    "candidates": 5,
    "steps": 20,
    "max_steps": 160,
    "schedule": "train",
    "ties": "noise",
}
ARMS: dict[str, dict[str, Any]] = {
    "scratch": {"train": "all", "weights": "random"},
    "head": {"train": "head"},
    "norm": {"train": "norm"},
    "bias": {"train": "bias"},
    "lora": {"train": "lora"},
    "last-stage": {"train": "last-stage"},
    "everything": {"train": "all"},
    "lp-ft": {"train": "all", "probe": True},
    "layer-decay": {"train": "all", "layer_decay": 0.8},
}


def main() -> None:
    """Run a study for each backbone and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--alexnet", required=True, help="a .safetensors file of AlexNet's weights")
    parser.add_argument("--out", type=Path, default=Path("runs/ways"))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    weights = str(Path(options.alexnet).resolve())
    for backbone, given, size, arms in (
        ("mobilenet_v2", "thaw:mobilenet_v2", 64, [arm for arm in ARMS if arm != "lora"]),
        ("alexnet", weights, 224, ["head", "lora", "last-stage"]),
    ):
        recipe = validate(
            {
                "name": f"ways-{backbone}",
                "data": {"source": str(Path(options.source).resolve()), "validation": 1600, "test": "validation"},
                "images": {"size": size, "resize": "squash"},
                "model": {"backbone": f"torchvision/{backbone}", "weights": given},
                "search": SEARCH,
                "augment": {"policy": "flip", "views": TRAIN["epochs"]},
                "train": TRAIN | {"seeds": list(range(options.seeds)), "precision": "fp32" if size < 100 else "auto"},
                "arms": {arm: ARMS[arm] for arm in arms},
            },
            "ways",
            Recipe,
        )
        found = run_study(recipe, options.out / backbone)
        print(f"\n{backbone}, {size} px, {found.splits}, seeds {recipe.train.seeds}\n")
        print("| arm | trained parameters | rate | accuracy | over seeds | 95% interval |")
        print("|---|---|---|---|---|---|")
        for arm, it in found.arms.items():
            over, interval = it.over_seeds.accuracy, it.intervals.accuracy
            spread = "" if over.deviation is None else f"± {over.deviation:.4f}"
            rates = ", ".join(f"{trial.learning_rate:.1e}" for trial in it.trials)
            print(
                f"| {arm} | {it.parameters.trainable:,} | {rates} | {over.mean:.4f} | {spread} "
                f"| {interval[0]:.3f}–{interval[1]:.3f} |"
            )
        print(f"\nRecommended: {found.recommended}")


if __name__ == "__main__":
    main()
