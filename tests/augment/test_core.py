from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from maerestore.augment import fill, models
from maerestore.augment.core import LEVELS, Draw, MaskedViews, bf16_views
from maerestore.augment.settings import STRATEGIES, ViewSettings
from maerestore.model import MaskedAutoencoder

from .conftest import save_random
from .hosts import as_tensor, photos


def views_of(model: str, precision: str = "fp32", compile: bool = False, **settings) -> MaskedViews:
    return MaskedViews(ViewSettings(model=model, **settings), precision=precision, compile=compile)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_view_is_what_the_autoencoder_says_of_hidden_patches(model):
    views = views_of(model, mask_ratio=0.5)
    images = as_tensor(photos(2, 128, 128, dtype=np.float32))  # the model's own size: nothing is scaled
    draw = views.draw(2, rng())
    network = models.load(model)
    with torch.no_grad():
        out = network(network.normalize(images), noise=torch.from_numpy(draw.noise), mask_ratio=0.5)
        picture = network.denormalize(network.unpatchify(out.pred, (128, 128))).clamp(0, 1)
    hidden = out.mask.reshape(2, 1, 8, 8).repeat_interleave(16, 2).repeat_interleave(16, 3) > 0
    expected = torch.where(hidden, picture, images)
    assert torch.allclose(views.render(images, draw), expected, atol=1e-5)


def test_a_model_of_normalised_pixels_gives_pixels(tmp_path):
    views = views_of(save_random(tmp_path / "norm", depth=1, norm_pix_loss=True), mask_ratio=0.5)
    network = models.load(views.settings.model)
    images = network.denormalize(torch.full((1, 3, 128, 128), 0.5))
    view = views.render(images, views.draw(1, rng()))
    assert 0 < (view - images).abs().max() < 0.01  # patches take their mean and variance from the image: none here


def test_blend_mixes_in_hidden_patches(model):
    images = as_tensor(photos(2, dtype=np.float32))
    whole, half = views_of(model, mask_ratio=0.5), views_of(model, mask_ratio=0.5, blend=0.5)
    draw = whole.draw(2, rng())
    assert torch.allclose(half.render(images, draw), (whole.render(images, draw) + images) / 2, atol=1e-6)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_batch_equals_its_images_one_by_one(model, strategy, precision):
    views = views_of(model, precision, strategy=strategy)
    images = as_tensor(photos(3, 90, 120, dtype=np.float32))
    draw = views.draw(3, rng(), (90, 120))
    batch = views.render(images, draw)
    single = torch.cat([views.render(images[i : i + 1], draw[i : i + 1]) for i in range(3)])
    # Sums of other lengths round otherwise; in bfloat16 that may turn the order of two patches for attention.
    if precision == "fp32" or not strategy.startswith("attention"):
        assert torch.equal(batch == images, single == images)
        assert (batch - single).abs().max() < (1e-5 if precision == "fp32" else 0.05)


def test_rows_of_different_ratios_each_hide_their_share(model):
    views = views_of(model)
    images = as_tensor(photos(5, dtype=np.float32))
    ratios = np.array([0.25, 0.75, 0, 0.25, 1], np.float32)
    draw = Draw(ratios, views.draw(5, rng()).noise)
    batch = views.render(images, draw)
    changed = (batch != images).any(1).float().mean((1, 2))
    assert torch.allclose(changed, torch.from_numpy(ratios), atol=0.01)
    single = torch.cat([views.render(images[i : i + 1], draw[i : i + 1]) for i in range(5)])
    assert torch.allclose(batch, single, atol=1e-5)


def test_a_draw_of_one_row_serves_all_images(model):
    views = views_of(model)
    images = as_tensor(photos(1, dtype=np.float32)).expand(3, -1, -1, -1)
    out = views.render(images, views.draw(1, rng()))
    assert torch.allclose(out[0], out[1], atol=1e-5)
    assert torch.equal(out[1] == images[0], out[2] == images[0])


def test_passes_are_bounded(model, monkeypatch):
    views = views_of(model)
    images = as_tensor(photos(5, dtype=np.float32))
    draw = views.draw(5, rng())
    whole = views.render(images, draw)
    monkeypatch.setattr("maerestore.augment.core.BATCH", 2)
    assert torch.allclose(views.render(images, draw), whole, atol=1e-5)


def test_the_grid_follows_the_aspect_ratio(model):
    views = views_of(model)
    assert views.grid() == views.grid((50, 50)) == (8, 8)
    assert views.grid((480, 640)) == (7, 9)
    assert views.grid((1, 1000)) == (1, 253)
    assert views_of(model, size=64).grid() == (4, 4)


def test_a_draw_is_for_its_shape(model):
    views = views_of(model)
    images = as_tensor(photos(2, 48, 64, dtype=np.float32))
    with pytest.raises(ValueError, match=r"7 x 9 patches, .* \(2, 64\): make it with draw\(2, rng, shape=\(48, 64\)"):
        views.render(images, views.draw(2, rng()))
    with pytest.raises(ValueError, match="draw must be for 2 images"):
        views.render(images, views.draw(3, rng(), (48, 64)))


def test_an_empty_batch_stays_empty(model):
    views = views_of(model)
    images = torch.zeros(0, 3, 40, 40, dtype=torch.uint8)
    assert views.render(images, views.draw(0, rng())).shape == images.shape


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_draw_follows_from_the_generator_and_takes_as_much_of_it_whatever_is_drawn(model, strategy):
    views = views_of(model, strategy=strategy)
    a, b, c = rng(1), rng(1), rng(2)
    first, same, other = views.draw(4, a), views.draw(4, b), views.draw(4, c)
    views_of(model, mask_ratio=0.3).draw(1, b)
    views.draw(9, a)
    assert np.array_equal(first.noise, same.noise)
    assert np.array_equal(first.ratio, same.ratio)
    assert not np.array_equal(first.noise, other.noise)
    assert first.noise.dtype == first.ratio.dtype == np.float32
    assert len({row.tobytes() for row in first.noise}) == 4
    assert a.random() == b.random()


def test_five_ratios_spread_over_the_range_are_drawn(model):
    views = views_of(model, mask_ratio=(0.4, 0.8))
    generator = rng()
    draws = [views.draw(3, generator) for _ in range(200)]
    assert all(len(set(draw.ratio)) == 1 for draw in draws)
    assert len(draws[0]) == 3
    counts = np.unique([draw.ratio[0] for draw in draws], return_counts=True)
    assert np.allclose(counts[0], [0.4, 0.5, 0.6, 0.7, 0.8])
    assert len(counts[0]) == LEVELS
    assert counts[1].min() >= 20


def test_attention_hides_or_keeps_what_is_looked_at(model, monkeypatch):
    images = as_tensor(photos(2, dtype=np.float32))
    looks = torch.rand(2, 64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("maerestore.model.MaskedAutoencoder.responses", lambda self, pixels: looks)
    means = {}
    for strategy in ("attention", "attention-keep"):
        views = views_of(model, mask_ratio=0.5, strategy=strategy)
        changed = (views.render(images, views.draw(2, rng())) != images).any(1)
        hidden = changed.reshape(2, 8, 12, 8, 12).any(4).any(2).flatten(1)  # 96 px: 12 px a patch
        assert hidden.sum(1).tolist() == [32, 32]
        means[strategy] = float(looks[hidden].mean())
    assert means["attention"] > 0.7
    assert means["attention-keep"] < 0.3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rows_of_one_draw_are_hidden_alike(model, strategy):
    views = views_of(model, mask_ratio=0.5, strategy=strategy)
    images = as_tensor(photos(4, dtype=np.float32))
    images[0], images[1] = images[0].flip(-1), 1 - images[1]
    two = views.draw(2, rng())
    hidden = (views.render(images, two[np.array([0, 1, 0, 1])]) != images).any(1)
    assert torch.equal(hidden[0], hidden[2])
    assert torch.equal(hidden[1], hidden[3])
    assert not torch.equal(hidden[0], hidden[1])
    alike = (views.render(images, two[:1]) != images).any(1)
    assert all(torch.equal(alike[0], row) for row in alike[1:])


@pytest.mark.parametrize("strategy", ["attention", "attention-keep"])
def test_rows_of_one_draw_are_hidden_alike_whatever_passes_they_fall_into(model, monkeypatch, strategy):
    """A video of more frames than a pass takes, and one that begins where another ends."""
    views = views_of(model, mask_ratio=0.5, strategy=strategy)
    images = as_tensor(photos(7, dtype=np.float32))
    images[::2] = 1 - images[::2].flip(-1)
    two = views.draw(2, rng())
    draw = two[np.array([0, 0, 0, 1, 1, 1, 1])]
    whole = views.render(images, draw)
    monkeypatch.setattr("maerestore.augment.core.BATCH", 2)
    passes = []
    responses = MaskedAutoencoder.responses

    def counted(self, pixels):
        passes.append(len(pixels))
        return responses(self, pixels)

    monkeypatch.setattr(MaskedAutoencoder, "responses", counted)
    parts = views.render(images, draw)
    hidden = (parts != images).any(1)
    assert all(torch.equal(hidden[0], hidden[i]) for i in (1, 2))
    assert all(torch.equal(hidden[3], hidden[i]) for i in (4, 5, 6))
    assert not torch.equal(hidden[0], hidden[3])
    assert torch.allclose(parts, whole, atol=1e-5)
    assert passes == [2, 2, 2, 1]
    # Rows that keep all of their patches need no attention.
    some = Draw(np.array([0.5, 0, 0.5, 0, 0.5, 0, 0], np.float32), draw.noise)
    changed = (views.render(images, some) != images).any(1).flatten(1).any(1)
    assert changed.tolist() == [True, False, True, False, True, False, False]
    assert sum(passes) == 7 + 3


def test_channels_of_an_image_are_hidden_alike(model):
    for strategy in ("random", "attention-keep"):
        views = views_of(model, strategy=strategy)
        images = as_tensor(photos(2, channels=7, dtype=np.float32))
        changed = views.render(images, views.draw(2, rng())) != images
        assert torch.equal(changed.any(1), changed.float().mean(1) > 0.9)


def test_a_gray_model_sees_each_channel(tmp_path):
    gray = save_random(tmp_path / "gray", depth=1, in_chans=1, mean=[0.5], std=[0.2])
    views = views_of(gray, mask_ratio=0.5)
    images = as_tensor(photos(2, channels=3, dtype=np.float32))
    draw = views.draw(2, rng())
    out = views.render(images, draw)
    each = torch.cat([views.render(images[:, c : c + 1], draw) for c in range(3)], 1)
    assert torch.allclose(out, each, atol=1e-5)


@pytest.mark.parametrize("hidden", ["noise", "mean"])
def test_a_model_that_sees_something_in_hidden_patches_repeats_itself(tmp_path, hidden):
    views = views_of(save_random(tmp_path / hidden, depth=1, hidden=hidden), mask_ratio=0.5)
    images = as_tensor(photos(2, dtype=np.float32))
    draw = views.draw(2, rng())
    before = torch.get_rng_state()
    first = views.render(images, draw)
    assert torch.allclose(first, views.render(images, draw))
    assert torch.allclose(first[1:], views.render(images[1:], draw[1:]), atol=1e-5)
    assert torch.equal(torch.get_rng_state(), before)


def test_gradients_reach_the_image_through_what_is_kept(model):
    views = views_of(model, mask_ratio=0.5, blend=0.75)
    images = as_tensor(photos(1, dtype=np.float32)).requires_grad_()
    view = views.render(images, views.draw(1, rng()))
    view.sum().backward()
    assert sorted(images.grad.unique().tolist()) == [0.25, 1.0]
    assert not view.is_inference()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float64])
def test_every_dtype_comes_back_with_its_visible_bits(model, dtype):
    levels = as_tensor(photos(1))
    images = levels if dtype == torch.uint8 else levels.to(dtype) / 255
    views = views_of(model, mask_ratio=0.5)
    out = views.render(images, views.draw(1, rng()))
    assert out.dtype == dtype
    assert 0.4 < (out != images).float().mean() <= 0.51


def test_layout_in_memory_does_not_matter(model):
    views = views_of(model, mask_ratio=0.5)
    images = as_tensor(photos(2))
    draw = views.draw(2, rng())
    strided = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    wider = torch.zeros(2, 3, 96, 100, dtype=torch.uint8)
    wider[..., 2:98] = images
    for other in (strided, wider[..., 2:98]):
        assert (views.render(other, draw).int() - views.render(images, draw).int()).abs().max() <= 1


def test_it_holds_no_weights(model):
    views = views_of(model)
    views.render(as_tensor(photos(1)), views.draw(1, rng()))
    assert len(pickle.dumps(views)) < 1000


def test_few_graphs_are_compiled(model, monkeypatch):
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    filled = torch.compile(fill.fill, backend=counter, dynamic=False, fullgraph=True)
    monkeypatch.setattr("maerestore.augment.fill._compiled", filled)
    compiled, plain = views_of(model, compile=True, size=32), views_of(model, size=32)
    images = as_tensor(photos(4, 32, 32, dtype=np.float32))
    for seed in range(12):
        draw = plain.draw(4, rng(seed))
        assert torch.allclose(compiled.render(images, draw), plain.render(images, draw), atol=1e-5)
    # 4 patches: ratios .4 to .75 leave 2 or 1 of them visible
    assert counter.frame_count == 2


def test_more_graphs_are_compiled_than_dynamo_would_of_its_own_accord(model, monkeypatch):
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter, compiling = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda fill, **options: compiling(fill, backend=counter, **options))
    monkeypatch.setattr("maerestore.augment.fill._compiled", None)
    compiled = views_of(model, compile=True, size=32)
    with torch._dynamo.config.patch(cache_size_limit=2):
        for n in range(1, 5):
            compiled.render(as_tensor(photos(n, 32, 32)), compiled.draw(n, rng(0)))
    assert counter.frame_count == 4


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_draw_does_not_depend_on_the_default_dtype(model, strategy):
    views = views_of(model, strategy=strategy)
    draw = views.draw(2, rng(0))
    torch.set_default_dtype(torch.float64)
    try:
        again = views.draw(2, rng(0))
    finally:
        torch.set_default_dtype(torch.float32)
    assert again.noise.dtype == np.float32
    np.testing.assert_array_equal(again.noise, draw.noise)


@pytest.mark.parametrize("precision", ["fp8", "", None])
def test_an_unknown_precision_is_refused(precision):
    with pytest.raises(ValueError, match=f"precision must be one of auto, fp32, bf16, got {precision!r}"):
        MaskedViews(ViewSettings(), precision=precision)


def test_precision_by_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    assert bf16_views("auto", torch.device("cuda"))
    assert not bf16_views("fp32", torch.device("cuda"))
    assert bf16_views("bf16", torch.device("cpu"))
    monkeypatch.setattr("maerestore.precision._has_fast_bf16", lambda: False)
    assert not bf16_views("auto", torch.device("cpu"))


def test_bf16_is_close_to_fp32(model):
    images = as_tensor(photos(4))
    draw = views_of(model).draw(4, rng())
    exact, short = views_of(model, "fp32").render(images, draw), views_of(model, "bf16").render(images, draw)
    difference = (exact.float() - short.float()).abs()
    assert 0 < difference.max() < 16
    assert difference.mean() < 1.5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_cuda_equals_the_cpu(model, dtype):
    images = as_tensor(photos(3, 101, 99)).to(dtype) / (1 if dtype == torch.uint8 else 255)
    views = MaskedViews(ViewSettings(model=model), device=None, precision="fp32")
    draw = views.draw(3, rng(), (101, 99))
    here, there = views.render(images, draw), views.render(images.cuda(), draw)
    assert there.is_cuda
    tolerance = 3 if dtype == torch.uint8 else 5e-3
    assert (here.float() - there.cpu().float()).abs().max() <= tolerance
    visible = here == images
    assert torch.equal(there.cpu()[visible], images[visible])
