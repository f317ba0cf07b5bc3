import pytest

from maerestore.train.masks import MaskChoice
from maerestore.train.phases import MaskingPhase, phase_at, read_phases
from maerestore.train.pretrain_recipe import PretrainRecipe
from maerestore.train.values import RecipeError


def test_a_ratio_is_a_number_or_a_range():
    assert MaskingPhase(mask_ratio=0.6).mask_ratio == (0.6, 0.6)
    assert MaskingPhase(mask_ratio=[0.5, 0.9]).mask_ratio == (0.5, 0.9)


def test_a_phase_holds_from_its_sample_on():
    phases = read_phases([
        {"policies": {"random": 1}, "mask_ratio": 0.75},
        {"from": 100, "policies": {"block": 1}, "mask_ratio": 0.5},
        {"from": 200, "policies": {"attention": 1}},
    ])  # fmt: skip
    held = [next(iter(phase_at(phases, samples).policies)) for samples in (0, 99, 100, 199, 200, 10**6)]
    assert held == ["random", "random", "block", "block", "attention", "attention"]


def test_a_ramp_moves_in_a_straight_line_to_the_next_phase():
    phases = read_phases([
        {"policies": {"random": 1}, "mask_ratio": [0.2, 0.4], "ramp": True},
        {"from": 1600, "policies": {"random": 0, "attention": 1}, "mask_ratio": 0.8},
    ])  # fmt: skip
    half = phase_at(phases, 800)
    assert half.policies == {"random": 0.5, "attention": 0.5}
    assert half.mask_ratio == pytest.approx((0.5, 0.6))
    assert phase_at(phases, 0).mask_ratio == (0.2, 0.4)
    assert phase_at(phases, 1599).policies["attention"] == pytest.approx(15 / 16)
    assert phase_at(phases, 1600).policies == {"random": 0.0, "attention": 1.0}
    assert len({phase_at(phases, samples).mask_ratio for samples in range(1600)}) == 16


def test_policies_are_drawn_by_weight_and_ratios_from_five_values():
    import numpy as np

    phase = MaskingPhase(policies={"random": 3, "grid": 1, "block": 0}, mask_ratio=(0.5, 0.9))
    drawn = [MaskChoice.draw(phase, np.random.default_rng(i)) for i in range(400)]
    assert sum(choice.policy == "grid" for choice in drawn) == pytest.approx(100, abs=30)
    assert {choice.policy for choice in drawn} == {"random", "grid"}
    assert sorted({round(choice.amount, 6) for choice in drawn}) == [0.5, 0.6, 0.7, 0.8, 0.9]


@pytest.mark.parametrize("masking", [
    3, [], "random", {"policies": {}}, {"policies": {"random": 0}}, {"policies": {"stripes": 1}}, {"from": 5},
    [{}, {}], [{}, {"from": 100}, {"from": 50}], {"mask_ratio": 1.0}, {"mask_ratio": [0.9, 0.5]}, {"mask_ratio": "x"},
    {"hidden": "noise"}, {"ramp": "yes"}, {"ratio": 0.5},
])  # fmt: skip
def test_masking_that_does_not_fit_is_refused(masking, tiny_settings):
    with pytest.raises(RecipeError) as caught:
        PretrainRecipe(model={**tiny_settings, "mask_embed": True}, masking=masking)
    assert "\n" not in str(caught.value)


def test_free_form_needs_a_model_that_knows_pixel_masks(tiny_settings):
    with pytest.raises(RecipeError, match="mask_embed"):
        PretrainRecipe(model=tiny_settings, masking={"policies": {"free_form": 1}})
    ramp = [{"policies": {"random": 1, "free_form": 0}, "ramp": True}, {"from": 8, "policies": {"free_form": 1}}]
    with pytest.raises(RecipeError, match="mask_embed"):
        PretrainRecipe(model=tiny_settings, masking=ramp)


def test_free_form_of_no_weight_needs_nothing(tiny_settings):
    masking = [
        {"policies": {"random": 1, "free_form": 0}, "ramp": True},
        {"from": 8, "policies": {"free_form": 0, "block": 1}},
    ]
    PretrainRecipe(model=tiny_settings, masking=masking, families={"strokes": 0})
