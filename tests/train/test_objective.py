import pytest
import torch

from maerestore.train.compilation import compile_blocks
from maerestore.train.losses import Criterion
from maerestore.train.objective import Objective


def gradients(module, model, inputs):
    model.zero_grad(set_to_none=True)
    loss, _, _ = module(**inputs)
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_compiled_blocks_make_the_same_loss_and_gradients(tiny_model, noise_images, monkeypatch):
    """What the tracer makes of them, for numbers of tokens that change, without the code generator."""
    compiler = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda *a, **o: compiler(*a, backend="aot_eager", fullgraph=True, **o)
    )
    torch._dynamo.reset()
    objectives = []
    for model in (tiny_model(mask_embed=True, depth=1), tiny_model(mask_embed=True, depth=1)):
        criterion = Criterion({"mse": 0.0, "masked_mse": 1.0, "bce": 0.5}, model.config)
        objectives.append(Objective(model.train(), criterion))
    compile_blocks(objectives[1])
    for side, keep in ((32, 4), (32, 7), (48, 9)):
        mask = torch.ones(2, (side // 8) ** 2)
        mask[:, :keep] = 0
        inputs = {"images": noise_images(2, side, side), "mask": mask, "num_visible": keep,
                  "pixel_mask": torch.zeros(2, 1, side, side)}  # fmt: skip
        (loss, plain), (compiled_loss, found) = (gradients(each, each.model, inputs) for each in objectives)
        assert compiled_loss == pytest.approx(loss, rel=1e-5)
        assert found.keys() == plain.keys()
        for name, value in plain.items():
            torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=name)
    torch._dynamo.reset()


def test_a_term_of_weight_zero_leaves_no_gradient(tiny_model, noise_images):
    model = tiny_model().train()
    mask = torch.ones(2, 16)
    mask[:, :4] = 0
    inputs = {"images": noise_images(2), "mask": mask, "num_visible": 4}
    both = Objective(model, Criterion({"masked_mse": 1.0, "mse": 0.0}, model.config))
    alone = Objective(model, Criterion({"masked_mse": 1.0}, model.config))
    _, found = gradients(both, model, inputs)
    _, expected = gradients(alone, model, inputs)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
