"""What to fill, in every form that a mask may have: what it says, and what is refused instead of filling nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maerestore.image import InputError
from maerestore.inpaint.masks import as_mask, as_masks
from maerestore.inpaint.pipeline import Inpainter

from .conftest import box_mask, textured

HOLE = box_mask(20, 30, (4, 5, 15, 22))
SIZE = (30, 20)
GRAY = Image.fromarray(HOLE.astype(np.uint8) * 255)
BATCH = torch.from_numpy(np.stack([textured(20, 30, seed) for seed in range(3)])).permute(0, 3, 1, 2)


def two_colours() -> Image.Image:
    """Index 1 is black and index 0 white: what the indices say is the contrary of what is seen."""
    image = Image.fromarray((~HOLE).astype(np.uint8))
    image.putpalette([255, 255, 255, 0, 0, 0], "RGB")
    return image


FORMS: dict[str, Any] = {
    "PIL 1": Image.fromarray(HOLE), "PIL L": GRAY, "PIL L of 0 and 1": Image.fromarray(HOLE.astype(np.uint8)),
    "PIL RGB": GRAY.convert("RGB"), "PIL P": two_colours(), "PIL LA": GRAY.convert("LA"),
    "PIL I;16": Image.fromarray(HOLE.astype(np.uint16) * 65535), "PIL I": Image.fromarray(HOLE.astype(np.int32) * 255),
    "PIL I of 16 bits": Image.fromarray(np.where(HOLE, 65535, 200).astype(np.int32)),
    "PIL I;16B": Image.frombytes("I;16B", GRAY.size, (HOLE * 65535).astype(">u2").tobytes()),
    "PIL F": Image.fromarray(HOLE.astype(np.float32)), "bool": HOLE, "list": HOLE.tolist(),
    "HW1": HOLE[..., None], "1HW": HOLE[None], "float": HOLE.astype(np.float64), "tensor": torch.from_numpy(HOLE),
    "bfloat16 tensor": torch.from_numpy(HOLE).bfloat16(), "int8 of 0 and 1": HOLE.astype(np.int8),
    "tensor with a gradient": torch.from_numpy(HOLE).float().requires_grad_(), "list of arrays": list(HOLE),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_the_same_alone_and_for_a_batch(form: str) -> None:
    np.testing.assert_array_equal(as_mask(FORMS[form], SIZE), HOLE)
    for mask in as_masks(FORMS[form], 3, SIZE):
        np.testing.assert_array_equal(mask, HOLE)


@pytest.mark.parametrize("form", [form for form in FORMS if "list" not in form])
def test_a_list_holds_a_mask_of_any_form_for_each_image(form: str) -> None:
    empty = np.zeros_like(HOLE)
    for mask, expected in zip(as_masks([FORMS[form], empty, GRAY], 3, SIZE), (HOLE, empty, HOLE), strict=True):
        np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("shape", [(3, 20, 30), (3, 1, 20, 30), (3, 20, 30, 1)])
def test_a_batch_of_masks_has_one_for_each_image(shape: tuple[int, ...]) -> None:
    masks = np.stack([HOLE, ~HOLE, np.zeros_like(HOLE)])
    for form in (masks.reshape(shape), torch.from_numpy(masks.reshape(shape)), masks.reshape(shape).tolist()):
        np.testing.assert_array_equal(np.stack(as_masks(form, 3, SIZE)), masks)


def test_a_mask_that_could_be_many_thin_ones_is_read_as_a_mask_for_each_image() -> None:
    masks = np.arange(20).reshape(20, 1) > 12  # images of one pixel
    np.testing.assert_array_equal(np.stack(as_masks(masks[..., None], 20, (1, 1))), masks[..., None])
    np.testing.assert_array_equal(np.stack(as_masks(masks[..., None], 3, (1, 20))), np.stack([masks] * 3))


@pytest.mark.parametrize("form", ["PIL P", "PIL RGB"])
def test_a_batch_is_filled_under_a_pil_mask(form: str, inpainter: Inpainter) -> None:
    expected = inpainter.inpaint(BATCH, torch.from_numpy(HOLE), sharp=False)
    assert (expected != BATCH).any(1)[:, HOLE].float().mean() > 0.9
    assert torch.equal(inpainter.inpaint(BATCH, FORMS[form], sharp=False), expected)
    assert torch.equal(inpainter.inpaint(BATCH, [FORMS[form]] * 3, sharp=False), expected)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (HOLE.astype(np.float32) * 255, "255"),
        (torch.from_numpy(HOLE).float() * 1.5, "1.5"),
        (HOLE.astype(np.float32) - 3, "-3"),
        (np.where(HOLE, np.nan, 0), "finite"),
        (HOLE.astype(np.uint16) * 255, "largest value is 255"),
        (HOLE.astype(np.uint8) * 2, "largest value is 2"),
        (torch.from_numpy(HOLE).int() * 127, "largest value is 127"),
        (HOLE.astype(np.int8) * 127, "largest value is 127"),
        (-HOLE.astype(np.int64), "largest value is 0"),
        (Image.fromarray(HOLE.astype(np.uint8) * 2), "largest value is 2"),
        (Image.fromarray(HOLE.astype(np.uint16) * 255), "largest value is 255"),
        (Image.fromarray(np.stack([HOLE * 200, HOLE * 0, HOLE * 0], -1).astype(np.uint8)), "half as bright as white"),
        (HOLE.astype(np.complex64), "complex64"),
        (np.full((20, 30), "hole"), "<U4"),
        ([[True, False], [True]], "list"),
        (None, "NoneType"),
        ("mask.png", "str"),
        (Image.fromarray(HOLE.astype(np.float32) * 255), "255"),
        (Image.new("LAB", SIZE), "mask of mode LAB"),
        (np.zeros(5), "(5,)"),
        (np.zeros((2, 20, 30, 3)), "(2, 20, 30, 3)"),
    ],
)
def test_what_would_be_read_as_nothing_or_wrongly_is_refused(mask: Any, words: str, inpainter: Inpainter) -> None:
    for image in (BATCH[0], BATCH):
        with pytest.raises(InputError) as caught:
            inpainter.inpaint(image, mask)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError) as caught:
        as_mask(mask, SIZE)
    assert words in str(caught.value)


@pytest.mark.parametrize("masks", [[GRAY] * 2, [HOLE] * 4, torch.zeros(2, 20, 30)])
def test_a_wrong_number_of_masks_is_refused(masks: Any, inpainter: Inpainter) -> None:
    with pytest.raises(InputError, match=f"{len(masks)} masks for 3 images"):
        inpainter.inpaint(BATCH, masks)


def test_floats_may_overshoot_by_rounding() -> None:
    np.testing.assert_array_equal(as_mask(HOLE * np.float32(1.005) - np.float32(0.004), SIZE), HOLE)


def test_a_soft_mask_that_finds_nothing_fills_nothing() -> None:
    assert not as_mask(np.full((20, 30), 0.2), SIZE).any()


def test_a_mask_that_is_fully_transparent_fills_nothing() -> None:
    assert not as_mask(Image.new("RGBA", SIZE, (255, 0, 0, 0)), SIZE).any()


@pytest.mark.parametrize("mask", [np.zeros((20, 30), np.uint8), Image.new("RGB", SIZE), torch.zeros(3, 20, 30)])
def test_an_empty_mask_gives_a_copy_of_a_batch(mask: Any, inpainter: Inpainter) -> None:
    filled = inpainter.inpaint(BATCH, mask)
    assert torch.equal(filled, BATCH)
    assert filled.data_ptr() != BATCH.data_ptr()
