import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from maerestore.errors import MaerestoreError
from maerestore.features.classify import Classifier
from maerestore.hub import fetch
from maerestore.hub.errors import ModelError
from maerestore.hub.fetch import resolve_model
from maerestore.inpaint.pipeline import Inpainter
from maerestore.model import MaskedAutoencoder

ROOT = Path(__file__).resolve().parents[2]

WITHOUT_NETWORK = """
import socket, time

def no_network(*args, **kwargs):
    print("NETWORK")
    raise OSError("no network in this test")

socket.socket.connect = socket.getaddrinfo = socket.create_connection = no_network
from maerestore.hub.fetch import resolve_model
from maerestore.hub.errors import ModelError
import huggingface_hub
huggingface_hub.snapshot_download
start = time.perf_counter()
try:
    resolve_model("nobody/there-is-no-such-model")
except ModelError as err:
    print("ModelError", str(err).count(chr(10)), time.perf_counter() - start < 5, str(err).split(":")[0])
"""


def answer_with_files(monkeypatch):
    """Let the Hub answer that the commit of a revision is called as it, and what its files are."""

    def model_info(self, repository, revision=None):
        files = ["config.json", "model.safetensors", "preprocessor_config.json", "mae.pth", "x.bin", "a/config.json"]
        return SimpleNamespace(sha=revision or "main", siblings=[SimpleNamespace(rfilename=name) for name in files])

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)


@pytest.fixture
def downloads(monkeypatch, tmp_path):
    """Calls of `snapshot_download`, which returns the folder tmp_path/fetched, with weights in it."""
    calls = []
    answer_with_files(monkeypatch)

    def download(repository, **settings):
        calls.append((repository, settings))
        (tmp_path / "fetched").mkdir(exist_ok=True)
        for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
            (tmp_path / "fetched" / name).touch()
        return str(tmp_path / "fetched")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return calls


def test_a_folder_is_taken_as_it_is(tmp_path, downloads):
    assert resolve_model(str(tmp_path)) == tmp_path
    assert downloads == []


@pytest.mark.parametrize("name", [None, "default"])
def test_the_default_is_the_bundled_folder(tmp_path, monkeypatch, name):
    monkeypatch.setattr(fetch, "bundled_folder", lambda: tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert resolve_model(name) == tmp_path


@pytest.mark.parametrize("root", ["weights", "maerestore/weights"])  # of a checkout, of an installed wheel
def test_the_small_model_for_views_lies_inside_the_bundled_folder(tmp_path, monkeypatch, root):
    folder = tmp_path / root
    (folder / "augment").mkdir(parents=True)
    monkeypatch.setattr(fetch, "bundled_folder", lambda: folder)
    with pytest.raises(ModelError, match="reinstall"):
        resolve_model("augment")
    (folder / "augment/config.json").write_text("{}")
    assert resolve_model("augment") == folder / "augment"
    with pytest.raises(ModelError, match="reinstall"):  # the one is not the other
        resolve_model()


def test_a_folder_of_the_same_name_does_not_hide_a_bundled_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "augment").mkdir()
    monkeypatch.setattr(fetch, "bundled_folder", lambda: tmp_path / "weights")
    (tmp_path / "weights/augment").mkdir(parents=True)
    (tmp_path / "weights/augment/config.json").write_text("{}")
    assert resolve_model("augment") == tmp_path / "weights/augment"
    assert resolve_model("./augment") == Path("augment")


def test_what_is_not_on_the_hub_has_no_revision(tmp_path, monkeypatch, downloads):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org/name").mkdir(parents=True)
    for name, words in (("augment", "bundled"), (None, "bundled"), ("org/name", "org/name@v1 for the repository"),
                        (Path("org/name"), "org/name@v1"), ("./org", "leave it out")):  # fmt: skip
        with pytest.raises(ModelError, match=words) as caught:
            resolve_model(name, revision="v1")
        assert "no revision 'v1'" in str(caught.value)
    with pytest.raises(ModelError, match="no revision 'v1'"):
        Classifier.from_pretrained("org/name", revision="v1")
    assert downloads == []
    assert resolve_model("org/name@v1") == tmp_path / "fetched"


def test_a_missing_default_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "bundled_folder", lambda: tmp_path)
    with pytest.raises(ModelError, match="reinstall"):
        resolve_model()


def test_the_bundled_folder_of_a_checkout_is_weights():
    folder = fetch.bundled_folder()
    assert folder.name == "weights"
    assert folder.parent in (ROOT, ROOT / "maerestore")


def test_a_repository_is_fetched_with_its_revision_and_only_the_files_of_a_model(downloads, tmp_path):
    assert resolve_model("org/name@v1.2", token="secret", cache_dir="cache") == tmp_path / "fetched"
    assert resolve_model("org/name", revision="main") == tmp_path / "fetched"
    revisions = [(name, settings["revision"]) for name, settings in downloads]
    assert revisions == [("org/name", "v1.2"), ("org/name", "main")]
    asked = downloads[0][1]
    assert asked["allow_patterns"] == ["config.json", "preprocessor_config.json", "model.safetensors"]
    assert (asked["token"], asked["cache_dir"]) == ("secret", "cache")


@pytest.mark.parametrize(
    "name",
    [
        *("nope", "a/b/c", "org/na me", "~", "@v1", "n" * 300, "-a/b"),
        *("/absent/folder/of/mine", "./model", "../model", "~/model", "heads/animals.head", "heads/animals.head@v1"),
    ],
)
def test_a_name_of_nothing_lists_the_choices(downloads, name):
    with pytest.raises(ModelError, match=r"folder, a file, or org/name") as caught:
        resolve_model(name)
    assert "\n" not in str(caught.value)
    assert downloads == []


def test_a_file_is_taken_as_it_is(tmp_path, downloads, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/mae.pth").write_text("")
    assert resolve_model("weights/mae.pth") == Path("weights/mae.pth")
    assert downloads == []


@pytest.mark.parametrize("name", ["a--b/model", "org/" + "n" * 200])
def test_a_name_that_the_hub_does_not_allow_is_a_model_error(name):
    with pytest.raises(ModelError):
        resolve_model(name, local_files_only=True)


def test_an_empty_name_is_refused():
    with pytest.raises(ModelError):
        resolve_model("")


def failing(error):
    def download(repository, **settings):
        raise error

    return download


@pytest.mark.parametrize("message", ["first line\nsecond line", ""])
@pytest.mark.parametrize(("kind", "words"), [(ConnectionError, "cannot be reached"), (OSError, "cannot be fetched")])
def test_a_failed_download_is_told_in_one_line(monkeypatch, message, kind, words):
    answer_with_files(monkeypatch)
    monkeypatch.setattr("huggingface_hub.snapshot_download", failing(kind(message)))
    with pytest.raises(ModelError, match=f"org/name: .*{words}") as caught:
        resolve_model("org/name")
    assert "\n" not in str(caught.value)
    assert (message.split("\n")[0] or kind.__name__) in str(caught.value)


@pytest.mark.parametrize("name", ["runs/ref", "runs/ref@v1"])
def test_what_may_be_a_mistyped_folder_is_told_not_to_be_there(monkeypatch, name):
    answer_with_files(monkeypatch)
    monkeypatch.setattr("huggingface_hub.snapshot_download", failing(ConnectionError("no network")))
    with pytest.raises(ModelError, match="cannot be reached") as caught:
        resolve_model(name)
    assert str(caught.value).endswith("; nor is there a folder or file 'runs/ref' here") == ("@" not in name)


def test_a_timeout_while_downloading_is_a_model_error(monkeypatch):
    from huggingface_hub.errors import HfHubHTTPError

    client = next(base for base in HfHubHTTPError.__mro__ if base.__name__ in ("HTTPError", "RequestException"))
    answer_with_files(monkeypatch)
    monkeypatch.setattr("huggingface_hub.snapshot_download", failing(client("timed out")))
    with pytest.raises(ModelError):
        resolve_model("org/name")


def test_offline_an_unknown_repository_fails_fast_without_network(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", WITHOUT_NETWORK], capture_output=True, text=True, timeout=120,
                            env=environment, check=False)  # fmt: skip
    assert result.stdout.strip() == "ModelError 0 True nobody/there-is-no-such-model", result.stdout + result.stderr


def test_the_device_is_refused_before_the_model_and_not_as_if_it_were_the_models_fault(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for settings in ({"device": "cuda:0"}, {"precision": "fp8"}):
        with pytest.raises(MaerestoreError, match=r"^(device|precision) "):
            Inpainter.from_pretrained("no such model", **settings)
    assert Inpainter.from_pretrained(device=torch.device("cpu")).device == torch.device("cpu")


@pytest.mark.parametrize("load", [resolve_model, Inpainter.from_pretrained, MaskedAutoencoder.from_pretrained])
def test_a_path_is_a_place_on_the_disk_and_never_a_repository(load, downloads, tmp_path):
    for path in (Path("no/such"), tmp_path / "nowhere", Path("default")):
        with pytest.raises(ModelError, match="no folder or file"):
            load(path)
    assert not downloads
    assert resolve_model(tmp_path) == tmp_path
