"""Write the whole fill as an ONNX file, which runs without this package and without torch."""

from __future__ import annotations

import copy
import importlib.util
import io
import logging
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maerestore.errors import MaerestoreError
from maerestore.image import atomic_file
from maerestore.inpaint.graph import FillGraph
from maerestore.inpaint.pipeline import Inpainter

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
SIDE = 512  # pixels of the window
LARGEST = 65535  # pixels of a side that the graph takes
TOLERANCE = 2  # levels of 255 between torch and onnxruntime


class OnnxError(MaerestoreError):
    """A graph that cannot be made, or that does not compute what it was made from."""


def require_packages() -> None:
    """Raise an `OnnxError` that names the packages which are missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise OnnxError(f"ONNX needs {' and '.join(missing)}: pip install 'maerestore[onnx]'")


def export_onnx(inpainter: Inpainter, path: Path, side: int | None = None, overwrite: bool = False) -> int:
    """Write `FillGraph` as an ONNX file and check it under onnxruntime.

    The file takes `image` (1, 3, H, W) uint8 RGB and `mask` (1, 1, H, W) uint8, not 0 = hole, of any height and width
    up to 65535, and gives `filled` (1, 3, H, W) uint8 with every known pixel as it was.

    Args:
        inpainter: on the CPU; its model, refiner and settings are written, in float32.
        path: file to write; it appears whole, and checked, or not at all.
        side: pixels of the square window that is filled, a multiple of the side that the model sees; None for the
            first such multiple from 512.
        overwrite: replace a file that is there.

    Returns:
        the size of the file in bytes.

    Raises:
        OnnxError: packages are missing, the model has no such graph, or onnxruntime gives another fill.
        maerestore.image.InputError: the file is there, or cannot be written.

    Example:
        >>> export_onnx(Inpainter.from_pretrained(device="cpu"), Path("fill.onnx"))          # doctest: +SKIP
    """
    require_packages()
    # Channels first: the layout of a weight in memory is nothing to a graph. The inpainter's own stays as it is.
    refiner = copy.deepcopy(inpainter.refiner)
    if refiner is not None:
        refiner = refiner.to(memory_format=torch.contiguous_format)
    side = inpainter.size * max(1, -(-SIDE // inpainter.size)) if side is None else side
    try:
        graph = FillGraph(inpainter.model, refiner, side, inpainter.size, inpainter.curve, inpainter.smooth).eval()
    except ValueError as err:
        raise OnnxError(str(err)) from err
    content = _convert(graph)
    _check(graph, content)
    with atomic_file(path, overwrite) as file:
        file.write(content)
    return len(content)


def _convert(graph: FillGraph) -> bytes:
    """The ONNX file."""
    height, width = torch.export.Dim("height", min=1, max=LARGEST), torch.export.Dim("width", min=1, max=LARGEST)
    shapes = ({2: height, 3: width}, {2: height, 3: width})
    log = logging.getLogger("torch.onnx")
    level, quiet = log.level, io.StringIO()
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(quiet), redirect_stderr(quiet):
            warnings.simplefilter("ignore")
            # Not optimised: that takes minutes, and the runtime does it when it loads the file.
            program: Any = torch.onnx.export(
                graph,
                _example(60, 70),
                dynamo=True,
                input_names=["image", "mask"],
                output_names=["filled"],
                dynamic_shapes=shapes,
                optimize=False,
                verbose=False,
            )
            return bytes(_with_casts(program.model_proto).SerializeToString())
    except Exception as err:  # the exporter's have no common base
        raise OnnxError(f"the graph cannot be written as ONNX ({_first_line(err)})") from err
    finally:
        log.setLevel(level)


def _with_casts(proto: Any) -> Any:
    """Name the type in each conversion, in place of "like that tensor": onnxruntime has no kernel for the latter, and
    warns of each one, in every program that loads the file, when it computes what is constant."""
    import onnx

    # Of intermediate results the exporter does not state all types.
    graph = onnx.shape_inference.infer_shapes(proto).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "CastLike" and types.get(node.input[1]):
            node.op_type = "Cast"
            node.attribute.append(onnx.helper.make_attribute("to", types[node.input.pop()]))
    return proto


def _check(graph: FillGraph, content: bytes) -> None:
    """Compare fills of torch and onnxruntime at a size smaller and one larger than the window."""
    import onnxruntime

    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        for size in ((graph.side // 2, graph.side // 3), (graph.side + 21, 2 * graph.side + 10)):
            image, mask = _example(*size)
            theirs = session.run(None, {"image": image.numpy(), "mask": mask.numpy()})[0]
            apart = int(np.abs(graph(image, mask).numpy().astype(int) - theirs).max())
            if apart > TOLERANCE:
                raise OnnxError(
                    f"onnxruntime's fill of {size[1]}x{size[0]} pixels is {apart} levels of 255 off torch's"
                )
    except OnnxError:
        raise
    except Exception as err:  # onnxruntime's have no common base
        raise OnnxError(f"onnxruntime cannot run the graph ({_first_line(err)})") from err


def _example(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture of soft noise with two holes."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(1, 3, 9, 9, generator=generator)
    image = torch.nn.functional.interpolate(small, (height, width), mode="bilinear").mul(255).round().to(torch.uint8)
    mask = torch.zeros(1, 1, height, width, dtype=torch.uint8)
    mask[..., height // 3 : height // 2 + 1, width // 4 : width // 2 + 1] = 255
    mask[..., height // 2 :, -1:] = 1
    return image, mask


def _first_line(err: Exception) -> str:
    return (str(err).strip() or type(err).__name__).splitlines()[0]
