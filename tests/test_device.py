from __future__ import annotations

import pytest
import torch

from maerestore.device import pick_device
from maerestore.hub.errors import ModelError


def test_devices_are_picked_by_name(monkeypatch):
    assert pick_device("cpu") == torch.device("cpu")
    for cuda, mps, expected in [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert pick_device() == torch.device(expected)


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="cuda is not available"):
        pick_device("cuda")
    with pytest.raises(ModelError, match="unknown device 'tpu'"):
        pick_device("tpu")
    for name in ("cuda:0", "cpu:1", "meta", torch.device("cuda", 2)):
        with pytest.raises(ModelError, match=f"device {name} is not available"):
            pick_device(name)
    for name in ("", "cuda:x", None, b"cpu", 1.5):
        with pytest.raises(ModelError, match="unknown device"):
            pick_device(name)


def test_devices_are_picked_by_index_and_as_objects(monkeypatch):
    for name in ("cpu", "cpu:0", torch.device("cpu"), torch.device("cpu", 0)):
        assert pick_device(name) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("cuda", "cuda:0", "cuda:1", torch.device("cuda", 1)):
        assert pick_device(name) == torch.device(name)
    with pytest.raises(ModelError, match="cuda:2 is not available here: there are 2"):
        pick_device("cuda:2")
