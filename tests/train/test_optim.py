import copy
import sys

import pytest
import torch

from maerestore.model.refiner import Refiner, RefinerConfig
from maerestore.model.restorer import Restorer
from maerestore.train.optim import build_optimizers, set_lr, update_ema
from maerestore.train.restorer_recipe import RestorerRecipe
from maerestore.train.values import RecipeError


def names_of(model, groups):
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    return [by_id[id(parameter)] for group in groups for parameter in group["params"]]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_trained_parameter_is_in_exactly_one_group(tiny_model, tiny_recipe, optimizer):
    model = tiny_model(mask_embed=True)
    groups = [g for o in build_optimizers(model, tiny_recipe(optimizer=optimizer)) for g in o.param_groups]
    expected = sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    assert sorted(names_of(model, groups)) == expected


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weight_decay_spares_biases_norms_and_tokens(tiny_model, tiny_recipe, optimizer):
    model = tiny_model(mask_embed=True)
    optimizers = build_optimizers(model, tiny_recipe(optimizer=optimizer, weight_decay=0.07))
    groups = [g for o in optimizers for g in o.param_groups]
    assert {g["weight_decay"] for g in groups} == {0.0, 0.07}
    decayed = set(names_of(model, [g for g in groups if g["weight_decay"]]))
    spared = set(names_of(model, [g for g in groups if not g["weight_decay"]]))
    assert {"cls_token", "mask_token", "norm.weight", "blocks.0.norm1.weight", "blocks.0.attn.qkv.bias"} <= spared
    assert {"patch_embed.proj.weight", "patch_embed.mask_proj.weight", "decoder_embed.weight", "decoder_pred.weight",
            "blocks.1.mlp.fc2.weight", "decoder_blocks.0.attn.proj.weight"} <= decayed  # fmt: skip
    assert not any(name.endswith("bias") or "norm" in name or "token" in name for name in decayed)


def test_weight_decay_spares_the_refiners_projections_of_tokens(tiny_model):
    """They are kernels, but checkpoints keep parameters by group: decaying them would shut old runs out."""
    refiner = Refiner(RefinerConfig(feature_dim=16, widths=(4, 4, 8, 8), dilations=(1,), feature_layer=1))
    model = Restorer(tiny_model(mask_embed=True), refiner)
    groups = build_optimizers(model, RestorerRecipe(weight_decay=0.1))[0].param_groups
    spared = names_of(model, [g for g in groups if not g["weight_decay"]])
    kernels = [name for name in spared if model.get_parameter(name).ndim > 1 and name.startswith("refiner")]
    assert kernels
    assert all(name.startswith("refiner.tokens.") for name in kernels)


@pytest.mark.parametrize(("groups", "trained"), [
    ([], 0), ([{"match": "norm", "weight_decay": 0.0}], 0), ([{"match": "", "weight_decay": 0.0}], 0),
    ([{"match": "^autoencoder.blocks", "lr": 0.1}], 12), ([{"match": "", "lr": 1.0}], None),
], ids=str)  # fmt: skip
def test_a_restorers_autoencoder_is_trained_where_a_group_gives_it_a_rate(tiny_model, groups, trained):
    refiner = Refiner(RefinerConfig(feature_dim=16, widths=(4, 4, 8, 8), dilations=(1,), feature_layer=1))
    model = Restorer(tiny_model(depth=1, mask_embed=True), refiner)
    all_of_it = sum(p.requires_grad for p in model.autoencoder.parameters())
    build_optimizers(model, RestorerRecipe(groups=groups))
    moved = sum(p.requires_grad for p in model.autoencoder.parameters())
    assert moved == (all_of_it if trained is None else trained)
    assert all(p.requires_grad for p in model.refiner.parameters())


def test_muon_takes_the_matrices_of_the_blocks_and_nothing_else(tiny_model, tiny_recipe):
    model = tiny_model(mask_embed=True)
    adamw, muon = build_optimizers(model, tiny_recipe(optimizer="muon"))
    assert isinstance(adamw, torch.optim.AdamW)
    taken = names_of(model, muon.param_groups)
    matrices = [f"{layer}.weight" for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    blocks = ["blocks.0", "blocks.1", "decoder_blocks.0"]
    assert sorted(taken) == sorted(f"{block}.{matrix}" for block in blocks for matrix in matrices)


def test_optimizers_start_at_the_rate_of_the_recipe_and_follow_set_lr(tiny_model, tiny_recipe):
    recipe = tiny_recipe(optimizer="muon", base_lr=0.01, batch_size=64)
    optimizers = build_optimizers(tiny_model(), recipe)
    assert {g["lr"] for o in optimizers for g in o.param_groups} == {0.0025}
    set_lr(optimizers, 0.125)
    assert {g["lr"] for o in optimizers for g in o.param_groups} == {0.125}


@pytest.mark.parametrize(("step", "decay"), [(1, 2 / 11), (20, 21 / 30), (100_000, 0.9)])
def test_the_average_follows_its_formula_with_a_warm_up(tiny_model, step, decay):
    model, average = tiny_model(seed=1), tiny_model(seed=2)
    before = copy.deepcopy(average)
    update_ema(average, model, 0.9, step)
    triples = zip(before.parameters(), model.parameters(), average.parameters(), strict=True)
    for old, new, now in triples:
        torch.testing.assert_close(now, decay * old + (1 - decay) * new, atol=1e-6, rtol=1e-5)


def test_averaging_leaves_the_model_alone_and_the_position_tables_exact(tiny_model):
    model, average = tiny_model(seed=1), tiny_model(seed=2)
    state = copy.deepcopy(model.state_dict())
    update_ema(average, model, 0.5, 10**6)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(average.pos_embed, model.pos_embed)


def rates(model, optimizers):
    """The rate and weight decay of every parameter by name; None where it is in no group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = dict.fromkeys(names.values())
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                found[names[id(parameter)]] = (group["lr"], group["weight_decay"])
    return found


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_rates_fall_by_layer_and_by_group(tiny_model, tiny_recipe, tiny_settings, optimizer):
    model = tiny_model(mask_embed=True).train()
    recipe = tiny_recipe(
        model={**tiny_settings, "mask_embed": True}, optimizer=optimizer, layer_decay=0.5, weight_decay=0.1,
        groups=[{"match": r"^decoder_pred", "lr": 0.1, "weight_decay": 0.0}, {"match": "cls_token", "lr": 0}],
    )  # fmt: skip
    optimizers = build_optimizers(model, recipe)
    set_lr(optimizers, 2.0)
    found = rates(model, optimizers)
    expected = {
        "blocks.1.mlp.fc1.weight": (1.0, 0.1), "blocks.0.mlp.fc1.weight": (0.5, 0.1),
        "blocks.0.mlp.fc1.bias": (0.5, 0.0), "patch_embed.proj.weight": (0.25, 0.1), "norm.weight": (2.0, 0.0),
        "decoder_blocks.0.attn.qkv.weight": (2.0, 0.1), "decoder_pred.weight": (0.2, 0.0), "cls_token": None,
    }  # fmt: skip
    for name, rate in expected.items():
        assert found[name] == (None if rate is None else pytest.approx(rate)), name
    assert not model.cls_token.requires_grad


def test_a_group_that_matches_nothing_is_refused(tiny_model, tiny_recipe):
    with pytest.raises(RecipeError, match="no parameter's name has 'encoder'"):
        build_optimizers(tiny_model(depth=1, mask_embed=True), tiny_recipe(groups=[{"match": "encoder", "lr": 0.5}]))


@pytest.mark.parametrize(("groups", "why"), [
    (["blocks", r"blocks\.0"], r"earlier groups take every parameter whose name has 'blocks\\\\\.0'"),
    (["blocks", "pos_embed"], "'pos_embed' is in the names of parameters only that are never trained, such as pos_emb"),
    (["", "embed"], "earlier groups take every parameter whose name has 'embed'"),
], ids=str)  # fmt: skip
def test_a_group_that_nothing_falls_to_is_refused_with_the_reason(tiny_model, tiny_recipe, groups, why):
    recipe = tiny_recipe(groups=[{"match": match, "lr": 0.5} for match in groups])
    with pytest.raises(RecipeError, match=why):
        build_optimizers(tiny_model(depth=1, mask_embed=True), recipe)


def test_an_older_torch_has_adamw_only(tiny_model, tiny_recipe, monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    monkeypatch.delitem(sys.modules, "maerestore.train.muon", raising=False)
    assert len(build_optimizers(tiny_model(), tiny_recipe(optimizer="adamw"))) == 1
    with pytest.raises(RecipeError, match=r"muon needs torch 2.9 or newer, .*: take adamw"):
        build_optimizers(tiny_model(), tiny_recipe(optimizer="muon"))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon from 2.9 on")
@pytest.mark.parametrize("how", ["match_rms_adamw", "original", "spectral_unclamped"])
def test_stacked_matrices_move_as_torch_moves_them_one_by_one(how):
    """Square, tall and wide ones, one without a gradient, over three steps with momentum."""
    from maerestore.train.muon import StackedMuon

    def weights():
        generator = torch.Generator().manual_seed(0)
        shapes = [(8, 8), (24, 8), (8, 24), (24, 8), (8, 8), (5, 3)]
        return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]

    theirs, ours = weights(), weights()
    options = {"lr": 0.05, "momentum": 0.95, "nesterov": True, "weight_decay": 0.1, "adjust_lr_fn": how}
    optimizers = torch.optim.Muon(theirs, **options), StackedMuon(ours, **options)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for a, b in zip(theirs[:-1], ours[:-1], strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b, start in zip(theirs, ours, weights(), strict=True):
        torch.testing.assert_close(b, a, atol=0.02 * float((a - start).abs().max()), rtol=0)
    assert torch.equal(ours[-1], weights()[-1])
    optimizers[0].load_state_dict(optimizers[1].state_dict())  # the state is torch's own


@pytest.mark.parametrize("fast", [False, True])
def test_matrices_are_made_orthogonal_in_the_precision_that_the_processor_is_fast_in(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maerestore.train import muon

    monkeypatch.setattr(muon, "uses_bf16", lambda precision, device: fast)
    made = muon.orthogonal(torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(0)), (3.4, -4.8, 2.0), 5, 1e-7)
    assert made.dtype == (torch.bfloat16 if fast else torch.float32)
    assert float(torch.linalg.svdvals(made.float()).min()) > 0.5
