"""The boxes that a training step cuts out of photographs."""

import pytest
import torch

from maerestore.train.crops import native_boxes, random_boxes, random_crops

SQUARE = torch.tensor([[600, 600, 0]])


def shapes(u, scale, sizes=SQUARE):
    """(N,) area as a share of the photo and aspect, width by height, of boxes for (4, N) u."""
    boxes = random_boxes(sizes.expand(u.shape[1], -1), u, scale)
    return boxes[:, 2] * boxes[:, 3] / (sizes[0, 0] * sizes[0, 1]), boxes[:, 3] / boxes[:, 2]


def test_area_and_aspect_reach_the_ends_of_their_ranges_and_not_beyond():
    low, high = 0.0, 1 - 1e-6
    u = torch.tensor([[low, low], [low, high], [high, low], [high, high]]).T
    area, aspect = shapes(torch.cat([u, torch.full((2, 4), 0.5)]), (0.1, 0.5))
    torch.testing.assert_close(area, torch.tensor([0.1, 0.1, 0.5, 0.5]))
    torch.testing.assert_close(aspect, torch.tensor([3 / 4, 4 / 3, 3 / 4, 4 / 3]), rtol=1e-4, atol=0)


def test_aspects_are_as_often_high_as_wide_and_areas_even():
    area, aspect = shapes(torch.rand(4, 4000, generator=torch.Generator().manual_seed(0)), (0.1, 0.5))
    assert aspect.log().mean().abs() < 0.01
    assert area.mean() == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("size", [(1080, 1920), (1920, 1080), (240, 720), (3000, 100)], ids=str)
def test_boxes_that_a_long_photo_cuts_off_keep_their_aspects(size):
    sizes = torch.tensor([[*size, 0]]).expand(4000, -1)
    boxes = random_boxes(sizes, torch.rand(4, 4000, generator=torch.Generator().manual_seed(0)), (0.2, 1.0))
    top, left, height, width = boxes.T
    aspect = width / height
    assert aspect.min() > 3 / 4 - 1e-4
    assert aspect.max() < 4 / 3 + 1e-4
    assert min(top.min(), left.min()) >= 0
    assert (top + height).max() < size[0] + 1e-2
    assert (left + width).max() < size[1] + 1e-2


def test_boxes_stay_in_the_photo_and_reach_all_of_its_sides():
    sizes = torch.tensor([[400, 900, 0]])
    u = torch.rand(4, 2000, generator=torch.Generator().manual_seed(0))
    boxes = random_boxes(sizes.expand(2000, -1), u, (0.25, 1.0))
    top, left, height, width = boxes.T
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max() - 400, (left + width).max() - 900) < 1e-3
    assert top.min() < 20
    assert (top + height).max() > 380
    assert left.min() < 20
    assert (left + width).max() > 880


@pytest.mark.parametrize("flip", [True, False])
def test_half_of_the_crops_are_mirrored_where_that_is_allowed(flip):
    def cutter(canvas, sizes, boxes, mirrored, out, native):
        return mirrored

    n = 1000
    canvas, sizes = torch.zeros(n, 4, 4, 3, dtype=torch.uint8), torch.tensor([[4, 4, 0]]).expand(n, -1)
    generator = torch.Generator().manual_seed(0)
    mirrored = random_crops(canvas, sizes, n, slice(0, n), 4, (0.5, 1.0), generator, flip, cutter)
    assert mirrored.float().mean() == pytest.approx(0.5 * flip, abs=0.05)


def test_native_crops_of_much_larger_photographs_are_their_pixels_too():
    canvas = torch.randint(0, 256, (8, 40, 60, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([[40, 60, 0]]).expand(8, -1)
    crops = random_crops(
        canvas, sizes, 8, slice(0, 8), 8, (0.5, 1.0), torch.Generator().manual_seed(0), False, native=True
    )
    for photo, crop in zip(canvas.permute(0, 3, 1, 2) / 255, crops, strict=True):
        places = photo.unfold(1, 8, 1).unfold(2, 8, 1).permute(1, 2, 0, 3, 4)
        assert float((places - crop).abs().amax((2, 3, 4)).min()) < 1e-3


def test_native_crops_are_the_photographs_pixels_and_reach_both_ends():
    canvas = torch.randint(0, 256, (64, 9, 12, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([[9, 12, 0]]).expand(64, -1)
    generator = torch.Generator().manual_seed(0)
    crops = random_crops(canvas, sizes, 64, slice(0, 64), 8, (0.5, 1.0), generator, False, native=True)
    everywhere, places = {(y, x) for y in range(2) for x in range(5)}, set()
    for photo, crop in zip(canvas.permute(0, 3, 1, 2).float() / 255, crops, strict=True):
        at = [(y, x) for y, x in everywhere if (photo[:, y : y + 8, x : x + 8] - crop).abs().max() < 1e-4]
        assert len(at) == 1
        places |= set(at)
    assert places == everywhere


def test_native_crops_of_a_smaller_photo_are_its_largest_squares():
    boxes = native_boxes(torch.tensor([[9, 12, 0]]), torch.tensor([[0.99], [0.99]]), 16)
    assert boxes.tolist() == [[0, 3, 9, 9]]
