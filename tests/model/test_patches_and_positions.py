import numpy as np
import pytest
import torch

from maerestore.model.positions import resample_positions, sincos_positions


def test_unpatchify_inverts_patchify_on_a_rectangle(tiny_model, noise_images):
    model, images = tiny_model(), noise_images(2, 16, 40)
    patches = model.patchify(images)
    assert patches.shape == (2, 10, 192)
    assert torch.equal(model.unpatchify(patches, (16, 40)), images)


def test_patches_run_in_raster_order_and_pixels_as_row_column_channel(tiny_model):
    model = tiny_model()
    images = torch.arange(3 * 16 * 24.0).reshape(1, 3, 16, 24)
    patches = model.patchify(images)
    for index, (row, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]):
        for y, x, c in [(0, 0, 0), (0, 0, 2), (0, 1, 0), (1, 0, 0), (7, 7, 2), (3, 5, 1)]:
            assert patches[0, index, (y * 8 + x) * 3 + c] == images[0, c, row * 8 + y, column * 8 + x]


def test_unpatchify_inverts_patchify_with_one_channel(tiny_model, noise_images):
    model, images = tiny_model(in_chans=1, mean=(0.5,), std=(0.5,)), noise_images(2, channels=1)
    assert model.patchify(images).shape == (2, 16, 64)
    assert torch.equal(model.unpatchify(model.patchify(images), (32, 32)), images)


def test_denormalize_inverts_normalize_with_the_statistics_of_the_config(tiny_model):
    model = tiny_model(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    normal = model.normalize(torch.full((1, 3, 8, 8), 0.6))
    assert normal[0, :, 0, 0].tolist() == pytest.approx([1.0, 1.6, 0.15], abs=1e-6)
    torch.testing.assert_close(model.denormalize(normal), torch.full((1, 3, 8, 8), 0.6))


def reference_positions(dim, height, width):
    """The paper's `get_2d_sincos_pos_embed`: its grid is (w, h), "here w goes first"."""

    def one_axis(half, positions):
        omega = 1.0 / 10000 ** (np.arange(half // 2, dtype=np.float64) / (half / 2.0))
        out = np.einsum("m,d->md", positions.reshape(-1), omega)
        return np.concatenate([np.sin(out), np.cos(out)], axis=1)

    grid_w, grid_h = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
    table = np.concatenate([one_axis(dim // 2, grid_w), one_axis(dim // 2, grid_h)], axis=1)
    return np.concatenate([np.zeros((1, dim)), table])


@pytest.mark.parametrize(("dim", "grid"), [(32, (4, 4)), (16, (3, 5)), (768, (14, 14))])
def test_position_table_is_that_of_the_paper(dim, grid):
    table = sincos_positions(dim, grid)
    assert table.shape == (1, 1 + grid[0] * grid[1], dim)
    assert table.dtype == torch.float32
    np.testing.assert_allclose(table[0].numpy(), reference_positions(dim, *grid), atol=1e-6)


def test_the_class_token_has_no_position():
    assert not sincos_positions(16, (2, 2))[0, 0].any()


def test_resampling_to_the_same_grid_gives_the_table_itself():
    table = torch.randn(1, 17, 8)
    assert resample_positions(table, (4, 4), (4, 4)) is table


def test_resampling_keeps_the_class_token_and_does_not_transpose():
    across = torch.arange(4.0).repeat(4)  # grows with the column only
    table = torch.cat([torch.tensor([99.0]), across])[None, :, None].expand(-1, -1, 4)
    out = resample_positions(table, (4, 4), (2, 8))
    assert out.shape == (1, 17, 4)
    assert out[0, 0].tolist() == [99.0] * 4
    square = out[0, 1:, 0].reshape(2, 8)
    assert torch.allclose(square[0], square[1], atol=1e-5)
    assert bool((square[0].diff() > 0).all())


def test_resampling_keeps_half_precision():
    assert resample_positions(torch.zeros(1, 5, 4, dtype=torch.float16), (2, 2), (3, 3)).dtype == torch.float16


@pytest.mark.parametrize(("height", "width"), [(32, 64), (64, 16), (8, 8), (40, 24)])
def test_other_sizes_than_the_configured_pass_through_encoder_and_decoder(tiny_model, noise_images, height, width):
    model, images = tiny_model(), noise_images(2, height, width)
    length = height // 8 * (width // 8)
    with torch.no_grad():
        out = model(images, mask_ratio=0.5)
        picture = model.reconstruct(images)
    assert out.pred.shape == (2, length, 192)
    assert out.latent.shape == (2, 1 + int(length * 0.5), 32)
    assert picture.shape == images.shape
    assert bool(picture.isfinite().all())


def test_a_rectangle_tells_its_columns_from_its_rows(tiny_model):
    """A constant picture leaves only the positions to tell patches apart: all predictions must differ."""
    model = tiny_model()
    with torch.no_grad():
        pred = model(torch.zeros(1, 3, 16, 32), mask=torch.tensor([[0.0, 1, 1, 1, 1, 1, 1, 1]])).pred[0]
    distances = torch.cdist(pred, pred) + torch.eye(8) * 1e3
    assert float(distances.min()) > 1e-3
