"""A plan's trials and prefixes are functions of their keys: any order, any process, any start give the same bits."""

import gc
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from helpers.images import make_class_folders
from thaw.arm import run_trial
from thaw.cache.budget import cache_folder
from thaw.compute.device import choose_compute
from thaw.data.dataset import Dataset
from thaw.data.load import load_dataset
from thaw.engine import here
from thaw.plan import Plan, Study, arms_of, plan_study
from thaw.progress import Clock
from thaw.recipe import Recipe, load_recipe
from thaw.training.activations import Prefix, cached_activations
from thaw.training.prepare import build_network, normalised
from thaw.training.results import TrialResult

FP32 = choose_compute("cpu", "fp32")
WAYS = """
[data]
source = "images"
[images]
size = 64
[model]
backbone = "torchvision/mobilenet_v2"
weights = "thaw:mobilenet_v2"
[search]
learning_rates = [1e-3, 1e-2]
steps = 2
[train]
batch_size = 16
epochs = 2
precision = "fp32"
[arms]
last-stage = { train = "last-stage" }
norm = { train = "norm" }
bias = { train = "bias" }
head = { train = "head" }
lp-ft = { train = ["features.18", "classifier.1"], probe = true }
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A study whose arms have prefixes of several lengths, on 520 images: three batches of activations."""
    folder = tmp_path_factory.mktemp("plan")
    make_class_folders(folder / "images", 520)
    (folder / "ways.toml").write_text(WAYS)
    return load_recipe(str(folder / "ways.toml"))


def open_study(recipe: Recipe, folder: Path) -> Study:
    return Study(recipe, load_dataset(recipe, FP32, Clock()), FP32, folder)


def prefix_of(recipe: Recipe, arm: str, dataset: Dataset) -> tuple[Prefix, nn.Sequential]:
    """An arm's prefix, and the network that computes it."""
    (spec,) = (one for one in arms_of(recipe) if one.name == arm)
    built = build_network(spec, 0, 2, dataset.preprocessing.size, FP32)
    assert built.prefix is not None
    return built.prefix, normalised(built, dataset, FP32)


def same_bits(one: TrialResult, other: TrialResult) -> bool:
    """Whether two results are equal but for the seconds."""
    records = [result.record for result in (one, other)]
    facts = [(r.network, r.search.attempts, r.training.epochs, r.scores, r.search.learning_rate) for r in records]
    return facts[0] == facts[1] and bool((one.logits == other.logits).all())


@pytest.mark.parametrize("shorter", [("norm",), ("last-stage", "norm")])
def test_activations_go_on_from_the_longest_prefix_with_the_bits_of_the_pixels(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shorter: tuple[str, ...]
) -> None:
    """What comes before the longest cached prefix sees the first and the last batch alone, which are compared."""
    dataset = load_dataset(recipe, FP32, Clock())
    longest, network = prefix_of(recipe, "head", dataset)
    given = dataset.seen()[0], dataset.preprocessing
    expected = cached_activations(longest, network, *given, FP32).arrays
    monkeypatch.setenv("THAW_CACHE", str(tmp_path))
    known = []
    for arm in shorter:
        prefix, own = prefix_of(recipe, arm, dataset)
        cached_activations(prefix, own, *given, FP32)
        known.append(prefix)
    last = known[0] if len(shorter) == 1 else max(known, key=lambda one: one.cut.macs)
    seen: dict[str, int] = {"before": 0, "after": 0}

    def count(name: str) -> None:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            seen[name] += len(inputs[0])

        block = "features.12.conv.2" if name == "before" else "features.18.0"
        network.get_submodule(f"1.{block}").register_forward_pre_hook(hook)

    count("before")
    count("after")
    found = cached_activations(longest, network, *given, FP32, known).arrays
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    compared = 256 + 8
    assert last.cut.frontier[0].startswith("features.13" if "last-stage" in shorter else "features.0")
    assert seen["after"] == 520 + 2 * compared
    assert seen["before"] == (compared if "last-stage" in shorter else 520 + 2 * compared)


def test_the_key_of_activations_does_not_depend_on_other_arms(recipe: Recipe) -> None:
    dataset = load_dataset(recipe, FP32, Clock())
    alone = recipe.model_copy(update={"arms": {"head": recipe.arms["head"]}})
    given = dataset.seen()[0], dataset.preprocessing, FP32
    keys = {prefix_of(one, "head", dataset)[0].key(*given) for one in (recipe, alone)}
    assert len(keys) == 1


ONE_TRIAL = """
import sys
from pathlib import Path
from thaw.arm import run_trial
from thaw.compute.device import choose_compute
from thaw.data.load import load_dataset
from thaw.plan import Study, plan_study
from thaw.progress import Clock
from thaw.recipe import load_recipe

recipe, folder, name = load_recipe(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
compute = choose_compute("cpu", "fp32")
study = Study(recipe, load_dataset(recipe, compute, Clock()), compute, folder)
run_trial(study, next(trial for trial in plan_study(study).trials if trial.name == name))
"""


def run_all(recipe: Recipe, folder: Path, reverse: bool) -> tuple[Study, Plan, dict[str, TrialResult]]:
    study = open_study(recipe, folder)
    plan = plan_study(study)
    trials = plan.trials[::-1] if reverse else plan.trials
    results = here.map(lambda trial: run_trial(study, trial), trials)
    return study, plan, {trial.name: result for trial, result in zip(trials, results, strict=True)}


@pytest.mark.slow
def test_trials_in_order_in_reverse_and_each_in_a_process_of_its_own_have_the_same_bits(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plan, results = run_all(recipe, tmp_path / "in-order", reverse=False)
    layouts = cache_folder() / "layouts"  # chosen by a trial that measures time; everything else is made anew
    for name, reverse in (("reverse", True), ("alone", False)):
        fresh = tmp_path / f"cache-{name}"
        shutil.copytree(layouts, fresh / "layouts")
        monkeypatch.setenv("THAW_CACHE", str(fresh))
        if name == "alone":
            for trial in plan.trials:
                monkeypatch.setenv("THAW_CACHE", str(tmp_path / f"cache-{trial.name}"))
                shutil.copytree(layouts, tmp_path / f"cache-{trial.name}" / "layouts")
                where = str(Path(recipe.data.source).parent / "ways.toml")
                arguments = [sys.executable, "-c", ONE_TRIAL, where, str(tmp_path / name), trial.name]
                subprocess.run(arguments, check=True, capture_output=True)
            monkeypatch.setenv("THAW_CACHE", str(fresh))
        _, _, others = run_all(recipe, tmp_path / name, reverse)
        assert others.keys() == results.keys()
        assert all(same_bits(results[key], others[key]) for key in results), name


def test_no_network_outlives_its_trial(recipe: Recipe, tmp_path: Path) -> None:
    study = open_study(recipe, tmp_path)
    plan = plan_study(study)

    def networks() -> int:
        gc.collect()
        return sum(issubclass(type(one), nn.Conv2d) for one in gc.get_objects())

    before = networks()
    results = here.map(lambda trial: run_trial(study, trial), plan.trials[-2:])
    assert networks() == before
    assert len(results) == 2
