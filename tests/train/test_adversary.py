"""The adversary's losses by hand, with a discriminator of two numbers; then that a real one learns."""

import copy
import math

import pytest
import torch
from torch import nn

from maerestore.errors import MaerestoreError
from maerestore.train.adversary import Adversary, fake_labels
from maerestore.train.discriminator import PatchDiscriminator


class Cells(nn.Module):
    """weight * (mean of each 2 x 2 cell) + bias."""

    def __init__(self, weight=1.0, bias=0.0):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.tensor(weight)), nn.Parameter(torch.tensor(bias))

    def forward(self, pictures):
        return self.weight * nn.functional.avg_pool2d(pictures.mean(1, keepdim=True), 2) + self.bias


def cells(*values):
    """(1, 1, 4, 4) from the values of its four 2 x 2 cells."""
    return torch.tensor(values).reshape(1, 1, 2, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)


def softplus(x):
    return math.log1p(math.exp(x))


HIDDEN = cells(1.0, 0.0, 0.0, 0.0)  # one pixel of the first cell is enough
HIDDEN[0, 0, 0, 0] = HIDDEN[0, 0, 0, 1] = HIDDEN[0, 0, 1, 0] = 0.0


def test_a_cell_with_one_hidden_pixel_is_labelled_fake():
    hidden = torch.zeros(2, 1, 8, 12)
    hidden[0, 0, 3, 4] = hidden[1, 0, 7, 11] = hidden[1, 0, 0, 0] = 1
    labels = fake_labels(hidden, (2, 3))
    assert labels[0, 0].tolist() == [[0, 1, 0], [0, 0, 0]]
    assert labels[1, 0].tolist() == [[1, 0, 0], [0, 0, 1]]


def test_cells_of_a_map_that_does_not_divide_the_picture_cover_it():
    for column in range(10):
        hidden = torch.zeros(1, 1, 10, 10)
        hidden[0, 0, 9, column] = 1
        labels = fake_labels(hidden, (3, 3))[0, 0]
        assert labels[:2].sum() == 0
        assert 1 <= labels[2].sum() <= 2


def test_the_nonsaturating_loss_by_hand():
    adversary = Adversary(Cells(2.0, -1.0), r1=0.0)
    real, fake = cells(0.5, 1.0, 0.0, 0.25), cells(0.75, 1.0, 0.0, 0.25)
    # verdicts: real 0, 1, -1, -0.5; fake 0.5, 1, -1, -0.5, of which the first is labelled fake and the others real
    parts = adversary.discriminator_loss(real, fake, HIDDEN)
    others = softplus(-1) + softplus(1) + softplus(0.5)
    assert float(parts["real"]) == pytest.approx((softplus(0) + others) / 4, rel=1e-5)
    assert float(parts["fake"]) == pytest.approx((softplus(0.5) + others) / 4, rel=1e-5)
    assert "r1" not in parts
    assert float(parts["loss"].detach()) == pytest.approx(float(parts["real"] + parts["fake"]), rel=1e-6)
    terms = adversary.generator_terms(fake, fake, HIDDEN)
    assert float(terms["adversarial"]) == pytest.approx(softplus(-0.5), rel=1e-5)


def test_the_hinge_loss_by_hand():
    adversary = Adversary(Cells(2.0, -1.0), loss="hinge", r1=0.0)
    real, fake = cells(0.5, 1.25, 0.0, 0.25), cells(0.75, 1.25, 0.0, 0.25)
    # verdicts: real 0, 1.5, -1, -0.5 -> 1, 0, 2, 1.5; fake 0.5 -> 1 + 0.5, the others as in the real picture
    parts = adversary.discriminator_loss(real, fake, HIDDEN)
    assert float(parts["real"]) == pytest.approx((1 + 0 + 2 + 1.5) / 4)
    assert float(parts["fake"]) == pytest.approx((1.5 + 0 + 2 + 1.5) / 4)
    assert float(adversary.generator_terms(fake, fake, HIDDEN)["adversarial"]) == pytest.approx(-0.5)


def test_the_gradient_penalty_by_hand():
    adversary = Adversary(Cells(3.0), r1=0.5)
    real = cells(0.1, 0.2, 0.3, 0.4).repeat(2, 1, 1, 1)
    # The sum of the map has the slope 3 / 4 at each of the 16 pixels: 16 * (3 / 4)^2 = 9 for each image.
    parts = adversary.discriminator_loss(real, real, torch.zeros(2, 1, 4, 4))
    assert float(parts["r1"].detach()) == pytest.approx(9.0, rel=1e-6)
    assert float(parts["loss"].detach()) == pytest.approx(float(parts["real"] + parts["fake"]) + 0.5 * 9, rel=1e-6)
    # Its own slope in the weight: d(w^2) / dw = 6, which the discriminator is trained on.
    (slope,) = torch.autograd.grad(parts["r1"], adversary.discriminator.weight)
    assert float(slope) == pytest.approx(6.0, rel=1e-6)


def test_the_penalty_is_that_of_each_image_not_of_the_batch():
    class Squares(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(()))

        def forward(self, pictures):
            return (pictures**2).sum((1, 2, 3), keepdim=True) / 2 + self.bias

    real = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)  # the slope of x^2 / 2 is x
    parts = Adversary(Squares()).discriminator_loss(real, real, torch.zeros(2, 1, 2, 2))
    assert float(parts["r1"].detach()) == pytest.approx((4 * 1 + 4 * 9) / 2)


def test_a_prediction_is_pushed_towards_real_and_only_where_it_counts():
    fake = cells(0.5, 0.5, 0.5, 0.5).requires_grad_()
    Adversary(Cells(2.0)).generator_terms(fake, fake, HIDDEN)["adversarial"].backward()
    # d softplus(-v) / dv = -sigmoid(-1), v has the slope 2 / 4 in each pixel of the first cell
    expected = torch.zeros(1, 1, 4, 4)
    expected[0, 0, :2, :2] = -0.5 / (1 + math.e)
    torch.testing.assert_close(fake.grad, expected)


def test_an_image_that_hides_nothing_counts_nothing():
    adversary = Adversary(Cells(2.0, -1.0))
    fake = cells(0.75, 1.0, 0.0, 0.25).repeat(2, 1, 1, 1)
    hidden = torch.cat([HIDDEN, torch.zeros(1, 1, 4, 4)])
    terms = adversary.generator_terms(fake, fake, hidden)
    assert float(terms["adversarial"]) == pytest.approx(softplus(-0.5) / 2, rel=1e-5)


@pytest.mark.parametrize("loss", ["nonsaturating", "hinge"])
def test_the_mean_of_two_halves_is_the_whole(loss):
    torch.manual_seed(0)
    adversary = Adversary(PatchDiscriminator(width=4, layers=2, norm="group"), loss, r1=0.1)
    real, fake = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 32, 32)
    hidden = (torch.rand(4, 1, 32, 32) < torch.tensor([1.0, 0.1, 0.01, 0.002]).view(4, 1, 1, 1)).float()
    halves = slice(0, 2), slice(2, 4)
    whole = adversary.discriminator_loss(real, fake, hidden)
    parts = [adversary.discriminator_loss(real[s], fake[s], hidden[s]) for s in halves]
    for name in ("real", "fake", "r1", "loss"):
        torch.testing.assert_close(whole[name], (parts[0][name] + parts[1][name]) / 2)
    torch.testing.assert_close(
        adversary.generator_terms(fake, fake, hidden)["adversarial"],
        sum(adversary.generator_terms(fake[s], fake[s], hidden[s])["adversarial"] for s in halves) / 2,
    )


# --- the step ---------------------------------------------------------------------------------------------------------


def test_judging_a_prediction_changes_nothing_of_the_discriminator():
    adversary = Adversary(PatchDiscriminator(width=4, layers=1))
    before = copy.deepcopy(adversary.state_dict())
    fake = torch.rand(1, 3, 16, 16, requires_grad=True)
    adversary.generator_terms(fake, fake, torch.ones(1, 1, 16, 16))["adversarial"].backward()
    assert bool(fake.grad.any())
    after = adversary.state_dict()["discriminator"]
    assert all(torch.equal(value, after[name]) for name, value in before["discriminator"].items())
    assert all(p.grad is None and p.requires_grad for p in adversary.discriminator.parameters())
    assert adversary.discriminator.training


def test_a_step_moves_the_discriminator_and_leaves_no_gradient_behind():
    adversary = Adversary(Cells(1.0), r1=0.0, lr=0.1)
    fake = cells(1.0, 0.0, 0.0, 0.0).requires_grad_()
    parts = adversary.discriminator_step(cells(0.0, 0.0, 0.0, 0.0), fake, HIDDEN)
    assert float(adversary.discriminator.weight.detach()) < 1  # bright cells are fake: judge them lower
    assert fake.grad is None
    assert all(p.grad is None for p in adversary.discriminator.parameters())
    assert not any(value.requires_grad for value in parts.values())


@pytest.mark.parametrize("loss", ["nonsaturating", "hinge"])
@pytest.mark.parametrize("norm", ["spectral", "group", "none"])
def test_it_learns_to_tell_noise_from_a_gradient(loss, norm):
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adversary = Adversary(PatchDiscriminator(1, width=8, layers=2, norm=norm), loss, lr=5e-3)
    ramp = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    hidden = torch.zeros(8, 1, 32, 32)
    hidden[..., 16:] = 1

    def batch():
        real = (ramp * torch.rand(8, 1, 1, 1, generator=generator)).clone()
        return real, torch.where(hidden > 0, torch.rand(8, 1, 32, 32, generator=generator), real)

    def verdicts():
        real, fake = batch()
        with torch.no_grad():
            on_real, on_fake = adversary.discriminator(real), adversary.discriminator(fake)
        inside = fake_labels(hidden, on_fake.shape[-2:]) > 0
        return on_real[inside], on_fake[inside]

    start = adversary.generator_terms(batch()[1], batch()[1], hidden)["adversarial"]
    for _ in range(30):
        adversary.discriminator_step(*batch(), hidden)
    on_real, on_fake = verdicts()
    assert float((on_real[:, None] > on_fake[None]).float().mean()) > 0.8  # chance: 0.5
    assert float(on_real.mean()) > 0 > float(on_fake.mean())
    assert float(adversary.generator_terms(batch()[1], batch()[1], hidden)["adversarial"]) > float(start)


def test_a_run_that_stops_and_resumes_computes_the_same():
    def make(seed):
        torch.manual_seed(seed)
        return Adversary(PatchDiscriminator(width=4, layers=1), r1=0.1, lr=1e-2)

    def steps(adversary, numbers):
        for number in numbers:
            real, fake = torch.rand(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(number))
            adversary.discriminator_step(real, fake, torch.ones(2, 1, 16, 16))

    through, first, second = make(0), make(0), make(1)
    steps(through, range(4))
    steps(first, range(2))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    steps(second, range(2, 4))
    resumed = second.state_dict()["discriminator"]
    assert all(torch.equal(value, resumed[name]) for name, value in through.state_dict()["discriminator"].items())


def test_the_state_can_be_saved_and_read_without_unpickling_code(tmp_path):
    adversary = Adversary(PatchDiscriminator(width=4, layers=1))
    adversary.discriminator_step(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16), torch.ones(1, 1, 16, 16))
    torch.save(adversary.state_dict(), tmp_path / "state.pt")
    adversary.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))


def test_under_autocast_verdicts_are_short_and_the_penalty_is_exact():
    torch.manual_seed(0)
    adversary = Adversary(PatchDiscriminator(width=4, layers=2, norm="group"), r1=0.1)
    real, fake, hidden = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32)
    expected = adversary.discriminator_loss(real, fake, hidden)
    judged = adversary.generator_terms(fake, fake, hidden)["adversarial"]
    with torch.autocast("cpu", torch.bfloat16):
        parts = adversary.discriminator_loss(real, fake, hidden)
        terms = adversary.generator_terms(fake, fake, hidden)
        assert adversary.generator_terms(fake.bfloat16(), fake.bfloat16(), hidden)["adversarial"].dtype == torch.float32
    assert {value.dtype for value in (*parts.values(), *terms.values())} == {torch.float32}
    assert torch.equal(parts["r1"], expected["r1"])
    assert torch.equal(parts["real"], expected["real"])
    for value, exact in ((parts["fake"], expected["fake"]), (terms["adversarial"], judged)):
        assert 0 < abs(float(value - exact)) < 0.01


def test_a_lazy_penalty_comes_every_so_many_steps_and_counts_as_often():
    adversary = Adversary(Cells(2.0, -1.0), r1=0.5, r1_every=3, lr=0.0)
    real, fake = cells(0.5, 1.0, 0.0, 0.25), cells(0.75, 1.0, 0.0, 0.25)
    steps = [adversary.discriminator_step(real, fake, HIDDEN) for _ in range(7)]
    assert ["r1" in step for step in steps] == [True, False, False, True, False, False, True]
    plain = float(steps[1]["loss"])
    assert plain == pytest.approx(float(steps[1]["real"] + steps[1]["fake"]))
    for step in steps[::3]:
        assert float(step["loss"]) == pytest.approx(plain + 3 * 0.5 * float(step["r1"]))
    other = Adversary(Cells(2.0, -1.0), r1=0.5, r1_every=3, lr=0.0)
    other.load_state_dict(adversary.state_dict())  # a resumed run is at the same place in the cycle
    assert "r1" not in other.discriminator_step(real, fake, HIDDEN)


def _half(rank, folder):
    """One of two processes with half a batch each: the discriminator's weights after two steps."""
    import datetime

    import torch.distributed as dist

    timeout = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timeout)
    try:
        adversary, real, fake, hidden = _batch()
        part = slice(2 * rank, 2 * rank + 2)
        for _ in range(2):
            adversary.discriminator_step(real[part], fake[part], hidden[part])
        torch.save(adversary.discriminator.state_dict(), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def _batch():
    torch.manual_seed(0)
    adversary = Adversary(PatchDiscriminator(width=4, layers=1), r1=0.1, lr=1e-2)
    hidden = (torch.rand(4, 1, 16, 16) < torch.tensor([1.0, 0.3, 0.05, 0.0]).view(4, 1, 1, 1)).float()
    return adversary, torch.rand(4, 3, 16, 16), torch.rand(4, 3, 16, 16), hidden


@pytest.mark.slow
def test_two_processes_with_half_the_batch_each_make_the_same_update(tmp_path):
    other = torch.multiprocessing.get_context("spawn").Process(target=_half, args=(1, str(tmp_path)))
    other.start()
    _half(0, str(tmp_path))  # this process is the first
    other.join(60)
    assert other.exitcode == 0
    adversary, *batch = _batch()
    for _ in range(2):
        adversary.discriminator_step(*batch)
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, value in adversary.discriminator.state_dict().items():
        assert torch.equal(halves[0][name], halves[1][name])
        torch.testing.assert_close(halves[0][name], value, atol=1e-5, rtol=1e-4)


# --- the network ------------------------------------------------------------------------------------------------------


def test_a_value_of_the_map_sits_in_the_middle_of_what_it_sees():
    discriminator = PatchDiscriminator(1, width=4, norm="none")
    picture = torch.rand(1, 1, 160, 128, requires_grad=True)
    verdict = discriminator(picture)
    assert verdict.shape == (1, 1, 20, 16)
    verdict[0, 0, 9, 7].backward()
    seen = picture.grad[0, 0].ne(0).nonzero()
    first, last = seen.min(0).values, seen.max(0).values
    assert (last - first + 1).tolist() == [54, 54]
    assert ((first + last) / 2).tolist() == [9 * 8 + 3.5, 7 * 8 + 3.5]


def test_a_map_has_a_value_for_the_smallest_pictures():
    assert PatchDiscriminator(1, width=4)(torch.rand(2, 1, 28, 28)).shape == (2, 1, 3, 3)


@pytest.mark.parametrize("layers", [1, 3, 5])
def test_the_smallest_side_that_a_recipe_may_have_is_the_smallest_that_works(layers):
    discriminator = PatchDiscriminator(3, 4, layers)
    assert discriminator(torch.rand(2, 3, 2**layers, 2**layers)).shape == (2, 1, 1, 1)
    with pytest.raises(RuntimeError):
        discriminator(torch.rand(2, 3, 2**layers - 1, 2**layers - 1))


def test_widths_double_up_to_eight_times_the_first():
    convolutions = [m for m in PatchDiscriminator(width=2, layers=5).modules() if isinstance(m, nn.Conv2d)]
    assert [conv.out_channels for conv in convolutions] == [2, 4, 8, 16, 16, 16, 1]
    assert [conv.stride[0] for conv in convolutions] == [2, 2, 2, 2, 2, 1, 1]


def test_spectral_norm_bounds_every_convolution():
    discriminator = PatchDiscriminator(width=4, layers=1)
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter *= 20
        for _ in range(50):
            discriminator(torch.rand(1, 3, 16, 16))
    for conv in (m for m in discriminator.modules() if isinstance(m, nn.Conv2d)):
        assert float(torch.linalg.matrix_norm(conv.weight.detach().flatten(1), 2)) == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("norm", ["spectral", "group", "none"])
def test_what_is_said_of_an_image_does_not_depend_on_the_others(norm):
    discriminator = PatchDiscriminator(width=4, layers=2, norm=norm).eval()
    pictures = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(discriminator(pictures)[1:2], discriminator(pictures[1:2]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PatchDiscriminator(width=0), "width must be .* got 0"),
        (lambda: PatchDiscriminator(layers=1.5), "layers must be .* got 1.5"),
        (lambda: PatchDiscriminator(in_chans=True), "in_chans must be .* got True"),
        (lambda: PatchDiscriminator(norm="batch"), "norm must be spectral, group or none, got 'batch'"),
        (lambda: Adversary(Cells(), loss="wasserstein"), "loss must be nonsaturating or hinge, got 'wasserstein'"),
        (lambda: Adversary(Cells(), r1=-1.0), "r1 must be .* got -1"),
        (lambda: Adversary(Cells(), lr=float("nan")), "lr must be .* got nan"),
        (lambda: Adversary(Cells(), weight_decay="none"), "weight_decay must be .* got 'none'"),
        (lambda: Adversary(nn.Sequential(nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1))), "batch norm"),
    ],
)
def test_settings_that_do_not_fit_are_named(make, message):
    with pytest.raises(MaerestoreError, match=message):
        make()
