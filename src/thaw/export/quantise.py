"""int8 for CPUs: the network quantised after training, its accuracy measured on the run's own test pictures."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from thaw.bundle.load import Bundle
from thaw.compute.device import choose_compute
from thaw.data.dataset import Dataset
from thaw.data.load import load_dataset
from thaw.errors import ExportError
from thaw.export.export import FromSquares, ToSquares
from thaw.export.onnx import quiet, runner, to_onnx
from thaw.progress import Clock, stage
from thaw.recipe import load_recipe

CALIBRATION, TRIAL = 200, 500
"""Training pictures that set the ranges of activations, and validation pictures that choose the kind."""
CHANGE = 0.01
"""How far, on average, int8 may move the probabilities of validation pictures before a gentler kind is tried."""
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
    on average, or the one that moves them least. The test pictures are looked at once, after this choice. Raises
    ExportError where the bundle lies in no run, or the run's pictures are no longer what they were.
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


def _static(network: onnx.ModelProto, calibration: NDArray[np.uint8]) -> onnx.ModelProto:
    """Activations, and weights by channel, of all products.

    Weights have 7 bits, since x86 CPUs without VNNI overflow on the sum of two products of 8.
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
    """The weights of matrix products, activations as they come; onnxruntime has no fast convolution of that kind."""

    def quantised(prepared: Path, out: Path) -> None:
        quantize_dynamic(prepared, out, ["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QUInt8)

    return _quantised(network, quantised)


def _stored(network: onnx.ModelProto) -> onnx.ModelProto:
    """The same arithmetic on weights that are rounded to 8 bits by channel, and stored so.

    A cast and a product bring them back, which a runtime does once, when it loads the file; onnxruntime would compute
    DequantizeLinear anew for each picture.
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
    """The axis of a product's weights that counts its outputs."""
    by_rows = product.op_type == "Conv" or any(a.name == "transB" and a.i for a in product.attribute)
    return 0 if by_rows else -1


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
