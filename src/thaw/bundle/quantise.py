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
from thaw.data.load import load_dataset
from thaw.errors import ExportError
from thaw.progress import Clock, stage
from thaw.recipe import load_recipe

CALIBRATION, TRIAL = 200, 500
"""Training pictures that set the ranges of activations, and validation pictures that choose the kind."""
CHANGE = 0.01
"""How far, on average, int8 may move the probabilities of validation pictures before a gentler kind is tried."""
SMALLER = 0.5
"""A kind is worth a file where it takes at most this share of the bytes of the network in full precision."""
BATCH = 32
PRODUCTS = ["Conv", "Gemm", "MatMul"]
"""What is computed in int8; normalisations and attention's softmax lose too much."""


class _Squares(CalibrationDataReader):  # type: ignore[misc]
    """Training pictures one by one, as onnxruntime asks for them."""

    def __init__(self, squares: NDArray[np.uint8]) -> None:
        self._left = iter(squares)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        square = next(self._left, None)
        return None if square is None else {"squares": square[None]}


def quantise(bundle: Bundle, folder: Path) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """A model from raw pictures to probabilities with int8 weights, and its `quantisation` and `accuracy`.

    The first kind is kept, fastest first, that moves the probabilities of validation pictures by no more than CHANGE
    on average, or, of those that make the file smaller, the one that moves them least. The test pictures are looked at
    once, after this choice. Raises ExportError where the bundle lies in no run, or the run's pictures are no longer
    what they were.
    """
    dataset = _dataset(bundle, folder)
    splits, labels = dataset.splits, dataset.source.labels
    random = np.random.default_rng(0)
    calibration, trial = (
        np.sort(random.permutation(rows)[:count])
        for rows, count in ((splits.train, CALIBRATION), (splits.validation, TRIAL))
    )
    network = to_onnx(FromSquares(bundle), "squares", "probabilities", bundle.preprocessing.size)
    squares = _squares(dataset, calibration)
    spared = _grouped(network)
    but = ", grouped convolutions in full precision" if spared else ""
    kinds: dict[str, Callable[[], onnx.ModelProto]] = {  # without grouped convolutions the second is the first
        "7-bit weights, 8-bit activations": lambda: _static(network, squares, QuantType.QInt8, []),
        f"7-bit weights, 8-bit activations{but}": lambda: _static(network, squares, QuantType.QInt8, spared),
        f"8-bit weights and activations{but}": lambda: _static(network, squares, QuantType.QUInt8, spared),
        "8-bit weights of matrix products": lambda: _dynamic(network),
    }
    full = _probabilities(network, dataset, trial, "full precision")
    made: dict[str, onnx.ModelProto] = {}
    moved: dict[str, float] = {}
    for kind, make in kinds.items():
        smaller = make()
        if smaller.ByteSize() > SMALLER * network.ByteSize():
            continue
        made[kind] = smaller
        moved[kind] = float(np.abs(_probabilities(smaller, dataset, trial, kind) - full).mean())
        if moved[kind] <= CHANGE:
            break
    if not moved:
        raise ExportError(
            f"the network of {folder.name} has too few convolutions and matrix products for int8 to make it smaller; "
            "--to onnx writes it in full precision."
        )
    chosen = min(moved, key=lambda kind: moved[kind])

    def accuracy(model: onnx.ModelProto, name: str) -> float:
        predicted = _probabilities(model, dataset, splits.test, f"test, {name}").argmax(1)
        return float((predicted == labels[splits.test]).mean())

    measured = {
        "quantisation": {
            "kind": chosen,
            "calibration_images": len(calibration),
            "validation_images": len(trial),
            "mean_change_on_validation": moved,
        },
        "accuracy": {
            "images": len(splits.test),
            "int8": accuracy(made[chosen], chosen),
            "bundle": accuracy(network, "full precision"),
        },
    }
    return _joined(to_onnx(ToSquares(bundle), "pictures", "squares"), made[chosen]), measured


def _dataset(bundle: Bundle, folder: Path) -> Dataset:
    run = folder.resolve().parent.parent
    if not (run / "recipe.toml").is_file():
        raise ExportError(
            f"int8 needs the training and test pictures of {folder.name}, and no run's recipe.toml lies two folders "
            "above it; give RUN/models/ARM with the whole run around it."
        )
    recipe = load_recipe(str(run / "recipe.toml"))
    dataset = load_dataset(recipe, choose_compute("cpu", "fp32"), Clock())
    if not dataset.identity().items() <= bundle.config["data"].items():
        raise ExportError(
            f"{recipe.data.source} no longer holds the pictures and splits that {folder.name} was trained and tested "
            "on; bring them back, or run the study anew."
        )
    return dataset


def _squares(dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    return np.stack([dataset.pixels.image(int(row)) for row in rows])


def _probabilities(model: onnx.ModelProto, dataset: Dataset, rows: NDArray[np.int64], name: str) -> NDArray[np.float32]:
    """(rows, classes)"""
    classify, parts = runner(model), []
    with stage(name, len(rows), "images") as advance:
        for start in range(0, len(rows), BATCH):
            parts.append(classify(_squares(dataset, rows[start : start + BATCH])))
            advance(len(parts[-1]))
    return np.concatenate(parts)


def _grouped(network: onnx.ModelProto) -> list[str]:
    """The names of the grouped convolutions, depthwise ones among them.

    They hold few of the weights, and lose most by one range for the activations of all channels.
    """
    return [
        node.name
        for node in network.graph.node
        if any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
    ]


def _static(
    network: onnx.ModelProto, calibration: NDArray[np.uint8], weights: QuantType, spared: list[str]
) -> onnx.ModelProto:
    """Activations, and weights by channel, of all products but the nodes `spared`.

    Signed weights have 7 bits, since x86 CPUs without VNNI overflow on the sum of two products of 8; unsigned ones
    have 8 and take longer.
    """

    def quantised(prepared: Path, out: Path) -> None:
        quantize_static(
            prepared,
            out,
            _Squares(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=PRODUCTS,
            nodes_to_exclude=spared,
            per_channel=True,
            reduce_range=weights == QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            weight_type=weights,
        )

    return _quantised(network, quantised)


def _dynamic(network: onnx.ModelProto) -> onnx.ModelProto:
    """The weights of matrix products, activations as they come; onnxruntime has no fast convolution of that kind."""

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
