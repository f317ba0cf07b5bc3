"""An encoder without its decoder."""

import pytest
import torch

from maerestore.hub.export import encoder_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@torch.no_grad()
def test_it_gives_the_same_features_in_the_same_data_type(tiny_model, noise_images, dtype):
    model, images = tiny_model(mask_embed=True, mean=(0.1, 0.2, 0.3)).to(dtype), noise_images(2).to(dtype)
    encoder = encoder_of(model)
    assert {parameter.dtype for parameter in encoder.parameters()} == {dtype}
    assert torch.equal(encoder.encode(images)[0], model.encode(images)[0])
    assert torch.equal(encoder.normalize(images), model.normalize(images))
    assert not encoder.training
    assert encoder_of(model.train()).training


def test_it_is_a_copy_that_can_be_trained(tiny_model):
    model = tiny_model().requires_grad_(False)
    encoder = encoder_of(model)
    fixed = [name for name, parameter in encoder.named_parameters() if not parameter.requires_grad]
    assert fixed == ["pos_embed"]
    ours, theirs = encoder.state_dict(keep_vars=True), model.state_dict(keep_vars=True)
    assert not [name for name, value in ours.items() if value.data_ptr() == theirs[name].data_ptr()]


def test_the_programs_random_numbers_are_left_alone(tiny_model):
    model, before = tiny_model(), torch.get_rng_state()
    encoder_of(model)
    assert torch.equal(torch.get_rng_state(), before)
