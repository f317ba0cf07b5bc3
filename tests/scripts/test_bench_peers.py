"""Peers from outside: the pipe to opencv-contrib's worker, and networks in ONNX files; and the clock beside them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from benchlib import speed, xphoto  # noqa: E402
from benchlib.onnx_peer import OnnxPeer, parse  # noqa: E402
from benchlib.peers import timed  # noqa: E402
from benchlib.photos import BenchError  # noqa: E402

# Stands in for opencv-contrib: an `xphoto` that paints known places with 1 + its algorithm's number, holes with the
# number of known pixels; it fails on pictures of 13 rows.
CV2 = """
import sys
from types import SimpleNamespace
import numpy as np
__version__ = "9.9"
COLOR_RGB2BGR = COLOR_BGR2RGB = 0
def cvtColor(picture, code): return np.ascontiguousarray(picture[..., ::-1])
def setRNGSeed(seed): pass
def inpaint(source, mask, out, algorithm):
    print("chatter")
    if len(mask) == 13:
        raise MemoryError("no room")
    out[mask > 0] = 1 + algorithm
    out[mask == 0] = [10 * algorithm, int((mask > 0).sum()), source[0, 0, 0]]
xphoto = SimpleNamespace(inpaint=inpaint, INPAINT_FSR_FAST=2, INPAINT_SHIFTMAP=0)
"""


@pytest.fixture
def interpreter(tmp_path: Path) -> Path:
    """An interpreter that finds the stand-in for opencv-contrib."""
    (tmp_path / "cv2.py").write_text(CV2)
    script = tmp_path / "python"
    start = (
        f"import sys, runpy; sys.path.insert(0, {str(tmp_path)!r}); runpy.run_path(sys.argv[-1], run_name='__main__')"
    )
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{start}" "$@"\n')
    script.chmod(0o755)
    return script


def picture_and_hole(height: int = 8, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    picture = np.random.default_rng(0).integers(50, 200, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), bool)
    mask[2:4, 1:4] = True
    return picture, mask


class TestXphoto:
    """What goes through the pipe and what comes back."""

    def test_fills_over_the_pipe(self, interpreter: Path) -> None:
        worker = xphoto.XphotoWorker(interpreter)
        assert worker.opencv == "9.9"
        picture, mask = picture_and_hole()
        known = int((~mask).sum())
        peers = xphoto.xphoto_peers(worker)
        for name, number in (("fsr", 2), ("shift-map", 0), ("fsr", 2)):
            fill, seconds = timed(peers[name], picture, mask)
            np.testing.assert_array_equal(fill[~mask], picture[~mask])
            # The worker speaks BGR to OpenCV: first and last channel come back exchanged.
            assert (fill[mask] == [picture[0, 0, 2], known, 10 * number]).all()
            assert 0 < seconds < 1
        worker.close()

    def test_death_is_one_line(self, interpreter: Path) -> None:
        worker = xphoto.XphotoWorker(interpreter)
        with pytest.raises(BenchError, match=r"died \(exit code 1\): MemoryError: no room"):
            worker.fill("fsr", *picture_and_hole(13))
        worker.close()

    def test_environment_without_xphoto(self, interpreter: Path) -> None:
        (interpreter.parent / "cv2.py").write_text("")
        with pytest.raises(BenchError, match=r"died \(exit code 1\): AttributeError.*xphoto"):
            xphoto.XphotoWorker(interpreter)


def graph(path: Path, inputs: dict[str, tuple], nodes: list, out: tuple, initializers: tuple = ()) -> Path:
    """Write a tiny graph; inputs and output are (type, shape)."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    values = [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()]
    fill = helper.make_tensor_value_info("fill", *out)
    made = helper.make_graph(nodes, "g", values, [fill], initializer=list(initializers))
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


class TestOnnx:
    """Each graph computes something of picture and mask that can be worked out by hand."""

    def test_two_float_inputs_of_any_size(self, tmp_path: Path) -> None:
        onnx = pytest.importorskip("onnx")
        node = onnx.helper.make_node
        # fill = picture + mask / 2: the hole, erased to 0, turns mid-gray only if the mask is 1 there.
        half = onnx.helper.make_tensor("half", 1, [1], [0.5])
        path = graph(
            tmp_path / "a.onnx",
            {"mask": (1, [1, 1, "h", "w"]), "image": (1, [1, 3, "h", "w"])},
            [node("Mul", ["mask", "half"], ["m"]), node("Add", ["image", "m"], ["fill"])],
            (1, [1, 3, "h", "w"]),
            (half,),
        )
        picture, mask = picture_and_hole(10, 7)
        fill = OnnxPeer(path, {})(picture, mask)
        np.testing.assert_array_equal(fill[~mask], picture[~mask])
        assert (fill[mask] == 128).all()
        # Not erased, the mask turned round, from -1 to 1: the picture itself.
        fill = OnnxPeer(path, {"hole": "0", "erase": "no", "range": "signed"})(picture, mask)
        np.testing.assert_array_equal(fill, picture)

    def test_one_byte_input_of_four_channels_last(self, tmp_path: Path) -> None:
        onnx = pytest.importorskip("onnx")
        # fill = (red, mask, mask): which channel is which, and the mask's full scale.
        index = onnx.helper.make_tensor("index", 7, [3], [0, 3, 3])
        path = graph(
            tmp_path / "b.onnx",
            {"x": (2, [1, 16, 16, 4])},
            [onnx.helper.make_node("Gather", ["x", "index"], ["fill"], axis=3)],
            (2, [1, 16, 16, 3]),
            (index,),
        )
        picture, mask = picture_and_hole(16, 16)
        fill = OnnxPeer(path, {"erase": "no"})(picture, mask)
        np.testing.assert_array_equal(fill[mask][:, 0], picture[mask][:, 0])
        assert (fill[mask][:, 1:] == 255).all()
        assert (OnnxPeer(path, {"hole": "0"})(picture, mask)[mask] == 0).all()

    def test_fixed_size_is_resized_to_and_back(self, tmp_path: Path) -> None:
        onnx = pytest.importorskip("onnx")
        node = onnx.helper.make_node
        scale = onnx.helper.make_tensor("scale", 1, [1], [255.0])
        path = graph(
            tmp_path / "c.onnx",
            {"a": (1, [1, 3, 16, 16]), "b": (1, [1, 1, 16, 16])},
            [
                node("Mul", ["a", "scale"], ["s"]),
                node("Mul", ["b", "b"], ["unused"]),
                node("Identity", ["s"], ["fill"]),
            ],
            (1, [1, 3, 16, 16]),
            (scale,),
        )
        x = np.linspace(40, 200, 40)
        picture = np.repeat((x[:, None] + np.zeros(40)).round().astype(np.uint8)[..., None], 3, -1)
        mask = np.zeros((40, 40), bool)
        mask[12:28, 12:28] = True
        fill = OnnxPeer(path, {"out": "byte", "erase": "no"})(picture, mask)
        np.testing.assert_array_equal(fill[~mask], picture[~mask])
        assert np.abs(fill[mask].astype(int) - picture[mask]).max() <= 2  # a ramp stays one
        assert (fill[mask] != picture[mask]).any()

    def test_unknown_forms_are_refused(self, tmp_path: Path) -> None:
        onnx = pytest.importorskip("onnx")
        identity = [onnx.helper.make_node("Identity", ["x"], ["fill"])]
        path = graph(tmp_path / "d.onnx", {"x": (1, [1, 5, 8, 8])}, identity, (1, [1, 5, 8, 8]))
        with pytest.raises(BenchError, match=r"no known form \(its inputs are x of 5 channels"):
            OnnxPeer(path, {})
        path = graph(tmp_path / "e.onnx", {"x": (1, [1, 4, 8, 8])}, identity, (1, [1, 4, 8, 8]))
        with pytest.raises(BenchError, match="no output of shape"):
            OnnxPeer(path, {})
        path = graph(tmp_path / "f.onnx", {"x": (7, [1, 4, 8, 8])}, identity, (7, [1, 4, 8, 8]))
        with pytest.raises(BenchError, match="int64"):
            OnnxPeer(path, {})

    def test_options(self) -> None:
        assert parse("n=a/b.onnx,hole=0,out=byte") == ("n", Path("a/b.onnx"), {"hole": "0", "out": "byte"})
        for text in ("n", "n=", "=f", "n=f,hole=2", "n=f,order=x"):
            with pytest.raises(BenchError):
                parse(text)


class TestSpeed:
    """Medians and ratios of a clock that is set by hand."""

    def test_ratios(self) -> None:
        seconds = {"telea": [2, 9, 2, 2, 1], "biharmonic": [8] * 5, "ours": [1, 1, 1, 9, 9]}
        order = iter([value for values in seconds.values() for value in values])

        def clock(method: object, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, float]:
            assert mask.mean() == 0.25
            assert (image[mask] == 127).all()
            return image, next(order)

        photo = np.zeros((32, 32, 3), np.uint8)
        rows = speed.measure_speed(photo, {"ours": lambda image, mask: image}, clock)
        assert rows[-1] == {
            "method": "ours",
            "seconds": 1,
            "images_per_second": 1,
            "times_telea": 0.5,
            "times_biharmonic": 0.125,
        }
        assert "ours" in speed.format_speed(rows)
