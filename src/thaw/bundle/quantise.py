"""int8 for CPUs: the network quantised after training, its accuracy measured on the run's own test pictures."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from thaw.bundle.export import FromSquares, ToSquares
from thaw.bundle.export_onnx import quiet, runner, to_onnx
from thaw.bundle.load import Bundle
from thaw.compute import choose_compute
from thaw.data.dataset import Dataset
from thaw.errors import ExportError
from thaw.progress import Clock, stage
from thaw.recipe import load_recipe
from thaw.study import load_dataset

CALIBRATION, TRIAL = 200, 500
"""Training pictures that set the ranges of activations, and validation pictures that choose the kind."""
WORTH = 0.01
"""Accuracy on validation that int8 activations may cost before the weights alone are quantised."""
BATCH = 32


class _Squares(CalibrationDataReader):  # type: ignore[misc]
    """Training pictures one by one, as onnxruntime asks for them."""

    def __init__(self, squares: NDArray[np.uint8]) -> None:
        self._left = iter(squares)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        square = next(self._left, None)
        return None if square is None else {"squares": square[None]}


def quantise(bundle: Bundle, folder: Path) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """A model from raw pictures to probabilities with int8 weights, and its `quantisation` and `accuracy`.

    Weights and activations are int8, with ranges from training pictures; or, where that costs more than WORTH of the
    accuracy on validation and leaving the activations alone costs less, the weights of matrix products only. The test
    pictures are looked at once, after this choice. Raises ExportError where the bundle lies in no run, or the run's
    pictures are no longer what they were.
    """
    dataset = _dataset(bundle, folder)
    splits, labels = dataset.splits, dataset.source.labels
    random = np.random.default_rng(0)
    calibration, trial = (
        np.sort(random.permutation(rows)[:count])
        for rows, count in ((splits.train, CALIBRATION), (splits.validation, TRIAL))
    )
    network = to_onnx(FromSquares(bundle), "squares", "probabilities", bundle.preprocessing.size)

    def accuracy(proto: onnx.ModelProto, rows: NDArray[np.int64], name: str) -> float:
        classify, right = runner(proto), 0
        with stage(name, len(rows), "images") as advance:
            for start in range(0, len(rows), BATCH):
                part = rows[start : start + BATCH]
                right += int((classify(_squares(dataset, part)).argmax(1) == labels[part]).sum())
                advance(len(part))
        return right / len(rows)

    full = accuracy(network, trial, "validation, full precision")
    candidates: dict[str, onnx.ModelProto] = {
        "weights and activations": _static(network, _squares(dataset, calibration))
    }
    on_validation = {name: accuracy(proto, trial, f"validation, {name}") for name, proto in candidates.items()}
    kind = "weights and activations"
    if full - on_validation[kind] > WORTH:
        candidates["weights"] = _dynamic(network)
        on_validation["weights"] = accuracy(candidates["weights"], trial, "validation, weights")
        kind = max(on_validation, key=lambda name: on_validation[name])
    measured = {
        "quantisation": {
            "int8": kind,
            "calibration_images": len(calibration),
            "validation_images": len(trial),
            "validation_accuracy": {"full precision": full, **on_validation},
        },
        "accuracy": {
            "images": len(splits.test),
            "int8": accuracy(candidates[kind], splits.test, "test, int8"),
            "bundle": accuracy(network, splits.test, "test, full precision"),
        },
    }
    resize = to_onnx(ToSquares(bundle), "pictures", "squares")
    return _joined(resize, candidates[kind]), measured


def _dataset(bundle: Bundle, folder: Path) -> Dataset:
    run = folder.resolve().parent.parent
    if not (run / "recipe.toml").is_file():
        raise ExportError(
            f"int8 needs the training and test pictures of {folder.name}, and no run's recipe.toml lies two folders "
            "above it; give RUN/models/ARM with the whole run around it."
        )
    recipe = load_recipe(str(run / "recipe.toml"))
    dataset = load_dataset(recipe, choose_compute("cpu", "fp32"), Clock())
    if dataset.source.fingerprint() != bundle.config["data"]["fingerprint"]:
        raise ExportError(
            f"{recipe.data.source} no longer holds the pictures that {folder.name} was trained and tested on; bring "
            "them back, or run the study anew."
        )
    return dataset


def _squares(dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    return np.stack([dataset.pixels.image(int(row)) for row in rows])


def _static(network: onnx.ModelProto, calibration: NDArray[np.uint8]) -> onnx.ModelProto:
    """Weights, by channel, and activations, both unsigned: signed weights overflow on x86 CPUs without VNNI."""

    def quantised(prepared: Path, out: Path) -> None:
        quantize_static(
            prepared,
            out,
            _Squares(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QUInt8,
        )

    return _quantised(network, quantised)


def _dynamic(network: onnx.ModelProto) -> onnx.ModelProto:
    """The weights of matrix products; onnxruntime has no fast convolution that would go with them."""

    def quantised(prepared: Path, out: Path) -> None:
        quantize_dynamic(prepared, out, ["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QUInt8)

    return _quantised(network, quantised)


def _quantised(network: onnx.ModelProto, work: Callable[[Path, Path], None]) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as temporary, quiet():
        full, prepared, out = (Path(temporary) / f"{name}.onnx" for name in ("full", "prepared", "int8"))
        onnx.save(network, full)
        quant_pre_process(full, prepared, skip_symbolic_shape=True)
        work(prepared, out)
        return onnx.load(out)


def _joined(resize: onnx.ModelProto, network: onnx.ModelProto) -> onnx.ModelProto:
    """One model that resizes and then classifies."""
    named = onnx.compose.add_prefix(resize, "resize_", rename_inputs=False, rename_outputs=False)
    named.ir_version = network.ir_version
    return onnx.compose.merge_models(named, network, io_map=[("squares", "squares")])
