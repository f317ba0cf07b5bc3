"""The whole pipeline in memory, on a tiny random model: what must hold whatever the model has learned."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maerestore.errors import MaerestoreError
from maerestore.image import InputError, Photo
from maerestore.inpaint import harmonic, regions
from maerestore.inpaint.blend import BlendCurve
from maerestore.inpaint.boxes import intersection, slices
from maerestore.inpaint.model_window import ModelWindow
from maerestore.inpaint.pipeline import Inpainter
from maerestore.inpaint.stages import FillReport

from .conftest import box_mask, random_model, textured
from .test_refine import random_refiner


def _array(dtype: str, channels: int | None) -> Callable[[np.random.Generator, int, int], np.ndarray]:
    def make(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        shape = (height, width) if channels is None else (height, width, channels)
        if np.issubdtype(np.dtype(dtype), np.floating):
            return rng.random(shape).astype(dtype)
        return rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)

    return make


def _tensor(dtype: torch.dtype, channels: int, batch: int | None = None) -> Callable[..., torch.Tensor]:
    def make(rng: np.random.Generator, height: int, width: int) -> torch.Tensor:
        shape = (channels, height, width) if batch is None else (batch, channels, height, width)
        if dtype.is_floating_point:
            return torch.from_numpy(rng.random(shape)).to(dtype)
        return torch.from_numpy(rng.integers(0, 256, shape)).to(dtype)

    return make


def _pil(mode: str) -> Callable[[np.random.Generator, int, int], Image.Image]:
    def make(rng: np.random.Generator, height: int, width: int) -> Image.Image:
        if mode == "1":
            return Image.fromarray(rng.random((height, width)) < 0.5)
        if mode == "I;16":
            return Image.fromarray(rng.integers(0, 65536, (height, width)).astype(np.uint16))
        if mode == "P":
            image = Image.fromarray(rng.integers(0, 20, (height, width)).astype(np.uint8))
            image.putpalette(rng.integers(0, 256, 60, dtype=np.uint8).tobytes(), "RGB")
            image.info["transparency"] = 3
            return image
        channels = len(Image.new(mode, (1, 1)).getbands())
        data = rng.integers(0, 256, (height, width, channels)).astype(np.uint8)
        return Image.frombytes(mode, (width, height), data.tobytes())

    return make


KINDS: dict[str, Callable[[np.random.Generator, int, int], Any]] = {
    **{f"{d} HW": _array(d, None) for d in ("uint8", "uint16", "float32")},
    **{f"{d} HW{c}": _array(d, c) for d in ("uint8", "uint16", "float32") for c in (1, 2, 3, 4)},
    "float64 HW3": _array("float64", 3),
    "float16 HW3": _array("float16", 3),
    **{
        f"{d} 3HW tensor": _tensor(getattr(torch, d), 3) for d in ("uint8", "float32", "float64", "float16", "bfloat16")
    },
    "float32 1HW tensor": _tensor(torch.float32, 1),
    "float32 4HW tensor": _tensor(torch.float32, 4),
    "float32 23HW tensor": _tensor(torch.float32, 3, 2),
    "uint8 33HW tensor": _tensor(torch.uint8, 3, 3),
    **{f"PIL {mode}": _pil(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16")},
}


def pixels(image: Any) -> np.ndarray:
    """(..., H, W, C) of what is seen and stored; the colours and alpha of a palette looked up."""
    if isinstance(image, Image.Image):
        shown = np.asarray(image.convert("RGBA") if image.mode == "P" else image)
        return shown if shown.ndim == 3 else shown[..., None]
    if isinstance(image, torch.Tensor):
        return np.moveaxis(image.double().numpy(), -3, -1)
    return image if image.ndim == 3 else image[..., None]


def same_kind(first: Any, second: Any) -> None:
    assert type(first) is type(second) or isinstance(first, Image.Image) is isinstance(second, Image.Image)
    if isinstance(first, Image.Image):
        assert (first.mode, first.size) == (second.mode, second.size)
    else:
        assert first.shape == second.shape
        assert first.dtype == second.dtype


@st.composite
def sizes_and_masks(draw: st.DrawFn) -> tuple[np.random.Generator, np.ndarray]:
    """A generator, and a mask of at least one hole and one known pixel."""
    height, width = draw(st.integers(1, 80)), draw(st.integers(1, 80))
    width = max(width, 2) if height == 1 else width
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    kind = draw(st.sampled_from(["box", "boxes", "specks", "most"]))
    mask = np.zeros((height, width), bool)
    if kind in ("box", "boxes"):
        for _ in range(1 if kind == "box" else 3):
            (y0, y1), (x0, x1) = np.sort(rng.integers(0, height, 2)), np.sort(rng.integers(0, width, 2))
            mask[y0 : y1 + 1, x0 : x1 + 1] = True
    else:
        mask = rng.random((height, width)) < (0.03 if kind == "specks" else 0.95)
    cells = rng.permutation(height * width)
    mask.flat[cells[0]], mask.flat[cells[1]] = True, False
    return rng, mask


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(case=sizes_and_masks(), sharp=st.sampled_from([False, False, True]))
def test_only_the_hole_changes(
    kind: str, case: tuple[np.random.Generator, np.ndarray], sharp: bool, inpainter: Inpainter
) -> None:
    rng, mask = case
    image = KINDS[kind](rng, *mask.shape)
    before, mask_before = pixels(image).copy(), mask.copy()
    filled = inpainter.inpaint(image, mask, sharp=sharp)
    same_kind(filled, image)
    np.testing.assert_array_equal(pixels(image), before)
    np.testing.assert_array_equal(mask, mask_before)
    after = pixels(filled)
    np.testing.assert_array_equal(after[..., ~mask, :], before[..., ~mask, :])
    if np.issubdtype(after.dtype, np.floating):
        assert np.isfinite(after).all()
        assert after.min() >= 0
        assert after.max() <= (1 if before.max() <= 1 else 255)
    if after.shape[-1] in (2, 4) and kind != "PIL CMYK":
        assert (after[..., -1] >= before[..., -1]).all()  # an erased hole gets visible: see test_transparency.py


@pytest.mark.parametrize("kind", KINDS)
def test_the_hole_is_filled(kind: str, inpainter: Inpainter) -> None:
    mask = box_mask(40, 50, (10, 10, 31, 36))
    image = KINDS[kind](np.random.default_rng(0), 40, 50)
    before, after = pixels(image), pixels(inpainter.inpaint(image, mask))
    changed = (before != after).any(-1)
    assert changed[..., mask].mean() > (0.2 if kind in ("PIL 1", "PIL P") else 0.8)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_mask_gives_the_image_back(kind: str, inpainter: Inpainter) -> None:
    image = KINDS[kind](np.random.default_rng(0), 12, 9)
    back = inpainter.inpaint(image, np.zeros((12, 9), bool))
    same_kind(back, image)
    np.testing.assert_array_equal(pixels(back), pixels(image))


@pytest.mark.parametrize(
    "kind",
    [
        *(k for k in KINDS if "tensor" not in k and "PIL" not in k),
        *("uint8 3HW tensor", "float32 23HW tensor"),
        *(f"float32 {c}HW tensor" for c in (1, 3, 4)),
    ],
)
def test_an_empty_mask_gives_a_copy_back(kind: str, inpainter: Inpainter) -> None:
    image = KINDS[kind](np.random.default_rng(0), 12, 9)
    back = inpainter.inpaint(image, np.zeros((12, 9), bool))
    assert not np.shares_memory(np.asarray(back), np.asarray(image))


@pytest.mark.parametrize(
    "kind",
    [
        *("uint8 3HW tensor", "float32 1HW tensor", "uint8 HW3"),
        "uint8 1HW tensor",
    ],
)
@pytest.mark.parametrize("holes", [0, 1])
def test_results_can_be_written_to_and_no_warning_is_given(kind: str, holes: int, inpainter: Inpainter) -> None:
    make = KINDS.get(kind) or _tensor(torch.uint8, 1)
    image = make(np.random.default_rng(0), 20, 20)
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            filled = inpainter.inpaint(image, box_mask(20, 20, *[(5, 5, 10, 10)] * holes))
    finally:
        torch.set_warn_always(always)
    filled[...] = 0


@pytest.mark.parametrize("kind", ["uint8 HW3", "float32 3HW tensor", "float32 23HW tensor", "PIL RGB", "PIL P"])
def test_a_full_mask_is_refused(kind: str, inpainter: Inpainter) -> None:
    image = KINDS[kind](np.random.default_rng(0), 12, 9)
    with pytest.raises(InputError, match="covers the whole photo"):
        inpainter.inpaint(image, np.ones((12, 9), bool))


@pytest.mark.parametrize("kind", ["uint8 HW3", "float32 3HW tensor", "float32 23HW tensor", "PIL RGB", "PIL P"])
def test_a_mask_of_another_size_is_refused_with_both_sizes(kind: str, inpainter: Inpainter) -> None:
    image = KINDS[kind](np.random.default_rng(0), 12, 9)
    with pytest.raises(InputError, match=r"10x13.*9x12"):
        inpainter.inpaint(image, np.ones((13, 10), bool))


# --- masks of every kind

HOLE = box_mask(20, 30, (4, 5, 15, 22))


@pytest.mark.parametrize(
    "mask",
    [
        HOLE.astype(np.uint8),
        HOLE.astype(np.uint8) * 255,
        HOLE.astype(np.uint8) * 128,
        HOLE.astype(np.uint16) * 65535,
        HOLE.astype(np.int64) * 255,
        HOLE.astype(np.float32),
        HOLE.astype(np.float64) * 0.5,
        HOLE[..., None],
        HOLE[None],
        HOLE.tolist(),
        np.asfortranarray(HOLE),
        torch.from_numpy(HOLE),
        torch.from_numpy(HOLE)[None],
        torch.from_numpy(HOLE).float(),
        Image.fromarray(HOLE),
        Image.fromarray(HOLE.astype(np.uint8) * 255),
        Image.fromarray(HOLE.astype(np.uint8) * 255).convert("RGB"),
        Image.fromarray(HOLE.astype(np.uint8) * 255).convert("P"),
    ],
    ids=lambda m: f"{type(m).__name__} {getattr(m, 'dtype', getattr(m, 'mode', ''))} {getattr(m, 'shape', '')}",
)
def test_a_mask_may_come_in_any_form(mask: Any, inpainter: Inpainter) -> None:
    image = textured(20, 30)
    expected = inpainter.inpaint(image, HOLE, sharp=False)
    np.testing.assert_array_equal(inpainter.inpaint(image, mask, sharp=False), expected)


def test_a_bfloat16_mask_is_taken(inpainter: Inpainter) -> None:
    filled = inpainter.inpaint(torch.rand(3, 20, 30), torch.from_numpy(HOLE).bfloat16(), sharp=False)
    assert filled.shape == (3, 20, 30)


def test_a_mask_with_a_channel_fits_a_photo_of_one_row(inpainter: Inpainter) -> None:
    mask = np.arange(20)[None, :, None] > 12
    image = textured(1, 20)
    np.testing.assert_array_equal(inpainter.inpaint(image, mask), inpainter.inpaint(image, mask[..., 0]))


@pytest.mark.parametrize("shape", [(20, 30), (2, 20, 30), (2, 1, 20, 30)])
def test_a_batch_takes_one_mask_for_all_or_one_for_each(shape: tuple[int, ...], inpainter: Inpainter) -> None:
    images = torch.from_numpy(textured(40, 30)).permute(2, 0, 1).reshape(3, 2, 20, 30).transpose(0, 1)
    masks = torch.from_numpy(HOLE).expand(shape)
    together = inpainter.inpaint(images, masks, sharp=False)
    for image, filled in zip(images, together, strict=True):
        assert torch.equal(inpainter.inpaint(image, HOLE, sharp=False), filled)


def test_a_batch_with_a_wrong_number_of_masks_is_refused(inpainter: Inpainter) -> None:
    with pytest.raises(InputError, match="2 masks for 3 images"):
        inpainter.inpaint(torch.rand(3, 3, 20, 30), torch.zeros(2, 20, 30))


def test_an_empty_batch_stays_empty(inpainter: Inpainter) -> None:
    assert inpainter.inpaint(torch.rand(0, 3, 20, 30), torch.from_numpy(HOLE)).shape == (0, 3, 20, 30)


@pytest.mark.parametrize("mask", [None, "mask.png", np.zeros(5), np.zeros((2, 20, 30, 3))])
def test_what_is_no_mask_is_refused(mask: Any, inpainter: Inpainter) -> None:
    with pytest.raises(InputError):
        inpainter.inpaint(textured(20, 30), mask)


@pytest.mark.parametrize(
    "image",
    [
        "photo.png",
        None,
        np.zeros((20, 30, 5), np.uint8),
        np.zeros((0, 30, 3), np.uint8),
        np.zeros((20, 30, 3), np.int32),
        np.zeros((20, 30, 3), np.complex64),
        np.full((20, 30, 3), 200.0),
        np.full((20, 30, 3), np.nan),
        torch.zeros(20, 30),
        torch.zeros(1, 2, 3, 20, 30),
        Image.new("F", (30, 20)),
        Image.new("HSV", (30, 20)),
    ],
)
def test_what_is_no_image_is_refused(image: Any, inpainter: Inpainter) -> None:
    with pytest.raises(InputError) as caught:
        inpainter.inpaint(image, HOLE)
    assert "\n" not in str(caught.value)


def test_a_palette_with_alpha_keeps_its_transparency(inpainter: Inpainter) -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (20, 30, 4)).astype(np.uint8)
    image = Image.frombytes("RGBA", (30, 20), data.tobytes()).quantize(16)
    assert image.palette is not None
    assert image.palette.mode == "RGBA"
    filled = inpainter.inpaint(image, HOLE)
    np.testing.assert_array_equal(pixels(filled)[~HOLE], pixels(image)[~HOLE])


def test_a_fill_of_opaque_palette_pixels_is_opaque(inpainter: Inpainter) -> None:
    # The transparent entry is free, for no pixel uses it; a new colour may well take its place.
    image = Image.fromarray(np.random.default_rng(0).integers(1, 5, (20, 30)).astype(np.uint8))
    image.putpalette(np.random.default_rng(1).integers(0, 256, 768).astype(np.uint8).tobytes(), "RGB")
    image.info["transparency"] = 0
    assert (pixels(inpainter.inpaint(image, HOLE, sharp=False))[..., 3] == 255).all()


def test_a_tensor_with_a_gradient_is_filled_without_one(inpainter: Inpainter) -> None:
    image = torch.rand(3, 20, 30, requires_grad=True)
    assert not inpainter.inpaint(image, HOLE, sharp=False).requires_grad


# --- what a fill depends on


@pytest.mark.parametrize("sharp", [False, True])
@pytest.mark.parametrize("direct", [harmonic.DIRECT_SIZE, 60])
@pytest.mark.parametrize(
    "boxes",
    [
        [(20, 30, 60, 80)],
        [(0, 0, 96, 40), (50, 70, 56, 128)],
        [(0, 0, 10, 128), (0, 0, 96, 10), (86, 0, 96, 128), (0, 118, 96, 128), (24, 24, 70, 100)],
    ],
    ids=["one hole", "at the border", "a hole within a ring"],
)
def test_what_lies_under_the_mask_is_never_seen(
    boxes: list[tuple[int, int, int, int]],
    direct: int,
    sharp: bool,
    inpainter: Inpainter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(harmonic, "DIRECT_SIZE", direct)
    mask = box_mask(96, 128, *boxes)
    image = textured(96, 128).astype(np.float32) / 255
    other = image.copy()
    other[mask] = np.random.default_rng(1).random((int(mask.sum()), 3)) > 0.5
    np.testing.assert_array_equal(
        inpainter.inpaint(image, mask, sharp=sharp), inpainter.inpaint(other, mask, sharp=sharp)
    )


def test_a_large_ring_does_not_see_what_the_hole_within_it_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harmonic, "DIRECT_SIZE", 50)
    plain = Inpainter(random_model(), BlendCurve((0.0,), (0.0,)))
    mask = box_mask(160, 160, (5, 5, 155, 155)) & ~box_mask(160, 160, (20, 20, 140, 140))
    inner = box_mask(160, 160, (32, 32, 126, 126))
    image = textured(160, 160).astype(np.float32) / 255
    other = np.where(inner[..., None], np.float32(1), image)
    first, second = (plain.inpaint(i, mask | inner, sharp=False) for i in (image, other))
    np.testing.assert_array_equal(first, second)


def scratched() -> np.ndarray:
    """(300, 340) bool: two lines from border to border that cross each other."""
    mask = np.zeros((300, 340), np.uint8)
    for line in ((-5, 10, 350, 280), (20, 250, 330, 40)):
        cv2.line(mask, line[:2], line[2:], 1, 9)
    return mask > 0


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut holes as small as `scratched`."""
    monkeypatch.setattr(regions, "TILE", 140)
    assert len(regions.cut(*regions.find_regions(scratched()))) > 4


@pytest.fixture(scope="session")
def in_one(inpainter: Inpainter) -> tuple[np.ndarray, np.ndarray, int]:
    """The fill, the confidence and the number of windows of `scratched`, with nothing cut."""
    filled, told = inpainter.fill(Photo(textured(300, 340)), scratched(), sharp=False)
    return filled.samples.astype(int), inpainter.confidence(textured(300, 340), scratched(), draws=2), told.windows


def test_a_scratch_across_the_photo_is_filled_in_parts_as_it_is_in_one(
    parts: None, inpainter: Inpainter, in_one: tuple[np.ndarray, np.ndarray, int]
) -> None:
    filled, told = inpainter.fill(Photo(textured(300, 340)), scratched(), sharp=False)
    assert told.holes == 1
    assert told.windows == in_one[2]
    difference = abs(filled.samples - in_one[0])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.02


def test_a_window_that_parts_share_is_seen_once(parts: None, inpainter: Inpainter) -> None:
    scene = inpainter._scene(Photo(textured(300, 340)), scratched(), 0, FillReport(), None)
    assert scene is not None
    assert len(scene.groups) > 1
    seen: list[Any] = []

    def see(windows: list[ModelWindow]) -> list[np.ndarray]:
        seen.extend(windows)
        return [window.image for window in windows]

    assert len(list(scene.map_windows(see))) == len(scene.regions)
    assert len({window.box for window in seen}) == len(seen) == scene.windows
    for window in seen:  # of all that use it, in whichever group
        others = [r for r, plan in zip(scene.regions, scene.plans, strict=True) if window.box in plan]
        meet = [intersection(region.box, window.box) for region in others]
        pixels = sum(int(scene.mask[slices(box)].sum()) for box in meet)
        assert int(window.wanted.sum()) == pixels


def test_the_parts_of_a_scratch_are_as_sure_as_all_of_it(
    parts: None, inpainter: Inpainter, in_one: tuple[np.ndarray, np.ndarray, int]
) -> None:
    sure = inpainter.confidence(textured(300, 340), scratched(), draws=2)
    np.testing.assert_allclose(sure, in_one[1], atol=0.02)


def test_rain_is_filled_in_small_parts_as_it_is_in_whole_lines(
    inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, columns = np.indices((300, 340))
    rain = (columns - rows) % 40 < 2
    filled = {}
    for much in (16, 0):
        monkeypatch.setattr(regions, "MUCH", much)
        scene = inpainter._scene(Photo(textured(300, 340)), rain, 0, FillReport(), None)
        assert scene is not None
        picture, _ = inpainter.fill(Photo(textured(300, 340)), rain, sharp=False)
        filled[len(scene.regions)] = picture.samples.astype(int)
    (whole, of_whole), (parts, of_parts) = sorted(filled.items())
    assert parts > whole
    assert abs(of_whole - of_parts).max() <= 1


@pytest.mark.parametrize(("alpha", "cuts"), [(None, True), (255, True), (200, False)])
def test_only_the_holes_of_opaque_photos_are_cut(
    alpha: int | None, cuts: bool, inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions, "TILE", 140)
    image = textured(300, 340)
    if alpha is not None:
        image = np.dstack([image, np.full((300, 340), 255, np.uint8)])
        image[5, 5, 3] = alpha
    photo = Photo(image, "RGB" if alpha is None else "RGBA")
    seen = inpainter._scene(photo, scratched(), 0, FillReport(), None)
    assert seen is not None
    assert (len(seen.regions) > 1) == cuts


@pytest.mark.parametrize("sharp", [False, True])
def test_the_same_seed_gives_the_same_fill(sharp: bool, inpainter: Inpainter) -> None:
    image, mask = textured(80, 90), box_mask(80, 90, (20, 20, 60, 55))
    torch.manual_seed(1)
    first = inpainter.inpaint(image, mask, sharp=sharp, seed=7)
    torch.manual_seed(2)
    np.testing.assert_array_equal(inpainter.inpaint(image, mask, sharp=sharp, seed=7), first)


def test_the_random_state_of_the_process_is_left_alone(inpainter: Inpainter) -> None:
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    inpainter.inpaint(textured(60, 60), box_mask(60, 60, (20, 20, 40, 40)))
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[index]


def test_another_hole_far_away_changes_nothing(inpainter: Inpainter) -> None:
    image = textured(100, 600)
    near, far = (30, 30, 50, 50), (40, 500, 60, 540)
    alone = inpainter.inpaint(image, box_mask(100, 600, near), sharp=False)
    both = inpainter.inpaint(image, box_mask(100, 600, near, far), sharp=False)
    # Batches of other sizes may round otherwise.
    difference = np.abs(alone[:, :300].astype(int) - both[:, :300].astype(int))
    assert difference.max() <= 1


def test_a_constant_photo_is_continued_where_the_curve_trusts_the_rim() -> None:
    plain = Inpainter(random_model(), BlendCurve((0.0,), (0.0,)))
    image = np.full((50, 60, 3), (10, 200, 90), np.uint8)
    np.testing.assert_array_equal(plain.inpaint(image, box_mask(50, 60, (0, 10, 30, 45))), image)


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_dilate_grows_the_hole_by_so_many_pixels(n: int, inpainter: Inpainter) -> None:
    image, mask = textured(60, 70), box_mask(60, 70, (25, 30, 31, 36))
    changed = (inpainter.inpaint(image, mask, dilate=n, sharp=False) != image).any(-1)
    y, x = np.mgrid[:60, :70]
    away = np.hypot(np.maximum(np.maximum(25 - y, y - 30), 0), np.maximum(np.maximum(30 - x, x - 35), 0))
    assert not changed[away >= n + 0.5].any()
    report = inpainter.fill(_photo(image), mask, dilate=n, sharp=False)[1]
    assert (away <= n - 0.5).sum() <= report.pixels <= (away < n + 0.5).sum()
    for row, column in ((25 - n, 32), (30 + n, 32), (28, 30 - n), (28, 35 + n)):
        assert changed[row - 1 : row + 2, column - 1 : column + 2].any()


def test_a_hole_dilated_over_the_whole_photo_is_refused(inpainter: Inpainter) -> None:
    with pytest.raises(InputError, match="mask grown by 40 pixels covers the whole photo"):
        inpainter.inpaint(textured(20, 30), HOLE, dilate=40)
    with pytest.raises(InputError, match="the mask covers the whole photo") as caught:
        inpainter.inpaint(textured(20, 30), np.ones_like(HOLE), dilate=1)
    assert "--" not in str(caught.value)  # no advice for the command line


@pytest.mark.parametrize("option", ["dilate", "feather"])
def test_negative_widths_are_refused(option: str, inpainter: Inpainter) -> None:
    with pytest.raises(InputError, match=f"{option} must be a whole number"):
        inpainter.inpaint(textured(20, 30), HOLE, **{option: -1})


def test_a_feathered_fill_starts_as_the_continuation_of_the_rim(inpainter: Inpainter) -> None:
    eager = Inpainter(inpainter.model, BlendCurve((0.0,), (1.0,)))
    plain = Inpainter(inpainter.model, BlendCurve((0.0,), (0.0,)))
    image, mask = textured(80, 90).astype(np.float32) / 255, box_mask(80, 90, (20, 20, 60, 70))
    smooth = plain.inpaint(image, mask, sharp=False)
    hard, soft = (eager.inpaint(image, mask, feather=n, sharp=False) for n in (0, 10))
    rim = mask & ~box_mask(80, 90, (22, 22, 58, 68)) & mask
    deep = box_mask(80, 90, (32, 32, 48, 58))
    assert np.abs(soft - smooth)[rim].mean() < 0.3 * np.abs(hard - smooth)[rim].mean()
    np.testing.assert_allclose(soft[deep], hard[deep], atol=1e-6)


def test_the_report_says_what_was_done(inpainter: Inpainter) -> None:
    mask = box_mask(100, 200, (10, 10, 30, 30), (60, 150, 80, 190))
    _, report = inpainter.fill(_photo(textured(100, 200)), mask)
    assert report.holes == 2
    assert report.pixels == mask.sum()
    assert report.windows >= 2
    assert {"regions", "harmonic", "coarse", "paste"} <= set(report.seconds)
    assert all(value >= 0 for value in report.seconds.values())


def test_progress_of_each_stage_ends_with_all_steps_done(inpainter: Inpainter) -> None:
    last: dict[str, tuple[int, int]] = {}

    def note(stage: str, done: int, total: int) -> None:
        assert done > last.get(stage, (0, 0))[0]
        last[stage] = done, total

    inpainter.inpaint(textured(100, 200), box_mask(100, 200, (10, 10, 30, 30), (50, 5, 54, 190)), progress=note)
    assert {"smoothing", "filling"} <= set(last)
    assert all(done == total for done, total in last.values())


def test_a_hole_of_most_of_a_long_photo_is_filled(inpainter: Inpainter) -> None:
    # Its middle is further from anything known than a window reaches.
    image, mask = textured(40, 600), box_mask(40, 600, (0, 0, 40, 450))
    filled = inpainter.inpaint(image, mask)
    np.testing.assert_array_equal(filled[~mask], image[~mask])


def test_a_photo_smaller_than_the_model_asks_it_as_the_curve_says() -> None:
    # 20 px become 64: the middle of the hole is 16 pixels of the model away from what is known.
    wide = Inpainter(random_model(image_size=64), BlendCurve((0.0, 6.0, 12.0), (0.0, 0.0, 1.0)))
    report = wide.fill(_photo(textured(20, 20)), box_mask(20, 20, (5, 5, 15, 15)))[1]
    assert report.windows == 1


def test_a_gray_model_fills_colour_photos() -> None:
    gray = Inpainter(random_model(in_chans=1, mean=(0.5,), std=(0.25,), mask_embed=False))
    image, mask = textured(40, 40), box_mask(40, 40, (10, 10, 30, 30))
    filled = gray.inpaint(image, mask)
    np.testing.assert_array_equal(filled[~mask], image[~mask])


def _photo(image: np.ndarray) -> Any:
    from maerestore.image import Photo

    return Photo(image.copy())


def test_the_command_lines_spelling_of_sharp_is_refused(inpainter: Inpainter) -> None:
    with pytest.raises(InputError, match="sharp must be True or False"):
        inpainter.inpaint(textured(20, 30), HOLE, sharp="off")  # type: ignore[arg-type]


@pytest.mark.parametrize("setting", ["dilate", "feather"])
def test_a_width_beyond_all_photos_is_refused(setting: str, inpainter: Inpainter) -> None:
    with pytest.raises(InputError, match=rf"{setting} must be a whole number of pixels, 0 or more, got 1{39 * '0'}$"):
        inpainter.inpaint(textured(20, 30), HOLE, **{setting: 10**400})


def test_half_a_pixel_is_no_width(inpainter: Inpainter) -> None:
    with pytest.raises(InputError, match="dilate must be a whole number"):
        inpainter.inpaint(textured(20, 30), HOLE, dilate=1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [np.int64(3), np.uint8(3), torch.tensor(3)])
def test_a_seed_may_be_any_whole_number(seed: Any, inpainter: Inpainter) -> None:
    image, two = textured(20, 30), np.int64(2)
    calls: list[Callable[[Any], Any]] = [
        lambda seed: inpainter.inpaint(image, HOLE, seed=seed),
        lambda seed: inpainter.fill(_photo(image), HOLE, seed=seed)[0].samples,
        lambda seed: np.stack(inpainter.samples(image, HOLE, two, seed=seed)),
        lambda seed: np.stack([p.samples for p in inpainter.fill_samples(_photo(image), HOLE, two, seed=seed)[0]]),
        lambda seed: inpainter.confidence(image, HOLE, draws=two, seed=seed),
        lambda seed: inpainter.confidence_of(_photo(image), HOLE, draws=two, seed=seed)[0],
    ]  # fmt: skip
    for call in calls:
        np.testing.assert_array_equal(call(seed), call(3))


@pytest.mark.parametrize("seed", [1.5, None, "1", True, 2**64, -(2**63) - 1, np.float64(1)])
def test_what_is_no_seed_is_refused(seed: Any, inpainter: Inpainter) -> None:
    image = textured(20, 30)
    for call in (
        lambda: inpainter.inpaint(image, HOLE, seed=seed),
        lambda: inpainter.samples(image, HOLE, 2, seed=seed),
        lambda: inpainter.confidence(image, HOLE, seed=seed),
    ):
        with pytest.raises(InputError, match=r"seed must .*, got"):
            call()


@pytest.mark.parametrize("mask", [HOLE.astype(np.uint8), HOLE.tolist(), torch.from_numpy(HOLE), None, HOLE[None]])
def test_the_mask_of_a_photo_must_be_of_bool(mask: Any, inpainter: Inpainter) -> None:
    photo = _photo(textured(20, 30))
    for call in (
        lambda: inpainter.fill(photo, mask),
        lambda: inpainter.fill_samples(photo, mask, 2),
        lambda: inpainter.confidence_of(photo, mask),
    ):
        with pytest.raises(
            InputError, match=r"array of bool.*maerestore\.image\.read_mask\(path, photo\.size\)|30x20x1"
        ):
            call()


def test_a_batch_is_refused_where_one_image_is_wanted(inpainter: Inpainter) -> None:
    batch = torch.rand(2, 3, 20, 30)
    with pytest.raises(InputError, match=r"samples takes one image, not a batch \(2, 3, 20, 30\)"):
        inpainter.samples(batch, HOLE, 2)
    with pytest.raises(InputError, match="confidence takes one image"):
        inpainter.confidence(batch, HOLE)


def test_a_batch_with_channels_last_is_told_so(inpainter: Inpainter) -> None:
    with pytest.raises(InputError, match=r"turn it by permute\(2, 0, 1\)"):
        inpainter.inpaint(torch.rand(2, 20, 30, 3), np.stack([HOLE, HOLE]))


@pytest.mark.parametrize("sharp", [False, True])
def test_a_model_that_sees_noise_fills_alike_every_time(sharp: bool) -> None:
    noisy = Inpainter(random_model(hidden="noise", mask_embed=False), BlendCurve((0.0,), (1.0,)), precision="fp32")
    plain = Inpainter(random_model(hidden="mean", mask_embed=False), BlendCurve((0.0,), (1.0,)), precision="fp32")
    images = torch.from_numpy(np.stack([textured(40, 50, seed) for seed in range(2)])).permute(0, 3, 1, 2)
    hole = box_mask(40, 50, (10, 10, 35, 40))
    first = noisy.inpaint(images, hole, sharp=sharp)
    state = torch.get_rng_state()
    assert torch.equal(noisy.inpaint(images, hole, sharp=sharp), first)
    assert torch.equal(noisy.inpaint(images[1], hole, sharp=sharp), first[1])
    sure = noisy.confidence(images[0], hole, draws=2)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(noisy.confidence(images[0], hole, draws=2), sure)
    assert not torch.equal(plain.inpaint(images, hole, sharp=sharp), first)


@pytest.mark.parametrize(("wrong", "named"), [
    ({"size": -8}, "size"), ({"size": 3}, "size"), ({"size": 8 * 2000}, "size"), ({"size": True}, "size"),
    ({"smooth": -1.0}, "smooth"), ({"smooth": float("nan")}, "smooth"), ({"smooth": "1"}, "smooth"),
])  # fmt: skip
def test_settings_that_nothing_can_be_filled_with_are_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=f"^{named} must be"):
        Inpainter(random_model(), **wrong)


def test_a_model_without_a_decoder_is_refused_before_the_first_fill() -> None:
    with pytest.raises(MaerestoreError, match="encoder only"):
        Inpainter(random_model(decoder_depth=0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_in_half_precision_fill_as_they_do_once_saved(dtype: torch.dtype) -> None:
    image, hole = textured(40, 50), box_mask(40, 50, (10, 10, 30, 30))
    rounded = random_model().to(dtype).float()
    expected = Inpainter(rounded, precision="fp32").inpaint(image, hole)
    half = Inpainter(random_model().to(dtype), precision="fp32")
    np.testing.assert_array_equal(half.inpaint(image, hole), expected)
    assert Inpainter(half.model, precision="fp32", refiner=random_refiner().to(dtype)).inpaint(image, hole).any()
