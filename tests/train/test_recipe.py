from pathlib import Path

import pytest

from maerestore.train.pretrain_recipe import PretrainRecipe
from maerestore.train.recipe_file import load_recipe
from maerestore.train.restorer_recipe import RestorerRecipe
from maerestore.train.values import RecipeError

SMALL_CPU = Path(__file__).resolve().parents[2] / "scripts/recipes/small-cpu.yaml"


def test_the_recipe_for_two_cores_loads_with_its_stated_size():
    from maerestore.model import MaskedAutoencoder

    recipe = load_recipe(SMALL_CPU)
    parameters = sum(p.numel() for p in MaskedAutoencoder(recipe.config).parameters())
    assert parameters / 1e6 == pytest.approx(7.34, abs=0.01)
    assert recipe.lr == pytest.approx(3e-3 * 128 / 256)
    assert recipe.resolution == [(0, 64), (300_000, 128)]


def test_overrides_replace_settings_and_are_read_as_yaml():
    recipe = load_recipe(
        SMALL_CPU, ["samples=1234", "schedule=cosine", "masking.mask_ratio=[0.6, 0.7]", "compile=true"]
    )
    assert (recipe.samples, recipe.schedule, recipe.masking[0].mask_ratio, recipe.compile) == (
        1234,
        "cosine",
        (0.6, 0.7),
        True,
    )
    assert recipe.batch_size == 128


@pytest.mark.parametrize(("override", "name", "expected"), [
    ("loss.mse=0.1", "loss", {"masked_mse": 1.0, "mse": 0.1}),
    ("families.boxes=0", "families", {"strokes": 1.0, "boxes": 0.0, "blobs": 1.0}),
    ("masking.policies.grid=0.2", "policies", {"random": 1.0, "grid": 0.2}),
    ("masking.policies={grid: 0.2}", "policies", {"grid": 0.2}),
])  # fmt: skip
def test_an_override_of_a_part_adds_to_what_the_file_leaves_out(tmp_path, override, name, expected):
    (tmp_path / "recipe.yaml").write_text("model: {image_size: 32, patch_size: 8}\n")
    recipe = load_recipe(tmp_path / "recipe.yaml", [override])
    assert (recipe.masking[0].policies if name == "policies" else getattr(recipe, name)) == expected


def test_a_recipe_survives_its_dictionary():
    recipe = load_recipe(SMALL_CPU)
    assert PretrainRecipe(**recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("bogus=1", "bogus"), ("samples", "KEY=VALUE"), ("samples=[", "YAML"), ("optimizer=sgd", "optimizer"),
        ("schedule=step", "schedule"), ("precision=fp16", "precision"), ("samples=0", "samples"),
        ("batch_size=0", "batch_size"), ("masking.policies={free_form: -1}", "policies.*free_form"),
        ("masking.policies={stripes: 1}", "stripes"), ("decay_share=0", "decay_share"),
        ("masking.mask_ratio=[0.5, 1.0]", "mask_ratio"), ("masking.mask_ratio=[0.8, 0.5]", "mask_ratio"),
        ("mask_ratio=0.75", "mask_ratio"), ("masking.ratio=0.5", "ratio"), ("samples.x=1", "samples"),
        ("masking.free_form_drop=[-0.1, 0.5]", "free_form_drop"), ("resolution=[[10, 64]]", "resolution"),
        ("resolution=[[0, 60]]", "resolution"), ("resolution=[64]", "small-cpu"), ("model={surprise: 1}", "surprise"),
        ("model={1: 2, one: 2}", "1, one"), ("seed=2026-13-45", "seed=2026-13-45"),
        ("base_lr=1" + 400 * "0", "base_lr"), ("loss.mse=1" + 400 * "0", "mse"),
        ("model={embed_dim: 0}", "embed_dim"), ("model=3", "small-cpu"), ("samples=many", "small-cpu"),
    ],
)  # fmt: skip
def test_a_bad_override_is_refused(override, named):
    with pytest.raises(RecipeError, match=named) as caught:
        load_recipe(SMALL_CPU, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "base_lr=fast", "betas=[a, b]", "betas={}", "crop_scale=[x, y]", "crop_scale=[0, 0]", "crop_scale=[0.5, 2.0]",
        "resolution=[[0, 64, 1]]", "resolution=[[0, 0]]", "resolution=[[0, 64], [200, 128], [100, 64]]",
        "families={bogus: 1}", "families={}", "log_every=0", "mask_count=4", "batch_size=2.5", "seed=x",
        "ema_decay=1.5", "warmup_samples=-1", "base_lr=-1",
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_trained_with_is_refused_at_once(override):
    with pytest.raises(RecipeError):
        load_recipe(SMALL_CPU, [override])


@pytest.mark.parametrize("override", ["base_lr=3e-3", "samples=1e6"])
def test_numbers_with_an_exponent_need_no_dot(override):
    recipe = load_recipe(SMALL_CPU, [override])
    assert recipe.lr == pytest.approx(1.5e-3)
    assert recipe.samples in (1_000_000, 1_500_000)


@pytest.mark.parametrize("text", [
    "- a\n- b\n", "", "just words", "a: [",
    "1: 2",
])  # fmt: skip
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        load_recipe(path)


def test_a_recipe_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")


def test_a_binary_file_is_no_recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(RecipeError):
        load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(("settings", "refused"), [
    ({"masking": {"mask_ratio": 0.95}}, "masking.mask_ratio 0.95 leaves none of the 16 patches of 32 px visible"),
    ({"masking": {"mask_ratio": [0.5, 0.93]}}, None),
    ({"masking": {"mask_ratio": 0.9}, "resolution": [[0, 16], [8, 32]]}, "0.9 leaves none of the 4 patches of 16 px"),
    ({"masking": [{"mask_ratio": 0.5}, {"from": 8, "mask_ratio": 0.9}], "resolution": [[0, 16], [8, 32]]}, None),
    ({"masking": [{"mask_ratio": 0.5}, {"from": 9, "mask_ratio": 0.9}], "resolution": [[0, 32], [64, 8]]}, None),
    ({"masking": [{"mask_ratio": 0.5, "ramp": True}, {"from": 32, "mask_ratio": 0.95}],
      "resolution": [[0, 16], [32, 64]]}, "leaves none of the 4 patches of 16 px"),
    ({"masking": {"policies": {"free_form": 1}, "mask_ratio": 0.95}}, None),  # a hole leaves one whatever it hides
    ({"contrastive": {"hide": 0.95}}, "contrastive.hide 0.95 leaves none of the 16 patches of 32 px visible"),
    ({"contrastive": {"hide": 0.7, "side": 8}}, "contrastive.hide 0.7 leaves none of the 1 patches of 8 px visible"),
    ({"contrastive": {"hide": 0.95, "side": 64}}, None),
], ids=str)  # fmt: skip
def test_a_share_that_leaves_no_patch_visible_is_refused(tiny_recipe, settings, refused):
    if refused is None:
        tiny_recipe(**settings)
        return
    with pytest.raises(RecipeError, match=refused.replace(".", r"\.")):
        tiny_recipe(**settings)


def test_numbers_of_the_adversary_are_read_as_others_are():
    recipe = RestorerRecipe(adversarial={"lr": "1e-4", "start": "1e3", "layers": 2.0, "betas": ["0", "9e-1"], "r1": 1})
    assert recipe.adversarial == {"lr": 1e-4, "start": 1000, "layers": 2, "betas": (0.0, 0.9), "r1": 1.0}
    for wrong in ({"lr": "much"}, {"layers": 1.5}, {"betas": 0.9}):
        with pytest.raises(RecipeError, match=f"adversarial.{next(iter(wrong))}"):
            RestorerRecipe(adversarial=wrong)


@pytest.mark.parametrize(("adversarial", "refused"), [
    ({"layers": 6}, "adversarial.layers 6 .* too deep for crops of 32 px"), ({"layers": 6, "start": 500}, None),
    ({"layers": 6, "start": 499}, "32 px"), ({"layers": 7, "start": 500}, "64 px"), ({"layers": 5}, None),
    ({"layers": 9, "start": 1000}, None),  # after the end of the run
])  # fmt: skip
def test_an_adversary_too_deep_for_the_crops_is_refused_at_once(adversarial, refused):
    settings = {"samples": 1000, "resolution": [[0, 32], [500, 64]], "adversarial": {"width": 4, **adversarial}}
    if refused is None:
        RestorerRecipe(**settings)
        return
    with pytest.raises(RecipeError, match=refused):
        RestorerRecipe(**settings)


def test_the_cosine_schedule_warms_up_and_falls_to_zero():
    recipe = PretrainRecipe(samples=1100, batch_size=10, warmup_samples=100, schedule="cosine")
    assert recipe.lr_factor(0) == pytest.approx(10 / 110)
    assert recipe.lr_factor(50) == pytest.approx(60 / 110)
    assert recipe.lr_factor(100) == pytest.approx(1)
    assert recipe.lr_factor(350) == pytest.approx(0.5 * (1 + 0.5**0.5))
    assert recipe.lr_factor(600) == pytest.approx(0.5)
    assert recipe.lr_factor(1100) == pytest.approx(0, abs=1e-12)
    assert recipe.lr_factor(5000) == pytest.approx(0, abs=1e-12)


def test_the_wsd_schedule_is_flat_then_falls_linearly():
    recipe = PretrainRecipe(samples=1000, batch_size=10, warmup_samples=100, schedule="wsd", decay_share=0.2)
    assert recipe.lr_factor(90) == pytest.approx(100 / 110)
    assert [recipe.lr_factor(s) for s in (100, 500, 800)] == [1, 1, 1]
    assert recipe.lr_factor(900) == pytest.approx(0.5)
    assert recipe.lr_factor(950) == pytest.approx(0.25)
    assert recipe.lr_factor(1000) == 0


def test_a_longer_wsd_run_is_the_same_before_the_decay():
    short = PretrainRecipe(samples=1000, batch_size=10, warmup_samples=100, schedule="wsd")
    long = PretrainRecipe(samples=4000, batch_size=10, warmup_samples=100, schedule="wsd")
    assert [short.lr_factor(s) for s in range(0, 800, 10)] == [long.lr_factor(s) for s in range(0, 800, 10)]


def test_the_side_follows_the_samples_seen():
    recipe = PretrainRecipe(model={"image_size": 128, "patch_size": 8}, resolution=[[0, 64], [100, 96], [200, 128]])
    assert [recipe.side(s) for s in (0, 99, 100, 199, 200, 10**6)] == [64, 64, 96, 96, 128, 128]


def test_without_resolution_the_side_is_that_of_the_model():
    assert PretrainRecipe(model={"image_size": 64, "patch_size": 8}).side(0) == 64


@pytest.mark.parametrize(("recipe", "side"), [
    (PretrainRecipe(model={"image_size": 128}, resolution=[[0, 64]]), 128),
    (PretrainRecipe(model={"image_size": 64}, resolution=[[0, 96]]), 120),
    (PretrainRecipe(model={"image_size": 64}, resolution=[[0, 64]], short_side=48), 48),
    (RestorerRecipe(resolution=[[0, 192]], validation_side=256), 256),
    (RestorerRecipe(resolution=[[0, 224]], validation_side=256), 280),
])  # fmt: skip
def test_photographs_are_decoded_as_large_as_they_are_cropped_and_measured(recipe, side):
    assert recipe.decoded_side == side
