"""Patch masks: as many as asked for, whatever the policy, and each policy does what it says."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maerestore.masking.patches import (
    POLICIES,
    attention_scores,
    block_scores,
    draw_patch_masks,
    hide_highest,
    keep_count,
)

GRIDS = st.tuples(st.integers(1, 17), st.integers(1, 17))
RATIOS = st.floats(0, 1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(policy, n=4, grid=(8, 8), ratio=0.75, seed=0, part=None):
    """Masks (n, rows, columns); the responses are those of the patches' own order."""
    length = grid[0] * grid[1]
    responses = torch.rand(n, length, generator=seeded(99))[part or slice(None)]
    mask = draw_patch_masks(policy, n, grid, ratio, seeded(seed), responses, part)
    return mask.reshape(-1, *grid)


# --- every policy -----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(POLICIES), st.integers(1, 5), GRIDS, RATIOS, st.integers(0, 2**32))
def test_every_row_keeps_exactly_the_number_asked_for(policy, n, grid, ratio, seed):
    mask = draw(policy, n, grid, ratio, seed)
    assert mask.shape == (n, *grid)
    assert mask.dtype == torch.float32
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    kept = int(grid[0] * grid[1] * (1 - ratio))
    assert (1 - mask).sum((1, 2)).tolist() == [kept] * n


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(POLICIES), GRIDS, RATIOS, st.integers(0, 2**32))
def test_a_mask_is_a_function_of_the_seed(policy, grid, ratio, seed):
    assert torch.equal(draw(policy, 3, grid, ratio, seed), draw(policy, 3, grid, ratio, seed))


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(POLICIES), GRIDS, RATIOS, st.integers(0, 5), st.integers(0, 6))
def test_a_part_is_drawn_as_in_the_whole_batch(policy, grid, ratio, start, count):
    part = slice(start, start + count)
    assert torch.equal(draw(policy, 6, grid, ratio, part=part), draw(policy, 6, grid, ratio)[part])


@pytest.mark.parametrize("policy", POLICIES)
def test_another_seed_gives_another_mask_and_the_generator_moves_on(policy):
    assert not torch.equal(draw(policy, 16), draw(policy, 16, seed=1))
    generator, responses = seeded(), torch.rand(16, 64, generator=seeded(99))
    first, second = (draw_patch_masks(policy, 16, (8, 8), 0.75, generator, responses) for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_rows_of_a_batch_differ(policy):
    rows = draw(policy, 16).flatten(1)
    different = len({tuple(row) for row in rows.tolist()})
    assert different >= (3 if policy == "grid" else 16)  # a lattice that keeps one of four has four places


@pytest.mark.parametrize("policy", POLICIES)
def test_drawing_leaves_the_global_generator_alone(policy):
    state = torch.random.get_rng_state()
    draw(policy)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_and_everything_can_be_hidden(policy):
    assert float(draw(policy, ratio=0.0).sum()) == 0
    assert float(draw(policy, ratio=1.0).sum()) == 4 * 64


@pytest.mark.parametrize("ratio", [0.5, 0.75])
@pytest.mark.parametrize("policy", ["random", "block", "grid"])
def test_every_patch_is_hidden_about_as_often_as_the_others(policy, ratio):
    share = draw(policy, 4000, (8, 12), ratio).mean(0)
    assert float((share - ratio).abs().max()) < 0.05


@pytest.mark.parametrize(("length", "ratio", "kept"), [(196, 0.75, 49), (49, 0.75, 12), (256, 0.9, 25), (9, 0.5, 4)])
def test_the_number_kept_is_that_of_the_reference(length, ratio, kept):
    assert keep_count(length, ratio) == kept


# --- each policy ------------------------------------------------------------------------------------------------------


def test_the_lowest_scores_are_kept():
    scores = torch.tensor([[3.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    assert hide_highest(scores, 2).tolist() == [[1, 0, 1, 0], [0, 0, 1, 1]]


@pytest.mark.parametrize("grid", [(8, 8), (14, 14), (16, 16), (6, 10), (12, 4)])
def test_grid_keeps_one_patch_of_each_two_by_two(grid):
    kept = 1 - draw("grid", 8, grid, 0.75)
    blocks = kept.unfold(1, 2, 2).unfold(2, 2, 2)  # (n, rows / 2, columns / 2, 2, 2)
    assert bool((blocks.sum((3, 4)) == 1).all())
    assert bool((blocks == blocks[:, :1, :1]).all())  # at the same place in each


@pytest.mark.parametrize("grid", [(8, 8), (14, 14), (6, 10), (12, 4)])
def test_grid_keeps_a_checkerboard_of_half(grid):
    kept = 1 - draw("grid", 8, grid, 0.5)
    y, x = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    board = ((y + x) % 2).float()
    assert all(torch.equal(row, board) or torch.equal(row, 1 - board) for row in kept)


def test_grid_keeps_a_wider_lattice_of_a_sixteenth():
    kept = 1 - draw("grid", 8, (16, 16), 1 - 1 / 16)
    for row in kept:
        assert bool((row.unfold(0, 4, 4).unfold(1, 4, 4).sum((2, 3)) == 1).all())


@pytest.mark.parametrize("ratio", [0.6, 0.7, 0.8, 0.9])
@pytest.mark.parametrize("grid", [(14, 14), (7, 9)])
def test_grid_spreads_evenly_at_any_ratio(grid, ratio):
    """No kept patch is far from the next: the largest hole is smaller than random's."""

    def widest(policy):
        kept = 1 - draw(policy, 32, grid, ratio)
        pooled = [torch.nn.functional.max_pool2d(kept, (side, side), 1).amin((1, 2)) for side in range(1, 7)]
        return float(sum((row == 0).float() for row in pooled).mean())  # the side of the largest empty square

    assert widest("grid") < widest("random") - 0.5


def equal_neighbours(mask):
    """Share of the pairs side by side, or one above the other, that are both hidden or both kept."""
    across = (mask[:, :, 1:] == mask[:, :, :-1]).float().mean()
    down = (mask[:, 1:] == mask[:, :-1]).float().mean()
    return float(across + down) / 2


@pytest.mark.parametrize("ratio", [0.25, 0.4, 0.5, 0.75])
@pytest.mark.parametrize("grid", [(14, 14), (8, 20)])
def test_blocks_are_contiguous(grid, ratio):
    random, block = (equal_neighbours(draw(policy, 64, grid, ratio)) for policy in ("random", "block"))
    assert random == pytest.approx(ratio**2 + (1 - ratio) ** 2, abs=0.03)
    assert block > random + 0.6 * (1 - random)
    assert equal_neighbours(draw("grid", 64, grid, ratio)) < random


def test_the_first_block_is_one_rectangle():
    scores = block_scores(200, (14, 14), seeded(), boxes=1).reshape(200, 14, 14)
    inside = 0
    for row in scores >= 1:
        places = row.nonzero()
        (top, left), (bottom, right) = places.min(0).values.tolist(), places.max(0).values.tolist()
        height, width = bottom - top + 1, right - left + 1
        assert len(places) == height * width <= 0.28 * 196
        if min(top, left) > 0 and max(bottom, right) < 13:  # not cut by the border
            inside += 1
            assert height * width >= 0.04 * 196
            assert 1 / 4 <= height / width <= 4
    assert 20 < inside < 180


def test_attention_hides_the_most_attended_patches_or_keeps_them():
    responses = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.4, 0.3, 0.2, 0.1]])
    noise = torch.rand(2, 4, generator=seeded())
    assert hide_highest(attention_scores(responses, noise, jitter=0.0), 2).tolist() == [[0, 1, 0, 1], [1, 1, 0, 0]]
    kept = hide_highest(attention_scores(responses, noise, "low", jitter=0.0), 2)
    assert kept.tolist() == [[1, 0, 1, 0], [0, 0, 1, 1]]


def test_only_the_order_of_the_responses_counts():
    responses, noise = torch.rand(3, 64, generator=seeded()), torch.rand(3, 64, generator=seeded(1))
    assert torch.equal(attention_scores(responses, noise), attention_scores((responses * 20).exp(), noise))


@pytest.mark.parametrize(("policy", "sign"), [("attention", 1), ("attention-keep", -1)])
def test_jitter_lets_some_patches_change_sides_near_the_border_only(policy, sign):
    responses = sign * torch.arange(64.0).expand(200, 64)
    share = draw_patch_masks(policy, 200, (8, 8), 0.5, seeded(), responses).mean(0)
    # Either way the last patches are to be hidden. Scores are rank / 63 + up to 0.25, half of them above 0.625: below
    # rank 0.375 * 63 = 24 none gets there.
    assert bool((share[:20] == 0).all())
    assert bool((share[-20:] == 1).all())
    assert bool(((share[28:36] > 0.1) & (share[28:36] < 0.9)).all())


# --- bad arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [-0.01, 1.01, math.nan, math.inf])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_ratio_out_of_range_is_named(policy, ratio):
    with pytest.raises(ValueError, match=rf"mask_ratio must lie in \[0, 1\], got {ratio}"):
        draw(policy, ratio=ratio)


def test_an_unknown_policy_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="unknown masking policy 'checkers': choose from random, block, grid"):
        draw_patch_masks("checkers", 1, (4, 4), 0.5, seeded())


@pytest.mark.parametrize("policy", ["attention", "attention-keep"])
def test_attention_needs_the_responses(policy):
    with pytest.raises(ValueError, match=f"'{policy}' needs the responses"):
        draw_patch_masks(policy, 1, (4, 4), 0.5, seeded())


@pytest.mark.parametrize("shape", [(1, 16), (2, 15), (2, 1), (3, 16)])
def test_responses_of_another_shape_are_named(shape):
    with pytest.raises(ValueError, match=rf"responses must be \(2, 16\), got \({shape[0]}, {shape[1]}\)"):
        draw_patch_masks("attention", 2, (4, 4), 0.5, seeded(), torch.zeros(shape))


def test_what_attention_hides_is_high_or_low():
    with pytest.raises(ValueError, match="hide must be high or low, got 'middle'"):
        attention_scores(torch.zeros(1, 4), torch.zeros(1, 4), "middle")
