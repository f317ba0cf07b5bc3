"""What a step takes from beside the model: the average's attention, and the discriminator's gradients of a batch."""

import pytest
import torch


def disturb(module):
    """Other weights than those it has."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("policy", ["attention", "attention-keep"])
def test_masks_follow_the_attention_of_the_average_and_not_of_the_model(trainer, tiny_recipe, policy):
    run = trainer(tiny_recipe(masking={"policies": {policy: 1}}))
    before = run._batch(slice(0, 8)).masks.mask
    disturb(run.model)
    assert torch.equal(run._batch(slice(0, 8)).masks.mask, before)
    disturb(run.average)
    assert not torch.equal(run._batch(slice(0, 8)).masks.mask, before)


def test_the_discriminator_sees_an_accumulated_batch_as_the_whole(trainer, tiny_recipe):
    # Its gradients are compared: after an optimiser that divides by their size, weights would hide a wrong share. (A
    # spectral norm, which each look at a part brings nearer to its limit, would make more than rounding of it.)
    gradients = {}
    for parts in (1, 4):
        recipe = tiny_recipe(adversarial={"width": 4, "layers": 1, "norm": "group"}, samples=8, accumulate=parts)
        run = trainer(recipe, f"in-{parts}")
        trained = list(run.adversary.discriminator.parameters())
        gradients[parts] = []
        run.adversary.optimizer.register_step_pre_hook(
            lambda *_, kept=gradients[parts], trained=trained: kept.extend(p.grad.clone() for p in trained)
        )
        run.run()
    assert max(gradient.abs().max() for gradient in gradients[1]) > 1e-3
    for whole, summed in zip(gradients[1], gradients[4], strict=True):
        torch.testing.assert_close(summed, whole, rtol=1e-3, atol=1e-4)
