"""One arm of a study: made ready, searched, trained, tested, saved."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thaw.bundle.save import bundle_config, save_bundle
from thaw.cache.checkpoint import load_state, save_state
from thaw.cache.files import require_room
from thaw.compute.device import Compute
from thaw.data.dataset import Dataset
from thaw.errors import DivergedError, ModelError
from thaw.nets.adapters import merge
from thaw.nets.backbones import content_of
from thaw.progress import Clock, say
from thaw.recipe import Recipe
from thaw.run.folder import work_folder
from thaw.run.summary import TestOutputs
from thaw.scoring.metrics import metrics
from thaw.training.network import test
from thaw.training.prepare import Kept, prepare
from thaw.training.probes import catch_up, probe_head
from thaw.training.search import search
from thaw.training.train import train


def run_arm(
    arm: str,
    seed: int,
    dataset: Dataset,
    recipe: Recipe,
    compute: Compute,
    behind: list[tuple[str, int]],
    kept: list[Kept],
    clock: Clock,
    run: Path,
) -> tuple[dict[str, Any], TestOutputs]:
    """Search, final training and the one look at the test set; returns what is noted, and what the arm answered.

    What an earlier run of the same study finished, in whole or in part, is found in `run` and not done again. `behind`
    are the arms and seeds that it finished whole, whose activations are not in `kept` before one that follows needs
    them. An arm that diverges in bf16 is trained again in fp32.
    """
    splits, labels = dataset.splits, dataset.labels(compute.device)
    work = work_folder(run, dataset, recipe, compute) / f"{arm}-{seed}"
    bundle = run / "models" / arm if seed == recipe.train.seeds[0] else None
    done = load_state(work / "done.safetensors")
    if done and (bundle is None or done[1]["model"] == content_of(str(bundle / "model.safetensors"))):
        behind.append((arm, seed))
        return done[1]["result"], answers_of(arm, seed, done[0])
    own = Clock()
    with clock("activations"), own("prepare"):
        while behind:
            catch_up(*behind.pop(0), dataset, recipe, compute, kept)
        network, noted = prepare(arm, seed, dataset, recipe, compute, kept)
    require_room(run, sum(tensor.nbytes for tensor in network.model.state_dict().values()))
    diverged = False
    try:
        if recipe.arms[arm].probe:
            noted["probe"] = probe_head(network, arm, seed, dataset, recipe, compute, kept, work / "probe")
        found = search(network, labels, splits, recipe, seed, compute, work)
        trained = train(network, found.learning_rate, labels, splits, recipe, seed, compute, work)
    except DivergedError as error:
        if compute.precision == "fp32":
            raise
        say(f"arm {arm}: {error.args[0].rstrip('.')}; it is trained again in fp32")
        diverged = True
    if diverged:  # now that the error, which holds the network too, is gone
        del network
        return run_arm(arm, seed, dataset, recipe, replace(compute, precision="fp32"), [], [], clock, run)
    with own("test"):
        logits = test(network, splits.test, recipe, compute).numpy()
    if not np.isfinite(logits).all():
        raise ModelError(f"arm {arm} answers some test images with infinite numbers; lower the rates in [search].")
    answers = {"test": torch.from_numpy(logits)}
    if recipe.train.refit == "train":
        answers["validation"] = test(network, splits.validation, recipe, compute)
    merge(network.model)
    scores = metrics(dataset.source.labels[splits.test], logits)
    spent = {**own.seconds(), "search": found.seconds, "train": trained.seconds}
    if "probe" in noted:
        spent["probe"] = noted["probe"].pop("seconds")
    spent["total"] = sum(seconds for stage, seconds in spent.items() if stage != "total")
    result = {
        "seed": seed,
        **asdict(found),
        **asdict(trained),
        "test": scores,
        **noted,
        "precision": compute.precision,
        "seconds": spent,
    }
    model = None
    if bundle:
        save_bundle(bundle, network.model, bundle_config(recipe, arm, dataset, scores))
        model = content_of(str(bundle / "model.safetensors"))
    save_state(work / "done.safetensors", answers, {"result": result, "model": model})
    (work / "epoch.safetensors").unlink(missing_ok=True)
    return result, answers_of(arm, seed, answers)


def answers_of(arm: str, seed: int, answers: dict[str, Tensor]) -> TestOutputs:
    """What an arm answered, from the tensors that its run keeps."""
    arrays = {name: tensor.numpy() for name, tensor in answers.items()}
    return TestOutputs(arm, seed, arrays["test"], arrays.get("validation"))
