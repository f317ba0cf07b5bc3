"""Any inpainting network in an ONNX file, as a peer: `NAME=FILE[,OPTION=VALUE]...`.

What a graph may look like:

- two inputs, a picture of 3 channels and a mask of 1, told apart by their channels (or, where the graph leaves these
  open, by "mask" in the name), or one input of 4 channels, picture first and mask last;
- channels first or last; batch of 1; uint8, float16 or float32 (a mask may be bool, too);
- any height and width, which is then padded to multiples of 8, or fixed ones: pictures are resized to them, and the
  fill back;
- the first output with 3 channels is the fill. Known pixels are taken from the photo.

What a graph does not say, the options do:

    hole=1|0                    the mask's value where to fill (default 1; the other one is full scale, 255 for uint8)
    range=unit|signed|byte      floats of the picture from 0 to 1, -1 to 1 or 0 to 255 (default unit; uint8 is byte)
    out=unit|signed|byte        the same of the fill (default: as the picture; uint8 is byte)
    erase=yes|no                the picture is zero in the hole, or mid-gray (default yes)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .photos import BenchError

OPTIONS = {
    "hole": ("1", "0"),
    "range": ("unit", "signed", "byte"),
    "out": ("unit", "signed", "byte"),
    "erase": ("yes", "no"),
}
DTYPES = {
    "tensor(uint8)": np.uint8,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(bool)": np.bool_,
}
MULTIPLE = 8  # of the sides, where the graph takes any


@dataclass(frozen=True)
class Port:
    """An input or output of the graph.

    Attributes:
        name: of it.
        channels: how many, None where open.
        last: whether the channels come last.
        size: (height, width), None where either is open.
        dtype: of its elements.
    """

    name: str
    channels: int | None
    last: bool
    size: tuple[int, int] | None
    dtype: type


def parse(text: str) -> tuple[str, Path, dict[str, str]]:
    """Take `NAME=FILE[,OPTION=VALUE]...` apart.

    Raises:
        BenchError: it is of another form, or an option is unknown.
    """
    name, equals, rest = text.partition("=")
    file, *pairs = rest.split(",")
    if not (name and equals and file):
        raise BenchError(f"--onnx {text}: give NAME=FILE")
    options = {}
    for pair in pairs:
        option, _, value = pair.partition("=")
        if value not in OPTIONS.get(option, ()):
            known = ", ".join(f"{key}={'|'.join(values)}" for key, values in OPTIONS.items())
            raise BenchError(f"--onnx {text}: {pair!r} is none of {known}")
        options[option] = value
    return name, Path(file), options


class OnnxPeer:
    """A fill by a graph, on the CPU.

    Args:
        path: of the ONNX file.
        options: see the top of this module.

    Raises:
        BenchError: onnxruntime is missing, the file cannot be read, or its graph has none of the known forms.
    """

    def __init__(self, path: Path, options: dict[str, str]) -> None:
        if not path.is_file():
            raise BenchError(f"--onnx: no file {path}")
        try:
            import onnxruntime
        except ImportError as err:
            raise BenchError("--onnx needs onnxruntime: pip install onnxruntime") from err
        self.path = path
        self._options = {"hole": "1", "range": "unit", "erase": "yes", **options}
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as err:  # onnxruntime's exceptions have no common base of their own
            raise BenchError(f"--onnx {path} cannot be loaded: {_first_line(err)}") from err
        inputs = [self._port(node) for node in self._session.get_inputs()]
        self.joint: Port | None = None
        if len(inputs) == 1 and inputs[0].channels == 4:
            self.joint = self.picture = self.mask = inputs[0]
        else:
            self.picture, self.mask = self._tell_apart(inputs)
        outputs = [self._port(node) for node in self._session.get_outputs() if len(node.shape) == 4]
        fills = [port for port in outputs if port.channels in (3, None)]
        if not fills:
            raise self._unknown("no output of shape (1, 3, H, W) or (1, H, W, 3)")
        self.out = fills[0]

    def __call__(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        height, width = mask.shape
        picture, hole = image, mask
        if self.picture.size and self.picture.size != mask.shape:
            target = (self.picture.size[1], self.picture.size[0])
            smaller = target[0] < width
            picture = cv2.resize(image, target, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
            # A pixel with any hole in it is a hole: what paints it must not shine through.
            hole = cv2.resize(mask.astype(np.float32), target, interpolation=cv2.INTER_AREA) > 0
        elif not self.picture.size:
            pad = ((0, -height % MULTIPLE), (0, -width % MULTIPLE))
            picture, hole = np.pad(image, (*pad, (0, 0)), mode="edge"), np.pad(mask, pad, mode="edge")
        fill = self._run(picture, hole)
        if self.picture.size and self.picture.size != mask.shape:
            smaller = width < fill.shape[1]
            fill = cv2.resize(fill, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
        return np.where(mask[..., None], fill[:height, :width], image)

    def _run(self, picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 of a size that the graph takes, to the same."""
        marked = hole if self._options["hole"] == "1" else ~hole
        mask = marked[..., None] * (255 if self.mask.dtype == np.uint8 else 1)
        scale = "byte" if self.picture.dtype == np.uint8 else self._options["range"]
        values = picture.astype(np.float32)
        values = {"byte": values, "unit": values / 255, "signed": values / 127.5 - 1}[scale]
        if self._options["erase"] == "yes":
            values = np.where(hole[..., None], 0, values)
        if self.joint:
            feed = {self.joint.name: _batch(np.concatenate([values, mask], axis=-1), self.joint)}
        else:
            feed = {self.picture.name: _batch(values, self.picture), self.mask.name: _batch(mask, self.mask)}
        try:
            result = self._session.run([self.out.name], feed)[0]
        except Exception as err:
            raise BenchError(f"--onnx {self.path} failed at {picture.shape[:2]}: {_first_line(err)}") from err
        channels_last = result.shape[1] != 3
        fill = result[0] if channels_last else result[0].transpose(1, 2, 0)
        if fill.shape != picture.shape:
            raise BenchError(f"--onnx {self.path} gave {result.shape} for a picture of {picture.shape}")
        if fill.dtype == np.uint8:
            return np.ascontiguousarray(fill)
        scale = self._options.get("out", scale)
        fill = fill.astype(np.float32)
        fill = {"byte": fill, "unit": fill * 255, "signed": (fill + 1) * 127.5}[scale]
        return fill.round().clip(0, 255).astype(np.uint8)

    def _port(self, node: Any) -> Port:
        if len(node.shape) != 4 or node.type not in DTYPES:
            raise self._unknown(f"{node.name} is {node.type} of shape {node.shape}")
        shape = [side if isinstance(side, int) else None for side in node.shape]
        last = shape[1] not in (1, 3, 4) and shape[3] in (1, 3, 4)
        height, width = shape[1:3] if last else shape[2:]
        size = None if height is None or width is None else (height, width)
        return Port(node.name, shape[3 if last else 1], last, size, DTYPES[node.type])

    def _tell_apart(self, inputs: list[Port]) -> tuple[Port, Port]:
        if len(inputs) == 2:
            for picture, mask in (inputs, inputs[::-1]):
                open_shapes = "mask" in mask.name.lower() and "mask" not in picture.name.lower()
                if mask.channels in (1, None) and picture.channels in (3, None) and (
                    (picture.channels, mask.channels) == (3, 1) or open_shapes
                ):  # fmt: skip
                    return picture, mask
        shapes = ", ".join(f"{port.name} of {port.channels or '?'} channels" for port in inputs)
        raise self._unknown(f"its inputs are {shapes}")

    def _unknown(self, what: str) -> BenchError:
        return BenchError(
            f"--onnx {self.path} is of no known form ({what}): wanted a picture of 3 channels and a mask of 1, or one "
            "input of 4, and a fill of 3"
        )


def _batch(values: np.ndarray, port: Port) -> np.ndarray:
    """(H, W, C) to what an input takes."""
    if not port.last:
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values[None].astype(port.dtype))


def _first_line(err: Exception) -> str:
    return str(err).strip().splitlines()[0][:200] if str(err).strip() else type(err).__name__
