"""ONNX: a module as a checked model, its runner, and its bytes with their metadata."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn
from torch.export import ExportedProgram

from thaw.errors import ExportError, first_line
from thaw.export.graph import Classify, program
from thaw.images.preprocessing import Size

OPSET = 20
"""The version of ONNX's operator set; onnxruntime reads it since 1.17."""
LARGEST = (1 << 31) - 1
"""Bytes that one ONNX file can hold."""


def to_onnx(module: nn.Module, takes: str, gives: Sequence[str], size: Size | None = None) -> onnx.ModelProto:
    """Return a module as an ONNX model with one named input and named outputs, for any number of images.

    Parameters
    ----------
    module
        Maps images uint8 (n, height, width, 3) to tensors.
    takes, gives
        The names of the input and of the outputs.
    size
        Of these images; None where it may be any.

    Raises
    ------
    ExportError
        ONNX has no operator for something in the network, or the network is too large for one file.
    """
    return as_onnx(program(module, size), [takes], gives)


def as_onnx(graph: ExportedProgram, takes: Sequence[str], gives: Sequence[str]) -> onnx.ModelProto:
    """Return a graph as an ONNX model with these names of inputs and outputs. Raises ExportError."""
    try:
        with quiet():
            exported = torch.onnx.export(
                graph,
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                input_names=list(takes),
                output_names=list(gives),
                verbose=False,
            )
            assert exported is not None
            proto: onnx.ModelProto = exported.model_proto
    except Exception as error:  # whatever the exporter trips over
        raise ExportError(f"this network cannot be written as ONNX ({first_line(error)}); use --to torch.") from error
    if proto.ByteSize() > LARGEST:
        raise ExportError("this network is larger than the 2 GiB that one ONNX file holds; use --to torch.")
    return proto


def runner(proto: onnx.ModelProto) -> Classify:
    """Return a function that runs a model in onnxruntime, on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def classify(images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        return list(session.run(None, {name: images}))

    return classify


def finish(proto: onnx.ModelProto, metadata: dict[str, Any]) -> bytes:
    """Return the bytes of a model's file; `metadata` becomes its properties, text as it is and all else as JSON."""
    _tidy(proto)
    onnx.helper.set_model_props(
        proto,
        {
            key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in metadata.items()
        },
    )
    proto.producer_name, proto.producer_version = "thaw", metadata["versions"]["thaw-vision"]
    onnx.checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString()
    return content


def _tidy(proto: onnx.ModelProto) -> None:
    """Name the dynamic dimensions, and drop the exporter's own notes: paths, scopes, unused domains."""
    graph = proto.graph
    for value, names in ((graph.input[0], ("n", "height", "width")), *((output, ("n",)) for output in graph.output)):
        for side, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
            side.dim_param = name
    del graph.value_info[:]
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
    used = {node.domain for node in graph.node}
    versions = {entry.domain: entry.version for entry in proto.opset_import if entry.domain in used}
    del proto.opset_import[:]
    proto.opset_import.extend(onnx.helper.make_opsetid(*pair) for pair in sorted(versions.items()))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of exporter and quantiser about their own internals; errors are still raised."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
