"""The checksum of a model: another one for whatever changes what is loaded, and for nothing else."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import save_file

from maerestore.hub.digest import model_digest
from maerestore.hub.errors import ModelError
from maerestore.hub.refiner import save_networks

from .test_refiner import make_refiner


@pytest.fixture
def folder(tiny_model, tmp_path):
    save_networks(tiny_model(), tmp_path / "model", refiner=make_refiner(), fill={"smooth": 1.0})
    return tmp_path / "model"


def test_each_file_that_is_loaded_counts_and_the_card_does_not(folder, tiny_model):
    first = model_digest(folder)
    (folder / "README.md").write_text("a card")
    (folder / "notes.txt").write_text("notes")
    assert model_digest(folder) == model_digest(str(folder)) == first
    found = {first}
    save_networks(tiny_model(), folder, refiner=make_refiner(seed=1), fill={"smooth": 1.0})
    found.add(model_digest(folder))  # two refiners on one autoencoder
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"fill": {"smooth": 2.0}}))
    found.add(model_digest(folder))
    save_networks(tiny_model(seed=1), folder)
    found.add(model_digest(folder))
    assert len(found) == 4


def test_what_folders_of_views_hold_from_earlier_stays_valid(folder):
    """`maerestore-augment.json` keeps the checksum: views that are there are not made again for another way to add."""
    names = ("config.json", "refiner.safetensors", "model.safetensors")
    assert model_digest(folder) == hashlib.sha256(b"".join((folder / n).read_bytes() for n in names)).hexdigest()


def test_of_a_run_its_model_counts(folder, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"of training")  # tmp_path is then a run folder
    assert model_digest(tmp_path) == model_digest(tmp_path / "checkpoint.pt") == model_digest(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        model_digest(tmp_path)


def test_of_a_file_what_is_loaded_with_it_counts(folder, tiny_model, tmp_path):
    assert model_digest(folder / "model.safetensors") == model_digest(folder)
    for suffix in (".pth", ".pt"):
        (tmp_path / suffix).mkdir()
        path = tmp_path / suffix / f"mine{suffix}"
        torch.save(tiny_model().state_dict(), path)
        alone = hashlib.sha256(path.read_bytes()).hexdigest()
        assert model_digest(path) == model_digest(path.parent) == alone


def test_of_an_index_its_shards_count(tiny_model, tmp_path):
    def write(name, seed):
        (tmp_path / name).mkdir()
        weights = tiny_model(seed).state_dict()
        save_file(weights, tmp_path / name / "part.safetensors")
        index = tmp_path / name / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": dict.fromkeys(weights, "part.safetensors")}))
        return index

    one, same, other = write("one", 0), write("same", 0), write("other", 1)
    assert model_digest(one) == model_digest(same) != model_digest(other)


def test_the_bundled_models_differ():
    assert len({model_digest(name) for name in (None, "augment", "features")}) == 3
    with pytest.raises(ModelError, match="no model"):
        model_digest("no such model")
