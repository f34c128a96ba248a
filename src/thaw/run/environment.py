"""`environment.json`: versions, the machine and its looks at the test set."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch

from thaw.cache.files import write_json
from thaw.compute.device import Compute
from thaw.versions import versions

PACKAGES = (
    *("torch", "torchvision", "timm", "captum", "datasets", "numpy", "scipy", "scikit-learn", "pillow", "pyarrow"),
    "safetensors",
)


def write_environment(run: Path, compute: Compute, looks: int | None) -> None:
    """Write `environment.json`: versions, the machine, and how many studies on it have looked at this test set."""
    packages = versions(*PACKAGES)
    write_json(
        run / "environment.json",
        {
            "thaw": versions("thaw-vision")["thaw-vision"],
            "python": platform.python_version(),
            **{name: packages[name] for name in ("torch", "torchvision", "timm")},
            "platform": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "device": torch.cuda.get_device_name(compute.device)
            if compute.device.type == "cuda"
            else compute.device.type,
            "precision": compute.precision,
            "packages": packages,
            "looks": looks,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
