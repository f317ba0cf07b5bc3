"""The fill as one module: what it must keep, and that it does what the pipeline does."""

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from maerestore.inpaint.graph import FillGraph, _Line, distance_to_known
from maerestore.inpaint.pipeline import Inpainter
from maerestore.model.refiner import Refiner, RefinerConfig


@pytest.fixture
def graph(tiny_model):
    """make(refined=True, **settings): with windows of 64 px, which the autoencoder sees at 32."""

    def make(refined=True, **settings):
        model = tiny_model(**settings)
        torch.manual_seed(0)
        refiner = Refiner(RefinerConfig(feature_dim=16, feature_layer=1, widths=(4, 4, 8, 8), dilations=(1, 2)))
        with torch.no_grad():
            for parameter in refiner.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
        return FillGraph(model, refiner.eval() if refined else None, 64, 32).eval()

    return make


def holed(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(256, (1, 3, height, width), dtype=torch.uint8, generator=generator)
    mask = torch.zeros(1, 1, height, width, dtype=torch.uint8)
    mask[..., height // 3 : height // 2 + 1, width // 4 : width // 2 + 1] = 200
    return image, mask


@pytest.mark.parametrize("refined", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (1, 9), (30, 50), (200, 150), (20, 300)])
def test_known_pixels_stay_and_unknown_ones_are_not_read(graph, size, refined):
    fill, (image, mask) = graph(refined), holed(*size)
    filled = fill(image, mask)
    assert filled.shape == image.shape
    assert filled.dtype == torch.uint8
    hole = (mask > 0).expand_as(image)
    assert torch.equal(filled[~hole], image[~hole])
    other = torch.where(hole, 255 - image, image)
    assert torch.equal(fill(other, mask), filled)


def test_without_a_hole_the_photo_comes_back(graph):
    image, mask = holed(50, 70)
    assert torch.equal(graph()(image, torch.zeros_like(mask)), image)


def test_a_plain_colour_is_continued(graph):
    """The tiny autoencoder knows nothing; by the curve nothing is left to it."""
    fill = graph(refined=False)
    fill.curve = type(fill.curve)((0.0, 1.0), (0.0, 0.0))
    image, mask = torch.full((1, 3, 90, 120), 77, dtype=torch.uint8), holed(90, 120)[1]
    image[(mask > 0).expand_as(image)] = 0
    assert (fill(image, mask).int() - 77).abs().max() <= 1


def test_a_window_at_the_photos_own_size_fills_as_the_pipeline_does(tiny_model):
    """A smooth photo, one window: what differs is the approximation of the harmonic fill."""
    model = tiny_model(image_size=64)
    y, x = torch.meshgrid(torch.linspace(0, 3, 64), torch.linspace(0, 3, 64), indexing="ij")
    picture = torch.stack([y.sin(), x.cos(), (x + y).sin()]).mul(0.4).add(0.5).clamp(0, 1)
    image, mask = picture.mul(255).round().to(torch.uint8)[None], torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    mask[..., 16:48, 16:48] = 1
    pipeline = Inpainter(model, size=64, precision="fp32")
    ours = FillGraph(model, None, 64, 64, pipeline.curve).eval()(image, mask)
    theirs = pipeline.inpaint(image[0], mask[0], sharp=False)[None]
    assert (ours.int() - theirs.int()).abs().float().mean() < 2


@pytest.mark.parametrize("seed", range(3))
def test_distance_is_scipys(seed):
    unknown = torch.from_numpy(np.random.default_rng(seed).random((1, 1, 17, 23)) > 0.03 * seed + 0.02)
    expected = distance_transform_edt(unknown[0, 0].numpy())
    np.testing.assert_allclose(distance_to_known(unknown.float())[0, 0].numpy(), expected, atol=1e-4)


def test_a_window_of_its_own_size_is_cut_and_pasted_unchanged():
    pixels = torch.rand(100)
    line = _Line(pixels, torch.tensor(40.0), torch.tensor(60.0), torch.tensor(32.0), 32)
    cut = line.shrinking() @ pixels
    torch.testing.assert_close(cut, pixels[34:66])
    torch.testing.assert_close((line.enlarging() @ cut)[34:66], pixels[34:66])


def test_a_window_at_the_border_stays_inside():
    pixels = torch.rand(100)
    for first, last, start in ((0.0, 8.0, 0), (95.0, 100.0, 68)):
        line = _Line(pixels, torch.tensor(first), torch.tensor(last), torch.tensor(32.0), 32)
        torch.testing.assert_close(line.shrinking() @ pixels, pixels[start : start + 32])


@pytest.mark.parametrize(
    ("settings", "side", "size", "text"),
    [({}, 64, 30, "patch size 8"), ({}, 50, 32, "multiple of 32"), ({"decoder_depth": 0}, 64, 32, "reconstruct"),
     ({"in_chans": 1, "mean": (0.5,), "std": (0.5,)}, 64, 32, "RGB"), ({"hidden": "noise"}, 64, 32, "noise")],
)  # fmt: skip
def test_what_does_not_fit_is_refused(tiny_model, settings, side, size, text):
    with pytest.raises(ValueError, match=text):
        FillGraph(tiny_model(**settings), None, side, size)
