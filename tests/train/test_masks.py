import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

from maerestore.masking import draw_many, rim
from maerestore.train.masks import HoleBank, HoleBanks, MaskChoice, patch_masks
from maerestore.train.values import RecipeError

CPU = torch.device("cpu")
MIX = {"strokes": 1.0, "boxes": 1.0, "blobs": 1.0}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def free_form(bank, n, generator, bucket, drop=0.0):
    return bank.masks(MaskChoice("free_form", drop, bucket), n, slice(0, n), generator)


@pytest.fixture(scope="module")
def bank():
    return HoleBank(draw_many(MIX, 64, 48, seed=0, rim_width=2), 8, rim_weight=0.25, device=CPU)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.75, 0.9])
def test_random_patches_keep_the_same_number_in_every_row(ratio):
    batch = patch_masks(MaskChoice("random", ratio), 5, slice(0, 5), 6, generator(), None)
    assert batch.num_visible == int(36 * (1 - ratio))
    assert batch.mask.sum(1).tolist() == [36 - batch.num_visible] * 5
    assert batch.pixel_mask is None
    assert batch.pixel_weight is None
    if ratio > 0:
        assert len({tuple(row.tolist()) for row in batch.mask}) > 1


@pytest.mark.parametrize("drop", [0.0, 0.4])
@pytest.mark.parametrize("bucket", range(HoleBank.BUCKETS))
def test_free_form_rows_keep_the_same_number_and_never_a_hole_patch(bank, bucket, drop):
    batch = free_form(bank, 6, generator(bucket), bucket, drop)
    assert batch.num_visible >= 1
    assert batch.mask.sum(1).tolist() == [36 - batch.num_visible] * 6
    hole = batch.pixel_mask.reshape(6, 6, 8, 6, 8).amin((2, 4)).flatten(1)  # 1 where every pixel is unknown
    assert not ((hole == 1) & (batch.mask == 0)).any()
    assert batch.pixel_mask.shape == (6, 1, 48, 48)
    assert set(batch.pixel_mask.unique().tolist()) == {0.0, 1.0}


def test_drop_removes_a_share_of_the_visible_patches(bank):
    for bucket in range(HoleBank.BUCKETS):
        plain = free_form(bank, 4, generator(), bucket).num_visible
        assert free_form(bank, 4, generator(), bucket, 0.5).num_visible == max(1, int(plain * 0.5))


def test_the_first_bucket_hides_most(bank):
    kept = [free_form(bank, 2, generator(), bucket).num_visible for bucket in range(HoleBank.BUCKETS)]
    assert kept == sorted(kept)
    assert kept[0] < kept[-1]


def test_without_drop_a_full_row_of_its_bucket_loses_only_hole_patches(bank):
    """The hole that hides most of a bucket sets what the others keep: at least one row of many is exact."""
    batch = free_form(bank, 64, generator(3), 2)
    unseen = batch.mask.sum(1)
    wholly_unknown = batch.pixel_mask.reshape(64, 6, 8, 6, 8).amin((2, 4)).sum((1, 2))
    assert bool((wholly_unknown <= unseen).all())
    assert bool((wholly_unknown == unseen).any())


def test_pixel_weight_is_one_where_hidden_and_the_rim_weight_around_a_hole(bank):
    batch = free_form(bank, 6, generator(4), 5, drop=0.3)
    removed = batch.mask.reshape(6, 1, 6, 6).repeat_interleave(8, 2).repeat_interleave(8, 3)
    hidden = torch.maximum(removed, batch.pixel_mask)
    for row in range(6):
        hole = batch.pixel_mask[row, 0].numpy().astype(np.uint8)
        # OpenCV's small ellipses are not the same both ways, and the bank turns holes together with their rims
        borders = [torch.from_numpy(border).float() for border in (rim(hole, 2), rim(hole.T.copy(), 2).T.copy())]
        expected = [torch.where(hidden[row, 0] > 0, 1.0, 0.25 * border) for border in borders]
        assert any(torch.equal(batch.pixel_weight[row, 0], one) for one in expected)
    assert set(batch.pixel_weight.unique().tolist()) == {0.0, 0.25, 1.0}


def test_mask_batches_repeat_with_the_seed_and_differ_between_rows(bank):
    first, second = free_form(bank, 8, generator(6), 4, 0.2), free_form(bank, 8, generator(6), 4, 0.2)
    assert torch.equal(first.mask, second.mask)
    assert torch.equal(first.pixel_mask, second.pixel_mask)
    assert len({row.numpy().tobytes() for row in first.pixel_mask}) > 3


def test_holes_are_turned_and_mirrored():
    """One hole in the bank shows up in all eight positions."""
    single = HoleBank(draw_many({"thick": 1.0}, 8, 48, seed=1, rim_width=2), 8, 0.25, CPU)
    shown = free_form(single, 64, generator(), 0).pixel_mask
    assert len({row.numpy().tobytes() for row in shown}) == 8


def test_fewer_holes_than_buckets_still_work():
    small = HoleBank(draw_many(MIX, 4, 32, seed=1, rim_width=2), 8, 0.25, CPU)
    for bucket in range(HoleBank.BUCKETS):
        assert free_form(small, 2, generator(), bucket).num_visible >= 1


def test_the_banks_of_a_run_hold_what_is_drawn_for_its_sides_with_or_without_processes(tiny_recipe):
    """With them, the holes of the next side are drawn while the run is at this one."""
    recipe = tiny_recipe(mask_count=1032, resolution=[[0, 16], [8, 32]], rim_width=12)
    banks = [HoleBanks(recipe, 8, CPU, workers) for workers in (1, 2)]
    for side, rim_width, ahead in ((16, 1, {32}), (32, 3, set())):
        holes = [each.at(side, 8 * (side == 32)).holes for each in banks]
        drawn = draw_many(recipe.families, 1032, side, recipe.seed, rim_width=rim_width)
        assert sorted(map(bytes, holes[0].numpy())) == sorted(map(bytes, drawn))
        assert torch.equal(holes[0], holes[1])
        assert banks[1].at(side).holes is holes[1]
        assert (set(banks[0]._ahead), set(banks[1]._ahead)) == (set(), ahead)


def test_a_side_after_the_end_of_the_run_is_not_drawn(tiny_recipe):
    banks = HoleBanks(tiny_recipe(mask_count=1032, samples=64, resolution=[[0, 16], [64, 32]]), 8, CPU, 2)
    banks.at(16)
    assert not banks._ahead


@pytest.mark.parametrize(("side", "samples", "ahead"), [
    (16, 0, 32), (32, 1000, 16), (16, 2000, 24), (16, 2999, 24), (24, 3000, None), (24, 4000, None),
])  # fmt: skip
def test_a_side_that_comes_back_is_followed_by_what_follows_it_there(tiny_recipe, monkeypatch, side, samples, ahead):
    resolution = [[0, 16], [500, 16], [1000, 32], [2000, 16], [3000, 24], [5000, 40]]
    banks = HoleBanks(tiny_recipe(mask_count=1032, samples=5000, resolution=resolution), 8, CPU, 2)
    started = []
    monkeypatch.setattr(banks, "_start", lambda each: started.append(each) or iter([np.zeros((each, each), np.uint8)]))
    banks.at(side, samples)
    assert started == [side] + [ahead] * (ahead is not None)


def test_what_is_drawn_ahead_is_not_started_twice_and_every_pool_is_closed(tiny_recipe, monkeypatch):
    pools = []

    class Pool:
        def __init__(self, workers, initializer):
            self.cancelled = False
            pools.append(self)

        def shutdown(self, wait, cancel_futures=False):
            self.cancelled |= cancel_futures

    def draw_each(families, count, size, seed, rim_width, pool):
        return iter([np.zeros((size, size), np.uint8)])

    monkeypatch.setattr("maerestore.train.masks.ProcessPoolExecutor", Pool)
    monkeypatch.setattr("maerestore.train.masks.draw_each", draw_each)
    banks = HoleBanks(tiny_recipe(mask_count=1032, samples=99, resolution=[[0, 16], [8, 32], [16, 24]]), 8, CPU, 2)
    banks.at(16, 0)
    banks.at(24, 0)  # not what was drawn ahead, which is still what comes next
    assert set(banks._ahead) == {32}
    banks.at(32, 8)
    banks.close()
    assert len(pools) == 4
    assert all(pool.cancelled for pool in pools)


def test_closing_ends_what_is_still_drawn(tiny_recipe):
    others = set(multiprocessing.active_children())
    banks = HoleBanks(tiny_recipe(mask_count=400_000, resolution=[[0, 16], [8, 32]]), 8, CPU, 2)
    banks._start(32)  # minutes of work
    processes = set(multiprocessing.active_children()) - others
    banks.close()
    assert len(processes) == 2
    for process in processes:  # their pool reaps them, so they are not joined here
        assert multiprocessing.connection.wait([process.sentinel], timeout=60)


def test_a_side_that_the_recipe_does_not_name_is_drawn_all_the_same(tiny_recipe):
    banks = HoleBanks(tiny_recipe(resolution=[[0, 32]]), 8, CPU, 1)
    assert banks.at(24).holes.shape == (32, 24, 24)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="what is patched reaches forked processes only")
def test_a_killed_process_that_draws_is_one_line_and_leaves_none_behind(tiny_recipe, monkeypatch):
    others = set(multiprocessing.active_children())
    fork = partial(ProcessPoolExecutor, mp_context=multiprocessing.get_context("fork"))
    monkeypatch.setattr("maerestore.train.masks.ProcessPoolExecutor", fork)
    monkeypatch.setattr("maerestore.masking.pixels.draw_mask", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    banks = HoleBanks(tiny_recipe(mask_count=200_000), 8, CPU, 2)
    with pytest.raises(RecipeError, match="was killed"):
        banks.at(32)
    banks.close()
    patience = time.monotonic() + 60
    while set(multiprocessing.active_children()) - others:
        assert time.monotonic() < patience
        time.sleep(0.05)
