from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maerestore.inpaint.coarse import coarse_fill
from maerestore.inpaint.model_window import ModelWindow, model_shape
from maerestore.model import MAEConfig

from .conftest import SETTINGS, box_mask, random_model, textured


class Stub(torch.nn.Module):
    """Stands in for an autoencoder: `reconstruct` is a given function of the picture and its pixel mask."""

    def __init__(self, function: Callable[..., torch.Tensor], **settings: Any) -> None:
        super().__init__()
        self.config = MAEConfig(**{**SETTINGS, **settings})
        self.mean = torch.tensor(self.config.mean).view(1, -1, 1, 1)
        self.function = function
        self.shapes: list[tuple[int, ...]] = []

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        return images * 2 - 1

    def denormalize(self, images: torch.Tensor) -> torch.Tensor:
        return (images + 1) / 2

    def reconstruct(
        self, images: torch.Tensor, pixel_mask: torch.Tensor, hidden_noise: torch.Tensor | None
    ) -> torch.Tensor:
        assert pixel_mask.shape == (images.shape[0], 1, *images.shape[2:])
        self.shapes.append(tuple(images.shape))
        return self.function(images, pixel_mask)


def window(height: int, width: int, *holes: tuple[int, int, int, int], seed: int = 0) -> ModelWindow:
    image = textured(height, width, seed).astype(np.float32) / 255
    return ModelWindow((0, 0, height, width), image, box_mask(height, width, *holes))


def fill(model: Any, windows: list[ModelWindow], **options: Any) -> list[np.ndarray]:
    """Fill windows at the model's own size."""
    return coarse_fill(model, windows, size=model.config.image_size, **options)


def mirrored(one: ModelWindow) -> ModelWindow:
    return ModelWindow(one.box, np.ascontiguousarray(one.image[:, ::-1]), np.ascontiguousarray(one.mask[:, ::-1]))


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    sizes=st.sampled_from([(32, 8), (224, 16), (256, 16), (224, 14), (518, 14)]),
)
def test_the_model_sees_whole_patches_and_about_its_own_area(height: int, width: int, sizes: tuple[int, int]) -> None:
    size, patch = sizes
    rows, columns = model_shape(height, width, size, patch)
    assert rows % patch == 0
    assert columns % patch == 0
    assert min(rows, columns) >= patch
    if max(height, width) <= 4 * min(height, width):
        assert 0.6 * size**2 <= rows * columns <= 1.5 * size**2


def test_a_square_is_seen_at_the_models_size() -> None:
    for side in (1, 20, 32, 33, 1000):
        assert model_shape(side, side, 32, 8) == (32, 32)


def test_a_model_that_repeats_what_it_sees_gives_the_picture_back() -> None:
    one = window(32, 32, (4, 7, 25, 30))
    (filled,) = fill(Stub(lambda images, mask: images), [one])
    np.testing.assert_allclose(filled, one.image, atol=1e-5)


def test_every_pass_sees_whole_patches_and_the_frame_as_unknown() -> None:
    frames: list[torch.Tensor] = []

    def look(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        frames.append(mask)
        return images

    stub = Stub(look)
    fill(stub, [window(32, 32, (8, 8, 20, 20))])
    assert all(shape[2] % 8 == 0 and shape[3] % 8 == 0 for shape in stub.shapes)
    for mask in frames:
        height, width = mask.shape[2:]
        down, across = (height - 32) // 2, (width - 32) // 2
        outside = torch.ones_like(mask, dtype=torch.bool)
        outside[:, :, down : height - down, across : width - across] = False
        assert (mask[outside] == 1).all()
        assert mask[~outside].sum() == 12 * 12


def test_only_the_hole_is_taken_from_the_model() -> None:
    one = window(32, 32, (8, 8, 20, 20))
    (filled,) = fill(Stub(lambda images, mask: torch.zeros_like(images)), [one])
    np.testing.assert_allclose(filled[one.mask], 0.5, atol=1e-5)
    np.testing.assert_allclose(filled[~one.mask], one.image[~one.mask], atol=1e-5)


def test_a_mirrored_photo_gets_the_mirrored_fill() -> None:
    def blur(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images * (1 - mask), 5, 1, 2)

    one = window(48, 40, (10, 5, 30, 21))
    (filled,), (other,) = fill(Stub(blur), [one]), fill(Stub(blur), [mirrored(one)])
    np.testing.assert_allclose(other[:, ::-1], filled, atol=1e-4)


def test_the_grid_of_patches_leaves_no_trace() -> None:
    # A model whose pictures darken towards the borders of each patch: the shifted passes even that out.
    def shaded(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        ramp = 1 - (torch.arange(8) - 3.5).abs() / 4
        tile = torch.minimum(ramp[:, None], ramp[None, :])
        return tile.repeat(images.shape[2] // 8, images.shape[3] // 8).expand_as(images).clone()

    one = window(32, 32, (4, 4, 28, 28))
    (filled,) = fill(Stub(shaded), [one])
    inside = filled[one.mask]
    assert np.ptp(inside) < 0.25  # a single pass would swing by 0.44


@pytest.mark.parametrize("shape", [(32, 32), (20, 50), (97, 61), (1, 40), (3, 3), (200, 40)])
def test_fills_have_their_windows_size_and_are_colours(shape: tuple[int, int], inpainter: Any) -> None:
    height, width = shape
    one = window(height, width, (0, 0, height, max(1, width // 3)))
    (filled,) = fill(inpainter.model, [one])
    assert filled.shape == (height, width, 3)
    assert filled.dtype == np.float32
    assert np.isfinite(filled).all()
    assert -0.5 < filled.min() <= filled.max() < 1.5  # cubic enlargement overshoots a little


def test_a_window_does_not_depend_on_its_batch(inpainter: Any) -> None:
    windows = [window(32 + 8 * (i % 3), 32, (5, 5, 20 + i, 20), seed=i) for i in range(11)]
    together = fill(inpainter.model, windows)
    for one, filled in zip(windows, together, strict=True):
        np.testing.assert_allclose(fill(inpainter.model, [one])[0], filled, atol=1e-4)


def test_progress_counts_every_window_once(inpainter: Any) -> None:
    steps: list[int] = []
    fill(inpainter.model, [window(32, 32 + 32 * (i % 2), (5, 5, 20, 20)) for i in range(19)], progress=steps.append)
    assert sum(steps) == 19


def test_a_window_without_any_known_pixel_is_filled_too(inpainter: Any) -> None:
    (filled,) = fill(inpainter.model, [window(40, 40, (0, 0, 40, 40))])
    assert np.isfinite(filled).all()


def test_a_gray_model_fills_in_gray() -> None:
    model = random_model(in_chans=1, mean=(0.5,), std=(0.25,))
    one = window(32, 32, (8, 8, 24, 24))
    (filled,) = fill(model, [one])
    assert filled.shape == (32, 32, 3)
    np.testing.assert_allclose(np.ptp(filled[one.mask], axis=-1), 0, atol=1e-5)


def test_a_model_without_mask_embedding_fills_too() -> None:
    (filled,) = fill(random_model(mask_embed=False), [window(32, 32, (1, 1, 31, 31))])
    assert np.isfinite(filled).all()


def test_pixels_under_the_hole_do_not_matter_to_a_model_with_mask_embedding(inpainter: Any) -> None:
    one = window(32, 32, (6, 6, 21, 21))
    other = ModelWindow(one.box, np.where(one.mask[..., None], np.float32(0.77), one.image), one.mask)
    np.testing.assert_array_equal(
        fill(inpainter.model, [one])[0][one.mask], fill(inpainter.model, [other])[0][one.mask]
    )


def test_a_low_pass_stays_in_the_hole_and_smooths_it(inpainter: Any) -> None:
    one = window(32, 32, (6, 6, 26, 26))
    (rough,), (soft,) = fill(inpainter.model, [one]), fill(inpainter.model, [one], smooth=2.0)
    steps = [np.abs(np.diff(picture, axis=1))[one.mask[:, 1:]].mean() for picture in (rough, soft)]
    assert steps[1] < 0.6 * steps[0]


@pytest.mark.parametrize("size", [16, 32, 64])
def test_windows_are_seen_at_the_size_that_is_asked_for(size: int) -> None:
    stub = Stub(lambda images, mask: images)
    coarse_fill(stub, [window(50, 50, (10, 10, 40, 40))], size)  # type: ignore[arg-type]
    assert stub.shapes[0][2:] == (size, size)
