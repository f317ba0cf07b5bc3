"""The smooth fill in tensors, against the exact solution of Laplace's equation."""

import numpy as np
import pytest
import torch

from maerestore.inpaint.harmonic import harmonic_fill
from maerestore.masking import draw_mask
from maerestore.model.smooth import smooth_fill


def pictures(n, height, width):
    """Smooth ones with values in [0, 1]."""
    noise = torch.randn(n, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    picture = torch.nn.functional.interpolate(noise, size=(height, width), mode="bicubic")
    return picture.sub(picture.amin()).div(picture.amax() - picture.amin())


def exact(photo, mask):
    filled = [harmonic_fill(p.permute(1, 2, 0).numpy(), m[0].numpy() > 0) for p, m in zip(photo, mask, strict=True)]
    return torch.from_numpy(np.stack(filled)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", [(64, 64), (57, 90)])
def test_it_comes_close_to_the_harmonic_fill(size):
    rng = np.random.default_rng(1)
    mask = torch.from_numpy(np.stack([draw_mask(f, size, rng) for f in ("thin", "thick", "centre", "mat")]))[:, None]
    photo = pictures(4, *size)
    filled, wanted = smooth_fill(photo, mask.float()), exact(photo, mask)
    hole = mask.expand_as(photo) > 0
    error = (filled - wanted)[hole].abs()
    colour = torch.where(hole, 0, photo).sum((2, 3), keepdim=True) / (~hole).sum((2, 3), keepdim=True)
    plain = (colour - wanted)[hole].abs()
    # Of the range of the picture; measured .007 and .011, at most .039 and .083, the mean colour .054 and .050.
    assert float(error.mean()) < 0.013 < 0.04 < float(plain.mean())
    assert float(error.max()) < 0.1 < 0.3 < float(plain.max())
    closer = (smooth_fill(photo, mask.float(), sweeps=300) - wanted)[hole].abs()
    assert float(closer.mean()) < 0.1 * float(error.mean())


def test_known_pixels_come_back_and_hidden_ones_are_not_read():
    photo, mask = pictures(2, 33, 41), torch.zeros(2, 1, 33, 41)
    mask[0, :, 5:20, 7:30] = 1
    filled = smooth_fill(photo, mask)
    assert torch.equal(filled[1], photo[1])
    assert torch.equal(torch.where(mask > 0, 0, filled), torch.where(mask > 0, 0, photo))
    assert torch.equal(smooth_fill(torch.where(mask > 0, float("nan"), photo), mask), filled)


def test_a_picture_of_one_colour_is_filled_with_it_and_one_without_known_pixels_is_zero():
    mask = torch.ones(2, 1, 37, 21)
    mask[0, :, 36, 20] = 0  # one known pixel, in the last odd corner
    filled = smooth_fill(torch.full((2, 3, 37, 21), 0.7), mask)
    torch.testing.assert_close(filled[0], torch.full((3, 37, 21), 0.7))
    assert not filled[1].any()


def test_a_batch_equals_its_images_one_by_one():
    photo, noise = pictures(2, 20, 20), torch.rand(2, 1, 20, 20, generator=torch.Generator().manual_seed(1))
    mask = (noise < 0.6).float()
    single = torch.cat([smooth_fill(photo[i : i + 1], mask[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(smooth_fill(photo, mask), single)
