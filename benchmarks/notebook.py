"""The founding study as a notebook has it: plain torch, torchvision and DataLoader, the whole AlexNet at each step.

    .venv/bin/python benchmarks/notebook.py mattymchen/celeba-hq --out notebook.json

is what `thaw` is measured against, so it shares no code with it. Each arm tries each learning rate for some steps on
train, keeps the rate with the best accuracy on validation, trains anew on both together and is scored on test. Every
image is read, resized and run through all layers each time that it is used; fp32 throughout, `model.train()` while
training, so the dropout of frozen layers is active. The source's `validation` split is the test set.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets, load_dataset
from safetensors.torch import load_file
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import models, transforms

TRAINED = {
    "scratch": ["features", "classifier"],
    "head": ["classifier.6"],
    "last-two-fc": ["classifier.4", "classifier.6"],
}
LEARNING_RATES = [1e-5, 1e-4, 1e-3]
TRANSFORM = transforms.Compose(
    [
        transforms.Resize((224, 224)),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)


class Clock:
    """Seconds, images and seconds spent waiting for the next batch, of one stage."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.waiting = 0.0
        self.images = 0

    def batches(self, loader: DataLoader[Any], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """The loader's batches on the device, the time that each is waited for added up."""
        batches = iter(loader)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self.waiting += time.perf_counter() - asked
            if batch is None:
                return
            self.images += len(batch["label"])
            yield batch["image"].to(device), batch["label"].to(device)

    def read(self) -> dict[str, float]:
        """The figures so far; call it when the last result has left the device."""
        seconds = time.perf_counter() - self.start
        return {
            "seconds": round(seconds, 3),
            "waiting_for_data": round(self.waiting, 3),
            "images": self.images,
            "images_per_second": round(self.images / seconds, 2),
        }


def main() -> None:
    """Run the arms that were asked for and write what they took and reached."""
    options = parse()
    torch.manual_seed(options.seed)
    if options.threads:
        torch.set_num_threads(options.threads)
    started = time.perf_counter()
    train, validation, test = read(options)
    result: dict[str, Any] = {
        "command": sys.argv,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": str(options.device),
        "splits": {"train": len(train), "validation": len(validation), "test": len(test)},
        "arms": {},
    }
    for arm in options.arms:
        result["arms"][arm] = run(arm, train, validation, test, options)
        print(arm, json.dumps(result["arms"][arm]), flush=True)
    result["seconds"] = round(time.perf_counter() - started, 3)
    result["peak_memory_mb"] = {
        "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "largest_worker": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        "workers": options.workers,
    }
    text = json.dumps(result, indent=2)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)


def run(arm: str, train: Dataset, validation: Dataset, test: Dataset, options: argparse.Namespace) -> dict[str, Any]:
    """One arm: the learning-rate search, the final training and the test."""
    stages, clock, search = {}, Clock(), []
    for learning_rate in LEARNING_RATES:
        model = build(arm, options)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], learning_rate)
        steps = options.steps
        while steps > 0:  # an epoch of a small data set may have fewer
            steps -= fit(model, optimizer, loader(train, options, shuffle=True), clock, options.device, steps)["steps"]
        labels, predicted = predict(model, loader(validation, options), clock, options.device)
        search.append({"learning_rate": learning_rate, "accuracy": (labels == predicted).double().mean().item()})
    stages["search"] = clock.read()

    clock = Clock()
    best = max(search, key=lambda trial: trial["accuracy"])["learning_rate"]
    model = build(arm, options)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], best)
    both = loader(concatenate_datasets([train, validation]), options, shuffle=True)
    epochs = [fit(model, optimizer, both, clock, options.device) for _ in range(options.epochs)]
    stages["train"] = clock.read()

    clock = Clock()
    labels, predicted = predict(model, loader(test, options), clock, options.device)
    stages["test"] = clock.read()
    return {
        "learning_rate": best,
        "search": search,
        "epochs": epochs,
        "test": score(labels, predicted),
        "stages": stages,
    }


def build(arm: str, options: argparse.Namespace) -> nn.Module:
    """AlexNet with a new two-way head; only what the arm trains has gradients."""
    pretrained = arm != "scratch"
    downloaded = models.AlexNet_Weights.IMAGENET1K_V1 if pretrained and not options.weights else None
    model = models.alexnet(weights=downloaded)
    model.classifier[6] = nn.Linear(4096, 2)
    if pretrained and options.weights:
        state = load_file(options.weights)
        model.load_state_dict({k: v for k, v in state.items() if not k.startswith("classifier.6.")}, strict=False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = any(name.startswith(f"{module}.") for module in TRAINED[arm])
    return model.to(options.device)


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: DataLoader[Any],
    clock: Clock,
    device: torch.device,
    most: int | None = None,
) -> dict[str, float]:
    """An epoch, or its first `most` steps; loss and accuracy are averages over the images, while they are learnt."""
    model.train()
    loss_sum, correct, seen, steps = 0.0, 0, 0, 0
    for images, labels in clock.batches(batches, device):
        optimizer.zero_grad()
        logits = model(images)
        loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * len(labels)
        correct += int((logits.argmax(1) == labels).sum())
        seen += len(labels)
        steps += 1
        if steps == most:
            break
    return {"loss": loss_sum / seen, "accuracy": correct / seen, "steps": steps}


@torch.no_grad()
def predict(model: nn.Module, batches: DataLoader[Any], clock: Clock, device: torch.device) -> tuple[Tensor, Tensor]:
    """The labels (n,) and the predicted classes (n,) of a data set."""
    model.eval()
    pairs = [(labels.cpu(), model(images).argmax(1).cpu()) for images, labels in clock.batches(batches, device)]
    return torch.cat([labels for labels, _ in pairs]), torch.cat([predicted for _, predicted in pairs])


def score(labels: Tensor, predicted: Tensor) -> dict[str, Any]:
    """Accuracy, support-weighted precision, recall and F1, and the confusion matrix (rows are true)."""
    precision, recall, f1, _ = precision_recall_fscore_support(labels, predicted, average="weighted", zero_division=0)
    return {
        "accuracy": (labels == predicted).double().mean().item(),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "confusion": confusion_matrix(labels, predicted, labels=[0, 1]).tolist(),
    }


def loader(dataset: Dataset, options: argparse.Namespace, shuffle: bool = False) -> DataLoader[Any]:
    """Batches of a data set, read and resized by the workers while the network runs."""
    return DataLoader(
        dataset.with_transform(transform),
        batch_size=options.batch_size,
        shuffle=shuffle,
        num_workers=options.workers,
        pin_memory=options.device.type == "cuda",
    )


def transform(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Pictures as normalised tensors (3, 224, 224), float32."""
    return {"image": [TRANSFORM(image.convert("RGB")) for image in rows["image"]], "label": rows["label"]}


def read(options: argparse.Namespace) -> tuple[Dataset, Dataset, Dataset]:
    """Train, validation and test; the counts that were asked for are drawn stratified by label."""
    source = load_dataset(options.source)
    source = source.select_columns(["image", "label"])
    rest, validation = draw(source["train"], options.validation, options.seed)
    _, train = draw(rest, options.train, options.seed)
    _, test = draw(source["validation"], options.test, options.seed)
    return train, validation, test


def draw(dataset: Dataset, count: int | None, seed: int) -> tuple[Dataset, Dataset]:
    """What is left of a data set, and `count` of its images; all of them if that is None."""
    if count is None or count >= len(dataset):
        return dataset.select([]), dataset
    rest, drawn = train_test_split(
        range(len(dataset)), test_size=count, stratify=dataset["label"][:], random_state=seed
    )
    return dataset.select(rest), dataset.select(drawn)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="The founding study, as a notebook has it.")
    parser.add_argument("source", help="a Hugging Face data set: a folder, or a name on the hub")
    parser.add_argument("--weights", type=Path, help="pretrained weights, .safetensors; else torchvision's own")
    parser.add_argument("--validation", type=int, default=2000, help="images drawn from train (%(default)s)")
    parser.add_argument("--train", type=int, help="images of the rest of train to use (all)")
    parser.add_argument("--test", type=int, help="images of the split named validation to test on (all)")
    parser.add_argument("--arms", nargs="+", choices=TRAINED, default=list(TRAINED))
    parser.add_argument("--epochs", type=int, default=3, help="of the final training (%(default)s)")
    parser.add_argument("--steps", type=int, default=15, help="for each learning rate tried (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--workers", type=int, default=2, help="processes that load images (%(default)s)")
    parser.add_argument("--threads", type=int, help="threads of the arithmetic (torch's choice)")
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where to write the figures, .json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
