"""What the audit finds and costs: seconds beyond the features, peak memory, and its search over many made-up images.

.venv/bin/python benchmarks/audit.py ../shared/faces --set data.test=validation --counts 10000 100000
"""

import argparse
import resource
import sys
import time

import numpy as np
import torch

from thaw.audit.audit import audit
from thaw.audit.leak import estimate_leak
from thaw.compute.device import choose_compute
from thaw.data.duplicates import components, near_pairs
from thaw.data.load import load_dataset
from thaw.progress import Clock
from thaw.recipe import load_recipe
from thaw.training.features import extract_features
from thaw.training.specs import feature_spec


def main() -> None:
    """Audit a source, then search made-up outlines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", help="the embedded drawings where it is left out")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--counts", nargs="*", type=int, default=[10_000])
    arguments = parser.parse_args()
    recipe = load_recipe("photos" if arguments.source else "emoji-people", arguments.source, tuple(arguments.set))
    compute = choose_compute(recipe.train.device, recipe.train.precision)
    dataset = load_dataset(recipe, compute, Clock())
    begun = time.perf_counter()
    audited = audit(dataset, recipe.data)
    print(f"{len(dataset.source.ids):,} images, audit: {time.perf_counter() - begun:.1f} s, {peak()}")
    for finding in audited.record.findings:
        print(f"  {finding.severity}: {finding.what}")
    features = extract_features(feature_spec(recipe), dataset, compute).values
    begun = time.perf_counter()
    worth = estimate_leak(features, dataset.source.labels, dataset.splits, audited.clusters)
    print(f"probes beyond the features: {time.perf_counter() - begun:.1f} s, {worth}")
    for count in arguments.counts:
        search(count, compute.device)


def search(count: int, device: torch.device) -> None:
    """Find 1% planted copies among random outlines."""
    random = np.random.default_rng(0)
    looks = random.standard_normal((count, 512), dtype=np.float32)
    copies = count // 100
    looks[-copies:] = looks[:copies] + 0.1 * looks[-copies:]
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)
    begun = time.perf_counter()
    found = components(count, ((first, second) for first, second, _ in near_pairs(looks, device)))
    seconds = time.perf_counter() - begun
    groups = int((np.bincount(found) > 1).sum())
    print(f"{count:,} made-up outlines, {copies:,} copies: {groups:,} found in {seconds:.1f} s, {peak()}")


def peak() -> str:
    """The most memory that this process has held."""
    unit = 2**20 if sys.platform == "linux" else 2**30
    return f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit:.1f} GiB"


if __name__ == "__main__":
    main()
