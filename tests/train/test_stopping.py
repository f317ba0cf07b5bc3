"""A signal ends a run after its step; a further one, where that step waits for data, the wait."""

import os
import signal
import time

import pytest
import torch

from maerestore.train import stopping
from maerestore.train.stopping import StopSignals, WaitEnded

from .conftest import gradient


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_further_signal_ends_a_wait_and_nothing_else(number, monkeypatch):
    monkeypatch.setattr(stopping, "LAUNCHERS", 0.2)
    with StopSignals() as signals:
        with signals.waiting():
            send(number)
            send(number)  # a launcher's
        assert (signals.wanted, signals.number) == (True, number)
        time.sleep(0.25)
        send(number)  # in a step that computes
        with pytest.raises(WaitEnded), signals.waiting():
            send(number)
        send(number)


def test_a_run_whose_data_never_come_is_saved(trainer, tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "LAUNCHERS", 0.05)
    run = trainer(tiny_recipe(samples=32))
    batch, stall = run._batch, True

    def waits(part):
        if run.step == 2 and stall:
            send()
            time.sleep(0.1)
            send()
            raise AssertionError("it waits on")
        return batch(part)

    run._batch = waits
    assert run.run() == {}
    assert run.signals.number == signal.SIGTERM
    assert torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)["samples"] == 16
    again = trainer(tiny_recipe(samples=32))
    again.run()
    whole = trainer(tiny_recipe(samples=32), "whole")
    whole.run()
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value, msg=name)


def test_a_wait_before_the_first_step_ends_with_nothing_to_save(trainer, tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "LAUNCHERS", 0.05)
    run = trainer(tiny_recipe())

    def waits():
        send()
        time.sleep(0.1)
        send()

    run._prepare_validation = waits
    assert run.run() == {}
    assert run.signals.number == signal.SIGTERM
    assert not (tmp_path / "run/checkpoint.pt").exists()


def test_a_killed_decoder_of_a_stream_is_one_line(trainer, tiny_recipe, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    for seed in range(12):
        gradient(56, 40, seed).save(tmp_path / f"photos/{seed}.png")
    monkeypatch.setattr("maerestore.train.streams.as_canvas", lambda *_: send(signal.SIGKILL))
    recipe = tiny_recipe(resident_gb=0, short_side=40, samples=16, validation_images=0)
    run = trainer(recipe, data=tmp_path / "photos", workers=2)
    with pytest.raises(Exception, match="a decoding process was killed") as caught:
        run.run()
    assert "\n" not in str(caught.value)
