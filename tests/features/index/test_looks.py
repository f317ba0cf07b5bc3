from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from maerestore.features.index.looks import Looks

from .scenes import cropped, scene

Change = Callable[[Image.Image], Image.Image]


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file)


def of(folder: Path, *pictures: Image.Image) -> Looks:
    for i, picture in enumerate(pictures):
        picture.save(folder / f"{i}.png")
    return Looks(np.arange(len(pictures)), [f"{i}.png" for i in range(len(pictures))], [str(folder)] * len(pictures))


def same(folder: Path, one: Image.Image, other: Image.Image) -> bool:
    looks = of(folder, one, other)
    assert looks.clear.all()
    [found], [turned] = looks.same(0, np.array([1])), looks.same(1, np.array([0]))
    assert found == turned
    return bool(found)


def recoloured(picture: Image.Image) -> Image.Image:
    light, *colours = picture.convert("YCbCr").split()
    return Image.merge("YCbCr", [light, *map(ImageOps.invert, colours)]).convert("RGB")


COPIES: dict[str, Change] = {
    "itself": lambda x: x,
    "compressed": lambda x: jpeg(x, 30),
    "half": lambda x: x.resize((x.width // 2, x.height // 2)),
    "squashed": lambda x: x.resize((240, 240)),
    "brighter": lambda x: ImageEnhance.Brightness(x).enhance(1.2),
    "darker": lambda x: ImageEnhance.Brightness(x).enhance(0.6),
    "contrast": lambda x: ImageEnhance.Contrast(x).enhance(0.6),
    "gray": lambda x: x.convert("L"),
    "pale": lambda x: ImageEnhance.Color(x).enhance(0.5),
    "cut 5 %": lambda x: cropped(x, 0.05),
    "cut 10 %": lambda x: cropped(x, 0.1),
    "cut 3 and 8 %": lambda x: x.crop((11, 7, 333, 221)),
    "corner": lambda x: x.crop((0, 0, 330, 215)),
}
OTHERS: dict[str, Change] = {
    "another": lambda x: scene(2),
    "mirrored": ImageOps.mirror,
    "turned": lambda x: x.rotate(180),
    "negative": ImageOps.invert,
    "cut 25 %": lambda x: cropped(x, 0.25),
    "other colours": recoloured,
    "same light": lambda x: Image.blend(scene(2), x.resize((4, 3)).resize(x.size, Image.Resampling.BICUBIC), 0.6),
}


@pytest.mark.parametrize("change", COPIES)
def test_copies_show_the_same(tmp_path: Path, change: str) -> None:
    assert same(tmp_path, scene(1), COPIES[change](scene(1)))


@pytest.mark.parametrize("change", OTHERS)
def test_others_do_not(tmp_path: Path, change: str) -> None:
    assert not same(tmp_path, scene(1), OTHERS[change](scene(1)))


def detail_of(picture: Image.Image, radius: float) -> np.ndarray:
    """What a blur takes away."""
    return np.asarray(picture, float) - np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)), float)


def as_picture(levels: np.ndarray) -> Image.Image:
    return Image.fromarray(((levels - levels.min()) * (255 / np.ptp(levels))).astype(np.uint8))


@pytest.mark.parametrize(("strength", "copies"), [(0.2, True), (0.5, False)])
def test_details_have_to_be_the_same(tmp_path: Path, strength: float, copies: bool) -> None:
    # With half of the other details, all of it correlates by 0.995, and what is fine by 0.94.
    assert same(tmp_path, scene(1), as_picture(scene(1) + strength * detail_of(scene(2), 20))) == copies


@pytest.mark.parametrize(("strength", "copies"), [(20, True), (50, False)])
def test_what_is_broad_has_to_be_the_same_too(tmp_path: Path, strength: float, copies: bool) -> None:
    # With the stronger light at the corners details correlate by 0.98, and all of it by 0.91.
    levels = as_picture(scene(1) + 4 * detail_of(scene(1), 24))
    y, x = np.mgrid[-1 : 1 : levels.height * 1j, -1 : 1 : levels.width * 1j]
    light = strength * (x**2 + y**2)[..., None] / 2
    assert same(tmp_path, levels, as_picture(200 / 255 * np.asarray(levels, float) + light)) == copies


def test_many_are_compared_at_once(tmp_path: Path) -> None:
    looks = of(tmp_path, scene(1), *(scene(i) for i in range(2, 9)), cropped(scene(1), 0.1))
    assert looks.same(0, np.arange(1, 9)).tolist() == [False] * 7 + [True]
    assert looks.same(0, np.arange(0)).tolist() == []


def test_what_cannot_be_read_or_compared_is_told(tmp_path: Path) -> None:
    scene(1).save(tmp_path / "0.png")
    Image.new("RGB", (9, 9), "teal").save(tmp_path / "1.png")
    (tmp_path / "2.png").write_text("no image")
    told: list[tuple[int, int]] = []
    looks = Looks(np.arange(4), [f"{i}.png" for i in range(4)], [str(tmp_path)] * 4, lambda *now: told.append(now))
    assert looks.readable.tolist() == [True, True, False, False]
    assert looks.clear.tolist() == [True, False, False, False]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
