"""The founding study's arms against a plain loop: torchvision, a DataLoader, the whole network at every step."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader
from torchvision import models, transforms

from thaw.compute.batches import shuffled
from thaw.compute.device import Compute
from thaw.data.dataset import Dataset
from thaw.data.load import load_dataset
from thaw.progress import Clock
from thaw.recipe import Recipe, load_recipe
from thaw.training.loop import fit
from thaw.training.network import Setup, epoch_seed
from thaw.training.prepare import prepare
from thaw.training.specs import resolve_arm

FP32 = Compute(torch.device("cpu"), "fp32")
TRAINED = {"scratch": [""], "head": ["classifier.6."], "last-two-fc": ["classifier.4.", "classifier.6."]}


class Photographs(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """The pictures of a class folder, by row of the study's source, through torchvision's transforms."""

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        self.folder, self.source = folder, dataset.source
        self.transform = transforms.Compose(
            [
                transforms.Resize((224, 224)),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        path = self.folder / str(self.source.ids[row])
        return self.transform(Image.open(path).convert("RGB")), sorted(p.name for p in self.folder.iterdir()).index(
            path.parent.name
        )


def plain_losses(
    start: dict[str, torch.Tensor], arm: str, photographs: Photographs, batches: list[np.ndarray], rate: float
) -> list[float]:
    """The loss of each step of one epoch, as a notebook would train this arm."""
    model = models.alexnet()
    model.classifier[6] = nn.Linear(4096, 2)
    model.load_state_dict(start)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith(tuple(TRAINED[arm]))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    loader = iter(DataLoader(photographs, batch_sampler=[rows.tolist() for rows in batches]))
    model.train()
    losses = []
    torch.manual_seed(epoch_seed(0, 0))
    for images, labels in loader:
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture
def recipe(class_folder: Path, tmp_path: Path) -> Recipe:
    torch.manual_seed(0)
    state = {name: value.half() for name, value in models.alexnet().state_dict().items()}
    save_file(state, tmp_path / "alexnet.safetensors")
    settings = (
        f"model.weights={tmp_path / 'alexnet.safetensors'}",
        "data.validation=12",
        "data.test=12",
        "train.batch_size=10",
        "train.precision=fp32",
    )
    return load_recipe("celeba-hq-gender", str(class_folder), settings)


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["scratch", "head", "last-two-fc"])
@pytest.mark.parametrize("activations", ["auto", "off"])
def test_losses_are_those_of_a_plain_loop(recipe: Recipe, class_folder: Path, arm: str, activations: str) -> None:
    recipe = recipe.model_copy(update={"cache": recipe.cache.model_copy(update={"activations": activations})})
    dataset = load_dataset(recipe, FP32, Clock())
    spec = resolve_arm(arm, recipe.arms[arm], recipe)
    network = prepare(spec, 0, dataset, FP32)
    start = {name: value.clone() for name, value in network.model.state_dict().items()}
    batches = shuffled(dataset.splits.train, 10, 0, 0)
    rate = 1e-4
    expected = plain_losses(start, arm, Photographs(class_folder, dataset), batches, rate)
    setup = Setup(network, spec, 0, dataset.labels(FP32.device), dataset.splits, FP32)
    torch.manual_seed(epoch_seed(0, 0))
    learner = setup.learner(network.trainable, rate, 0.0)
    (history,) = fit(setup.task(dataset.splits.train), [learner], batches, lambda _: None)
    assert history.losses / history.images == pytest.approx(expected, abs=1e-4)
    assert len(expected) == 4
    assert min(expected) > 0.01
