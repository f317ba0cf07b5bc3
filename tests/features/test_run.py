"""Many images into one table: resumable, whatever stops it, and never waiting for what could be done meanwhile."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maerestore.errors import MaerestoreError
from maerestore.features import engine as module
from maerestore.features.engine import features_of
from maerestore.features.items import find_items
from maerestore.features.loaders import ExtractorSettings
from maerestore.features.options import FeatureOptions
from maerestore.features.run import Report, extract
from maerestore.features.table_files import SUFFIXES, read_table
from maerestore.image import InputError

ROOT = Path(__file__).parents[2]


@dataclass
class Fake:
    """An extractor and its settings in one: the mean colour, and a record of the batches."""

    fingerprint: str = "f" * 64
    batch_size: int = 4
    options: FeatureOptions = field(default_factory=FeatureOptions)
    name: str = "fake"
    dim: int = 3
    pixels_wanted: int = 8
    batches: list[int] = field(default_factory=list)
    before: Callable[[Sequence[np.ndarray]], None] = lambda images: None

    def load(self) -> Fake:
        return self

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        self.before(images)
        self.batches.append(len(images))
        return np.stack([image.mean((0, 1)) for image in images]).astype(np.float32)


def save(path: Path, colour: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5 + colour % 3, 6), (colour, 0, 1)).save(path)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """photos/0.png to photos/9.png, each of its own colour."""
    monkeypatch.chdir(tmp_path)
    for colour in range(10):
        save(Path(f"photos/{colour}.png"), colour)
    return tmp_path


def go(fake: Fake, out: str = "t.npy", sources: Sequence[str] = ("photos",), **more: Any) -> Report:
    return extract(find_items(list(sources)), fake, Path(out), **more)


def colours(out: str = "t.npy") -> dict[str, float]:
    table = read_table(Path(out))
    return {name.removeprefix("photos/"): float(row[0]) for name, row in zip(table.names, table.features, strict=True)}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_image_gets_its_row(suffix: str) -> None:
    seen: list[tuple[int, int]] = []
    fake = Fake()
    report = go(fake, f"t{suffix}", progress=lambda done, total: seen.append((done, total)))
    assert colours(f"t{suffix}") == {f"{colour}.png": colour for colour in range(10)}
    assert (report.images, report.computed, report.kept, report.dropped, report.errors) == (10, 10, 0, 0, [])
    assert fake.batches == [4, 4, 2]
    assert seen == [(0, 10), (4, 10), (8, 10), (10, 10)]
    facts = read_table(Path(f"t{suffix}")).facts
    assert facts == report.facts
    assert facts["fingerprint"] == "f" * 64
    assert FeatureOptions.from_dict(facts["options"]) == FeatureOptions()
    assert facts["dim"] == 3


def test_a_table_keeps_the_path_of_a_model_from_everywhere(here: Path) -> None:
    assert go(Fake()).facts["model"] == "fake"  # a name
    Path("fake").mkdir()
    assert go(Fake(), "other.npy").facts["model"] == str(here / "fake")


def test_a_second_run_does_only_what_is_new_or_changed() -> None:
    go(Fake())
    fake = Fake()
    report = go(fake)
    assert (report.computed, report.kept, fake.batches) == (0, 10, [])
    save(Path("photos/10.png"), 10)
    save(Path("photos/3.png"), 33)
    os.utime("photos/4.png", ns=(0, 12345))
    Path("photos/5.png").unlink()
    report = go(fake := Fake(), progress=lambda done, total: None)
    assert (report.images, report.computed, report.kept, report.dropped, fake.batches) == (10, 3, 7, 1, [3])
    expected = {f"{colour}.png": float(colour) for colour in (0, 1, 2, 3, 4, 6, 7, 8, 9, 10)} | {"3.png": 33.0}
    assert colours() == expected


def test_an_image_of_the_year_2300_is_done_once() -> None:
    os.utime("photos/4.png", (1.05e10, 1.05e10))  # its nanoseconds exceed 64 bits
    assert (go(Fake()).computed, go(Fake()).computed) == (10, 0)


def test_a_table_of_other_images_is_not_emptied_by_mistake() -> None:
    save(Path("more/0.png"), 3)
    go(Fake())
    before = Path("t.npy").read_bytes()
    with pytest.raises(InputError, match=r"t\.npy' holds features of other images \('photos/0\.png'\).*--overwrite"):
        go(Fake(), sources=["more"])
    assert Path("t.npy").read_bytes() == before
    go(Fake(), sources=["more"], out="other.npy")
    assert go(Fake(), sources=["more", "photos/1.png"]).dropped == 9  # some stay: what is gone was taken away
    report = go(Fake(), sources=["photos/2.png"], overwrite=True)
    assert (report.images, report.dropped) == (1, 0)


def test_what_cannot_be_read_is_a_row_with_an_error() -> None:
    Path("photos/1.png").write_bytes(b"no image")
    Path("photos/2.png").write_bytes(Path("photos/0.png").read_bytes()[:50])
    Path("list.txt").write_text("photos/none.png\n")
    told: list[tuple[str, str]] = []
    sources = ["photos", "list.txt"]
    report = go(fake := Fake(), sources=sources, failed=lambda name, reason: told.append((name, reason)))
    assert [name for name, _ in told] == ["photos/1.png", "photos/2.png", "photos/none.png"]
    assert report.errors == told
    assert sum(fake.batches) == 8
    table = read_table(Path("t.npy"))
    assert np.isnan(table.features[[1, 2, 10]]).all()
    assert np.isfinite(np.delete(table.features, [1, 2, 10], axis=0)).all()
    assert len(table.without_errors()) == 8
    # damaged files are not tried again until they change; what was not there may be there now
    report = go(fake := Fake(), sources=sources)
    assert (report.computed, len(report.errors)) == (1, 3)
    save(Path("photos/1.png"), 1)
    save(Path("photos/none.png"), 99)
    report = go(fake := Fake(), sources=["photos/none.png", *sources], retry=True)
    assert (report.computed, fake.batches) == (3, [2])
    assert [name for name, _ in report.errors] == ["photos/2.png"]
    assert colours()["none.png"] == 99


def test_a_pipe_is_a_row_with_an_error_and_nobody_waits_for_it() -> None:
    os.mkfifo("pipe.png")
    report = go(Fake(), sources=["photos", "pipe.png"])
    assert report.errors == [("pipe.png", "'pipe.png' is not a regular file: give an image file")]


def test_images_of_which_none_can_be_read_leave_everything_as_it_was() -> None:
    for name in "ab":
        Path(f"{name}.png").write_bytes(b"no image")
    told: list[str] = []
    more: dict[str, Any] = {"some": True, "failed": lambda name, reason: told.append(name)}
    with pytest.raises(InputError, match=r"^no feature for a\.png: 'a\.png' is not .*; 't\.npy' is not written"):
        go(Fake(), sources=["a.png"], **more)
    with pytest.raises(InputError, match=r"^none of 2 images could be read, the first is a\.png: "):
        go(Fake(), sources=["a.png", "b.png"], **more)
    assert not list(Path().glob("t.npy*"))
    go(Fake())
    before = {path: path.read_bytes() for path in Path().glob("t.npy*")}
    good = Path("photos/0.png").read_bytes()
    Path("photos/0.png").write_bytes(b"no longer an image")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="is not written"):
            go(Fake(), sources=["photos/0.png"], overwrite=overwrite, **more)
        assert {path: path.read_bytes() for path in Path().glob("t.npy*")} == before
    # What a killed run has done waits still.
    Path("photos/0.png").write_bytes(good)
    seen = []

    def dying(images: Sequence[np.ndarray]) -> None:
        seen.append(len(images))
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(Fake(before=dying), "u.npy")
    Path("photos/0.png").write_bytes(b"no longer an image")
    with pytest.raises(InputError, match="is not written"):
        go(Fake(), "u.npy", sources=["photos/0.png"], **more)
    Path("photos/0.png").write_bytes(good)
    assert go(Fake(), "u.npy").computed == 7
    # One that could be read, now or before, lets the others be told.
    assert told == []
    assert go(Fake(), "v.npy", sources=["a.png", "photos/1.png", "b.png"], **more).computed == 3
    assert go(Fake(), "v.npy", sources=["a.png", "photos/1.png"], retry=True, **more).errors[0][0] == "a.png"
    assert told == ["a.png", "b.png", "a.png"]


def test_a_feature_that_is_not_finite_is_an_error() -> None:
    class Odd(Fake):
        def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
            return np.where(super().__call__(images) == 7, 1e6, super().__call__(images))

    assert go(Odd()).errors == []
    report = go(Odd(), "half.npy", half=True)
    assert report.errors == [("photos/7.png", "its feature is not finite")]
    assert np.load("half.npy").dtype == np.float16


def test_an_error_of_the_network_leaves_the_batches_before_it() -> None:
    def fail(images: Sequence[np.ndarray]) -> None:
        if images[0][0, 0, 0] == 4:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        go(Fake(before=fail))
    assert not Path("t.npy").exists()
    assert go(fake := Fake()).computed == 6
    assert fake.batches == [4, 2]
    assert not Path("t.npy.parts").exists()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: you tried to allocate 9 bytes")])
def test_an_image_for_which_memory_does_not_suffice_is_a_row_with_an_error(error: Exception) -> None:
    def fail(images: Sequence[np.ndarray]) -> None:
        if any(image[0, 0, 0] == 5 for image in images):
            raise error

    report = go(fake := Fake(before=fail))
    assert report.errors == [("photos/5.png", "not enough memory to compute its feature")]
    assert fake.batches == [4, 1, 1, 1, 2]
    found = colours()
    assert np.isnan(found.pop("5.png"))
    assert found == {f"{colour}.png": colour for colour in range(10) if colour != 5}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_image_whose_name_is_no_utf8_is_a_row_with_an_error(suffix: str) -> None:
    try:
        Path(os.fsdecode(b"photos/caf\xe9.png")).write_bytes(b"no image")
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    report = go(Fake(), f"t{suffix}")
    [(name, reason)] = read_table(Path(f"t{suffix}")).failures()
    assert report.errors == [(name, reason)]
    assert "caf\\xe9.png" in name
    assert "caf\\xe9.png' is not an image" in reason


def test_another_fingerprint_is_refused() -> None:
    go(Fake())
    with pytest.raises(InputError, match="of other weights"):
        go(Fake("e" * 64))
    assert go(Fake("e" * 64), overwrite=True).computed == 10


def test_features_are_alike_alone_and_by_any_engine() -> None:
    def one_by_one(items: Any, settings: Any, extractor: Any, half: bool) -> Any:
        for item in reversed(items):
            yield features_of([item], extractor, half)

    go(Fake())
    go(Fake(), "other.npy", engine=one_by_one)
    assert colours("other.npy") == colours()
    assert list(colours("other.npy")) == list(colours())


def test_the_network_does_not_wait_for_decoding() -> None:
    """While a batch is computed, the next one is decoded."""
    decoded: set[int] = set()
    enough = threading.Event()

    def load(item: Any, at_least: int) -> np.ndarray:
        number = int(item.path.stem)
        decoded.add(number)
        if number == 7:
            enough.set()
        return np.full((2, 2, 3), number, np.uint8)

    def wait(images: Sequence[np.ndarray]) -> None:
        assert enough.wait(20)  # would not come if decoding paused meanwhile

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_load", load)
        go(Fake(before=wait), workers=1)
    assert decoded == set(range(10))


def test_few_images_wait_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the list and however large the images, memory is bounded."""
    for colour in range(10, 60):
        save(Path(f"photos/{colour}.png"), colour)
    started: list[str] = []
    monkeypatch.setattr(module, "_load", lambda item, at_least: started.append(item.name) or np.zeros((2, 2, 3)))
    done = 0
    most = 0

    def look(images: Sequence[np.ndarray]) -> None:
        nonlocal done, most
        time.sleep(0.01)
        most = max(most, len(started) - done)
        done += len(images)

    go(Fake(before=look), workers=2)
    assert most <= 4 + 2 * 4 + 2  # the batch itself, two more, and one a thread
    monkeypatch.setattr(module, "_MOST_BYTES", 200)  # two images and a bit
    done = most = 0
    started.clear()
    go(fake := Fake(before=look), "large.npy", workers=2)
    assert len(started) == 60
    assert max(fake.batches) == 3
    assert most <= 3 + 3 + 2 + 2 * 4


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(MaerestoreError, match="workers must be at least 1, got 0"):
        go(Fake(), workers=0)
    with pytest.raises(MaerestoreError, match="pooling 'patch'"):
        go(Fake(options=FeatureOptions(pooling="patch")))
    assert not Path("t.npy.parts").exists()


# Run by a process of its own, which notes each image that goes through the network.
SLOW = """
import sys, time
sys.path.insert(0, {tests!r})
from features.test_run import Fake, go

def note(images):
    time.sleep(0.02)
    with open("log.txt", "a") as log:
        log.write("".join(f"{{image[0, 0, 0]}}\\n" for image in images))

go(Fake(before=note), {out!r})
"""


def noted() -> list[str]:
    return Path("log.txt").read_text().split() if Path("log.txt").exists() else []


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.parametrize("suffix", [".parquet", ".npy"])
def test_killed_at_random_times_it_loses_a_batch_at_most(suffix: str) -> None:
    count, draw, out = 60, random.Random(suffix), f"t{suffix}"
    for colour in range(10, count):
        save(Path(f"photos/{colour}.png"), colour)
    code = SLOW.format(tests=str(ROOT / "tests"), out=out)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    kills = 0
    for target in (8, 24, 40, count):
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)
        while process.poll() is None and len(noted()) < target:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.04))
        process.send_signal(signal.SIGKILL)
        _, stderr = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), stderr.decode()
        kills += process.returncode != 0
        for part in Path(f"{out}.parts").glob("part-*"):
            read_table(part)  # never damaged
        assert not Path(out).exists() or len(read_table(Path(out))) == count
    go(last := Fake(), out)
    assert colours(out) == {f"{colour}.png": colour for colour in range(count)}
    assert not Path(f"{out}.parts").exists()
    assert kills >= 3
    assert len(noted()) + sum(last.batches) <= count + 4 * kills  # a batch is four images


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_the_command_is_killed_and_goes_on(tmp_path: Path, tiny_model: Callable[..., Any]) -> None:
    from maerestore.hub.save import save_autoencoder

    save_autoencoder(tiny_model(), tmp_path / "model")
    for n in range(40):
        pixels = np.random.default_rng(n).integers(0, 256, (40 + n % 4 * 8, 48, 3), np.uint8)
        Image.fromarray(pixels).save(f"photos/{n}.png")
    # It waits before its sixth part, so that it cannot have ended before it is killed.
    code = (
        "import sys, time; from maerestore.cli.main import main; from maerestore.features import store\n"
        "write, parts = store.write_table, []\n"
        "def wait(*args, **options):\n"
        "    time.sleep(60 * (len(parts) == 5)); parts.append(write(*args, **options))\n"
        "store.write_table = wait; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "features", "photos", "--model", "model", "--device", "cpu",
               "--batch-size", "2", "--precision", "fp32", "-o", "t.safetensors"]  # fmt: skip
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
    parts: set[str] = set()
    while process.poll() is None and len(parts) < 5:
        parts = {path.name for path in Path("t.safetensors.parts").glob("part-*")}
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    settings = ExtractorSettings("model", FeatureOptions(precision="fp32"), "cpu", 7)
    assert go(settings, "t.safetensors").kept == 10  # type: ignore[arg-type]
    go(settings, "whole.safetensors")  # type: ignore[arg-type]
    one, other = read_table(Path("t.safetensors")), read_table(Path("whole.safetensors"))
    assert one.names == other.names
    np.testing.assert_allclose(one.features, other.features, atol=1e-5)
    assert len({row.tobytes() for row in one.features}) == 40


def test_a_name_that_no_file_can_have_is_a_row_with_an_error() -> None:
    Path("list.txt").write_bytes("photos/1.png\n".encode("utf-16"))  # as some editors save it
    report = go(Fake(), sources=("photos", "list.txt"))
    assert report.computed == 12
    assert len(report.errors) == 2
    assert len(read_table(Path("t.npy")).without_errors()) == 10
