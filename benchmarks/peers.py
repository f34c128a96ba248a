"""What quality.py compares thaw with: other ways to train the same network on the same images, a function each.

A peer finds `train/CLASS/` and `test/CLASS/` in a folder, trains on all of train, and returns the class that it
predicts for each test image, in the order of torchvision's ImageFolder. All but fastai decode images once. Run as a
script, by quality.py and in the environment that has fastai, it writes one peer's predictions and the seconds that
they took, imports excluded.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision import models
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
Read = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class Task:
    """What every peer is given."""

    folder: Path
    weights: Path
    """MobileNetV2's, with torchvision's parameter names."""
    size: int
    """Of the images that the network sees, in pixels."""
    epochs: int
    seed: int


def main() -> None:
    """Run one peer and write what it predicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    given = parser.parse_args()
    peer = PEERS[given.peer]
    if given.peer == "fastai":
        import fastai.vision.all  # noqa: F401  (not in its seconds)
    task = Task(given.folder, given.weights, given.size, given.epochs, given.seed)
    torch.manual_seed(task.seed)
    wall, processor = time.perf_counter(), time.process_time()
    predicted = peer(task)
    found = {
        "predicted": predicted.tolist(),
        "seconds": time.process_time() - processor,
        "wall": time.perf_counter() - wall,
    }
    given.out.write_text(json.dumps(found))


def plain_loop(task: Task) -> Tensor:
    """The loop that many write: everything trained, random resized crops and flips, AdamW, one cycle up to 1e-3."""
    images, labels = read(task.folder / "train")
    model = mobilenet(task, int(labels.max()) + 1)
    steps = task.epochs * math.ceil(len(images) / 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    fit(model, images, labels, task, 32, torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps))
    return predict(model, task, centre(task.size))


def tutorial(task: Task, frozen: bool = False) -> Tensor:
    """PyTorch's "Transfer Learning for Computer Vision Tutorial": fine-tuning, or a new head on a frozen network.

    Its batches of 4, SGD of 1e-3 with momentum 0.9, a tenth of the rate after 7 epochs; its last epoch, since all
    images are trained on and none is left to choose an epoch by.
    """
    images, labels = read(task.folder / "train")
    model = mobilenet(task, int(labels.max()) + 1, frozen)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3, momentum=0.9)
    steps = 7 * math.ceil(len(images) / 4)
    fit(model, images, labels, task, 4, torch.optim.lr_scheduler.StepLR(optimizer, steps, gamma=0.1))
    return predict(model, task, centre(task.size))


def tutorial_head(task: Task) -> Tensor:
    """The tutorial's second half, "ConvNet as fixed feature extractor"."""
    return tutorial(task, frozen=True)


def regression(task: Task) -> Tensor:
    """scikit-learn's logistic regression on the frozen network's pooled features, C by cross-validation."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = mobilenet(task, 1).eval()
    model.classifier = nn.Identity()
    squash = as_tensor(v2.Resize((task.size, task.size)))
    images, labels = read(task.folder / "train")
    tests, _ = read(task.folder / "test")
    penalties = [10.0**power for power in range(-6, 2)]
    classifier = LogisticRegressionCV(
        Cs=penalties, l1_ratios=(0,), scoring="accuracy", max_iter=1000, use_legacy_attributes=False
    )
    fitted = make_pipeline(StandardScaler(), classifier).fit(outputs(model, images, squash), labels.numpy())
    return torch.from_numpy(fitted.predict(outputs(model, tests, squash)))


def fastai(task: Task) -> Tensor:
    """fastai's `vision_learner` and `fine_tune` as its book has them: presizing, `aug_transforms`, its own head.

    One epoch of the head alone comes before the others, which is fastai's default. Images are decoded anew in each
    epoch, which is fastai's own code.
    """
    from fastai.data.block import CategoryBlock, DataBlock
    from fastai.data.transforms import IndexSplitter, get_image_files, parent_label
    from fastai.torch_core import default_device, set_seed
    from fastai.vision.augment import Resize, aug_transforms
    from fastai.vision.core import imagenet_stats
    from fastai.vision.data import ImageBlock
    from fastai.vision.learner import default_split, model_meta, vision_learner

    default_device(False)
    set_seed(task.seed)
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=get_image_files,
        get_y=parent_label,
        splitter=IndexSplitter([]),  # every image is trained on
        item_tfms=Resize(task.size * 4 // 3),
        batch_tfms=aug_transforms(size=task.size, min_scale=0.75),
    )
    loaders = block.dataloaders(task.folder / "train", num_workers=0)

    def backbone(pretrained: bool) -> models.MobileNetV2:
        return mobilenet(task, loaders.c)

    model_meta[backbone] = {"cut": -1, "split": default_split, "stats": imagenet_stats}
    learner = vision_learner(loaders, backbone)
    files = [Path(file) for file, _ in ImageFolder(str(task.folder / "test")).samples]
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(task.epochs)
        probabilities, _ = learner.get_preds(dl=loaders.test_dl(files))
    predicted: Tensor = probabilities.argmax(1)
    return predicted


def read(folder: Path) -> tuple[list[Image.Image], Tensor]:
    """Decode the images of a folder with a folder for each class; their classes in the order of their names."""
    images, labels = zip(*ImageFolder(str(folder)), strict=True)
    return list(images), torch.tensor(labels)


def mobilenet(task: Task, classes: int, frozen: bool = False) -> models.MobileNetV2:
    """MobileNetV2 with the given weights and a new head."""
    model = models.mobilenet_v2()
    model.classifier[1] = nn.Identity()
    model.load_state_dict(load_file(task.weights))
    model.requires_grad_(not frozen)
    model.classifier[1] = nn.Linear(model.last_channel, classes)
    return model


def as_tensor(*before: nn.Module) -> Read:
    """From an image to what the network takes, by way of other transforms."""
    to_float = v2.ToDtype(torch.float32, scale=True)
    read_one: Read = v2.Compose([*before, v2.ToImage(), to_float, v2.Normalize(MEAN, STD)])
    return read_one


def centre(size: int) -> Read:
    """As torchvision's own transforms for tests, 256 and 224 pixels, in proportion."""
    return as_tensor(v2.Resize(size * 256 // 224), v2.CenterCrop(size))


def fit(
    model: nn.Module,
    images: list[Image.Image],
    labels: Tensor,
    task: Task,
    batch_size: int,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """Train on random resized crops and flips; the schedule takes a step with each batch."""
    augment = as_tensor(v2.RandomResizedCrop(task.size), v2.RandomHorizontalFlip())
    model.train()
    for _ in range(task.epochs):
        for rows in torch.split(torch.randperm(len(images)), batch_size):
            batch = torch.stack([augment(images[row]) for row in rows.tolist()])
            schedule.optimizer.zero_grad()
            cross_entropy(model(batch), labels[rows]).backward()
            schedule.optimizer.step()
            schedule.step()


def predict(model: nn.Module, task: Task, transform: Read) -> Tensor:
    """The class of each test image."""
    return outputs(model.eval(), read(task.folder / "test")[0], transform).argmax(1)


@torch.inference_mode()
def outputs(model: nn.Module, images: list[Image.Image], transform: Read) -> Tensor:
    """What a network gives for images, 64 at a time."""
    batches = (images[first : first + 64] for first in range(0, len(images), 64))
    return torch.cat([model(torch.stack([*map(transform, batch)])) for batch in batches])


PEERS: dict[str, Callable[[Task], Tensor]] = {
    "fastai": fastai,
    "plain-loop": plain_loop,
    "tutorial": tutorial,
    "tutorial-head": tutorial_head,
    "regression": regression,
}

if __name__ == "__main__":
    main()
