"""The strong classical peers, FSR and shift-map, of opencv-contrib's `xphoto`.

Its wheel shares the folder `cv2` with opencv-python-headless, so it cannot live in the same environment: a worker
(`xphoto_worker.py`) runs in one of its own.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .photos import BenchError

WORKER = Path(__file__).with_name("xphoto_worker.py")
ALGORITHMS = ("fsr", "shift-map")


class XphotoWorker:
    """The process that fills.

    Args:
        python: interpreter of the environment that has opencv-contrib-python-headless.

    Attributes:
        opencv: version of that environment's OpenCV.

    Raises:
        BenchError: it does not start.
    """

    def __init__(self, python: Path) -> None:
        self.python = python
        try:
            self._process = subprocess.Popen(
                [str(python), "-I", str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as err:
            raise BenchError(f"--xphoto {python} cannot be run: {err.strerror or err}") from err
        self.opencv: str = json.loads(self._line())["opencv"]

    def fill(self, algorithm: str, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, float]:
        """Fill (H, W, 3) uint8 RGB where `mask` (H, W) bool is set: the fill, and OpenCV's seconds.

        Raises:
            BenchError: the worker died.
        """
        height, width = mask.shape
        request = json.dumps({"algorithm": algorithm, "height": height, "width": width}).encode() + b"\n"
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(request + image.tobytes() + mask.astype(np.uint8).tobytes())
            self._process.stdin.flush()
        except OSError as err:
            raise self._death() from err
        seconds = json.loads(self._line())["seconds"]
        data = self._process.stdout.read(height * width * 3)
        if len(data) != height * width * 3:
            raise self._death()
        fill = np.frombuffer(data, np.uint8).reshape(height, width, 3)
        # FSR rounds known pixels by 1, shift-map moves those at the rim.
        return np.where(mask[..., None], fill, image), seconds

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        if self._process.poll() is None:
            self._process.stdin.close()
            self._process.wait(timeout=60)

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._death()
        return line

    def _death(self) -> BenchError:
        _, errors = self._process.communicate()
        lines = errors.decode(errors="replace").strip().splitlines()
        return BenchError(
            f"the worker of --xphoto {self.python} died (exit code {self._process.returncode}): "
            f"{lines[-1] if lines else 'it said nothing'}"
        )


class XphotoPeer:
    """One algorithm of a worker, as a method that knows its own seconds.

    Attributes:
        seconds: of the last call, in OpenCV alone.
    """

    def __init__(self, worker: XphotoWorker, algorithm: str) -> None:
        self._worker = worker
        self._algorithm = algorithm
        self.seconds = 0.0

    def __call__(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        fill, self.seconds = self._worker.fill(self._algorithm, image, mask)
        return fill


def xphoto_peers(worker: XphotoWorker) -> dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """FSR (Genser et al. 2018, fast setting) and shift-map (He and Sun 2012) by name."""
    return {name: XphotoPeer(worker, name) for name in ALGORITHMS}
