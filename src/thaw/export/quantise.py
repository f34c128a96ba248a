"""int8 for CPUs: the network quantised after training, its accuracy measured on the run's own test images."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch.export import Dim

from thaw.bundle.doubt import Doubt
from thaw.bundle.model import Bundle
from thaw.compute.device import choose_compute
from thaw.data.dataset import Dataset
from thaw.data.load import load_dataset
from thaw.errors import ExportError
from thaw.export.graph import FromSquares, ToSquares, traced
from thaw.export.onnx import as_onnx, quiet, runner, to_onnx
from thaw.progress import Clock, stage
from thaw.recipe import load_recipe

CALIBRATION, TRIAL = 200, 500
"""Training images that set the ranges of activations, and validation images that choose the kind."""
CHANGE = 0.01
"""How far, on average, int8 may move the probabilities of validation images before a more precise kind is tried."""
BATCH = 32
GIVEN = ["probabilities", "features"]
"""The outputs of a network whose bundle says more than the first."""
PRODUCTS = ["Conv", "Gemm", "MatMul"]
"""Operators computed in int8; normalisation and the softmax of attention lose too much."""


class _Squares(CalibrationDataReader):  # type: ignore[misc]
    """Training images one by one, as onnxruntime asks for them."""

    def __init__(self, squares: NDArray[np.uint8]) -> None:
        self._left = iter(squares)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        square = next(self._left, None)
        return None if square is None else {"squares": square[None]}


def quantise(bundle: Bundle, folder: Path) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Quantise a bundle's network.

    Kinds of quantisation are tried fastest first. The first that moves the probabilities of validation images by no
    more than CHANGE on average is kept, else the one that moves them least. The test images are looked at once, after
    this choice.

    Parameters
    ----------
    bundle
        The trained model.
    folder
        The bundle's folder, inside its run.

    Returns
    -------
    tuple
        The model, from raw images to probabilities, and what is measured of it: `quantisation` and `accuracy`.

    Raises
    ------
    ExportError
        The bundle does not lie in a run, or the run's images have changed.
    """
    dataset = _dataset(bundle, folder)
    splits, labels = dataset.splits, dataset.source.labels
    random = np.random.default_rng(0)
    calibration, trial = (
        np.sort(random.permutation(rows)[:count])
        for rows, count in ((splits.train, CALIBRATION), (splits.validation, TRIAL))
    )
    network = to_onnx(FromSquares(bundle), "squares", GIVEN if bundle.doubt else GIVEN[:1], bundle.preprocessing.size)
    squares = _squares(dataset, calibration)
    kinds: dict[str, Callable[[], onnx.ModelProto]] = {
        "7-bit weights, 8-bit activations": lambda: _static(network, squares),
        "8-bit weights, 8-bit activations of matrix products": lambda: _stored(_dynamic(network)),
        "8-bit weights": lambda: _stored(network),
    }
    full = _probabilities(network, dataset, trial, "full precision")
    made: dict[str, onnx.ModelProto] = {}
    moved: dict[str, float] = {}
    for kind, make in kinds.items():
        made[kind] = make()
        moved[kind] = float(np.abs(_probabilities(made[kind], dataset, trial, kind) - full).mean())
        if moved[kind] <= CHANGE:
            break
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
    whole = joined(to_onnx(ToSquares(bundle), "pictures", ["squares"]), made[chosen], ["squares"])
    return with_doubt(whole, bundle.doubt) if bundle.doubt else whole, measured


def _dataset(bundle: Bundle, folder: Path) -> Dataset:
    run = folder.resolve().parent.parent
    if not (run / "recipe.toml").is_file():
        raise ExportError(
            f"int8 needs the training and test images of {folder.name}, but there is no recipe.toml of a run two "
            "folders above it; give RUN/models/ARM with the whole run around it."
        )
    recipe = load_recipe(str(run / "recipe.toml"))
    dataset = load_dataset(recipe, choose_compute("cpu", "fp32"), Clock())
    if not dataset.identity().items() <= bundle.config["data"].items():
        raise ExportError(
            f"{recipe.data.source} no longer holds the images and splits that {folder.name} was trained and tested "
            "on; restore them, or run the study again."
        )
    return dataset


def _squares(dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    return np.stack([dataset.pixels.image(int(row)) for row in rows])


def _probabilities(model: onnx.ModelProto, dataset: Dataset, rows: NDArray[np.int64], name: str) -> NDArray[np.float32]:
    """Return the probabilities (rows, classes) by a model from squares."""
    classify, parts = runner(model), []
    with stage(name, len(rows), "images") as advance:
        for start in range(0, len(rows), BATCH):
            parts.append(classify(_squares(dataset, rows[start : start + BATCH]))[0])
            advance(len(parts[-1]))
    return np.concatenate(parts)


def _static(network: onnx.ModelProto, calibration: NDArray[np.uint8]) -> onnx.ModelProto:
    """Quantise the activations, and by channel the weights, of all products.

    Weights get 7 bits: on x86 CPUs without VNNI the sum of two 8-bit products overflows.
    """

    def quantised(prepared: Path, out: Path) -> None:
        quantize_static(
            prepared,
            out,
            _Squares(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=PRODUCTS,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )

    return _quantised(network, quantised)


def _dynamic(network: onnx.ModelProto) -> onnx.ModelProto:
    """Quantise the weights of matrix products, activations at run time; not convolutions, slow so in onnxruntime."""

    def quantised(prepared: Path, out: Path) -> None:
        quantize_dynamic(prepared, out, ["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QUInt8)

    return _quantised(network, quantised)


def _stored(network: onnx.ModelProto) -> onnx.ModelProto:
    """Store weights in 8 bits by channel, and keep the arithmetic in fp32.

    A cast and a product restore them, which a runtime does once, as it loads the file; onnxruntime would compute
    DequantizeLinear again for each image.
    """
    stored = onnx.ModelProto()
    stored.CopyFrom(network)
    graph = stored.graph
    channels = {node.input[1]: _channel(node) for node in graph.node if node.op_type in PRODUCTS}
    restore = []
    for tensor in list(graph.initializer):
        if tensor.name not in channels or tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values, name = numpy_helper.to_array(tensor), tensor.name
        others = tuple(np.delete(np.arange(values.ndim), channels[name]))
        largest = np.maximum(np.abs(values).max(others, keepdims=True), np.finfo(np.float32).tiny)
        scale = largest / np.float32(127)
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{name}.int8"))
        graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
        restore.append(helper.make_node("Cast", [f"{name}.int8"], [f"{name}.cast"], to=onnx.TensorProto.FLOAT))
        restore.append(helper.make_node("Mul", [f"{name}.cast", f"{name}.scale"], [name]))
    nodes = [*restore, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return stored


def _channel(product: onnx.NodeProto) -> int:
    """Return the axis of a product's weights that counts its outputs."""
    by_rows = product.op_type == "Conv" or any(a.name == "transB" and a.i for a in product.attribute)
    return 0 if by_rows else -1


def _quantised(network: onnx.ModelProto, work: Callable[[Path, Path], None]) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as temporary, quiet():
        full, prepared, out = (Path(temporary) / f"{name}.onnx" for name in ("full", "prepared", "int8"))
        onnx.save(network, full)
        quant_pre_process(full, prepared, skip_symbolic_shape=True)
        work(prepared, out)
        return onnx.load(out)


def with_doubt(network: onnx.ModelProto, doubt: Doubt) -> onnx.ModelProto:
    """Join to a model of probabilities and features what a bundle says besides, in full precision, for it is small."""
    examples = tuple(
        torch.full((2, value.type.tensor_type.shape.dim[1].dim_value), 0.5) for value in network.graph.output
    )
    made = as_onnx(traced(doubt, examples, ({0: Dim("n", min=1)},) * 2), GIVEN, doubt.names())
    used = {name for node in made.graph.node for name in node.input}
    for value in list(made.graph.input):
        if value.name not in used:
            made.graph.input.remove(value)
    return joined(network, made, [value.name for value in made.graph.input], ["probabilities", *doubt.names()])


def joined(
    first: onnx.ModelProto, second: onnx.ModelProto, through: list[str], gives: list[str] | None = None
) -> onnx.ModelProto:
    """Join two models into one: outputs of the first are the second's inputs, under the same names.

    Parameters
    ----------
    first, second
        The models.
    through
        The names of what goes from one to the other.
    gives
        The outputs of the joined model; None for those of the second.
    """
    named = onnx.compose.add_prefix(first, f"{through[0]}_", rename_inputs=False, rename_outputs=False)
    named.ir_version = second.ir_version
    return onnx.compose.merge_models(named, second, io_map=[(name, name) for name in through], outputs=gives)
