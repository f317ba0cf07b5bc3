"""Models to and from the Hub: the real client against a server on the loopback interface."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

import pytest
import torch

from maerestore.errors import MaerestoreWarning
from maerestore.hub.client import ask_hub, explain
from maerestore.hub.config import locate
from maerestore.hub.errors import ModelError
from maerestore.hub.export import export_transformers
from maerestore.hub.fetch import fetch_repository, model_files, resolve_model
from maerestore.hub.load import load_autoencoder
from maerestore.hub.push import push_folder, push_model
from maerestore.hub.save import save_autoencoder
from maerestore.model import MaskedAutoencoder

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = "model.safetensors"


@pytest.fixture
def model_folder(tiny_model, tmp_path):
    def make(name="model", seed=0, **settings):
        save_autoencoder(tiny_model(seed, **settings), tmp_path / name, training={"samples": 1234})
        return tmp_path / name

    return make


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def published(hub, model_folder):
    """The bytes of a model that lies at org/name."""
    files = contents(model_folder()) | {"README.md": b"---\ntags: [x]\n---\n"}
    hub.add("org/name", files)
    return files


def refused(call, *arguments, **settings):
    """The message of the one-line ModelError that a call raises."""
    with pytest.raises(ModelError) as caught:
        call(*arguments, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def unfinished(folder):
    """Files of a cache that a later call could take for a model's."""
    return [p for p in folder.rglob("*") if p.suffix == ".safetensors" or len(p.name) == 64]


# --- there and back -----------------------------------------------------------------------------------------------


def test_what_is_pushed_comes_back_bit_for_bit(hub, model_folder, noise_images):
    folder = model_folder()
    url = push_folder(folder, "org/name")
    pulled = resolve_model("org/name")
    assert url == f"{hub.endpoint}/org/name/commit/{pulled.name}"
    for name in ("config.json", WEIGHTS):
        assert (pulled / name).read_bytes() == (folder / name).read_bytes()
    mask = torch.zeros(2, 16)
    mask[:, 3:9] = 1
    before, after = load_autoencoder(folder), load_autoencoder(pulled)
    with torch.no_grad():
        assert torch.equal(before(noise_images(), mask=mask).pred, after(noise_images(), mask=mask).pred)


def test_a_model_in_memory_is_pushed_with_what_is_known_of_it(hub, tiny_model):
    model = tiny_model(norm_pix_loss=True)
    push_model(model, "org/name", training={"samples": 77}, license="cc0-1.0", private=True)
    pulled = fetch_repository("org/name")
    assert json.loads((pulled / "config.json").read_text())["training"] == {"samples": 77}
    card = (pulled / "README.md").read_text()
    assert "license: cc0-1.0" in card
    assert "| samples | 77 |" in card
    assert hub.repositories["org/name"].private
    again = load_autoencoder(pulled).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_the_methods_of_the_model_go_both_ways(hub, tiny_model):
    model = tiny_model(seed=3)
    pin = model.push_to_hub("org/name").rpartition("/")[2]
    again = MaskedAutoencoder.from_pretrained(f"org/name@{pin}").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_other_layouts_go_both_ways(hub, tiny_model, tmp_path):
    model = tiny_model()
    export_transformers(model, tmp_path / "vitmae")
    push_folder(tmp_path / "vitmae", "org/vitmae")
    torch.save({"model": model.state_dict()}, tmp_path / "mae.pth")
    hub.add("org/meta", {"mae.pth": (tmp_path / "mae.pth").read_bytes(), "README.md": b""})
    assert "preprocessor_config.json" in contents(resolve_model("org/vitmae"))
    for name, settings in (("org/vitmae", {}), ("org/meta", {"num_heads": 2, "decoder_num_heads": 2})):
        again = MaskedAutoencoder.from_pretrained(name, **settings).state_dict()
        assert all(torch.equal(value, again[key]) for key, value in model.state_dict().items())


def test_one_commit_holds_the_model_and_nothing_else_of_the_folder(hub, model_folder):
    folder = model_folder()
    (folder / "README.md").write_text(
        "---\nlicense: mit\n---\n![curve](curves.png) <img alt='x' src='figures/grid.jpg'> ![no](absent.png)\n"
        "![up](../secret.png) ![hidden](.hidden.png) ![far](https://example.org/far.png) [log](log.txt) ![odd](odd.txt)"
    )
    (folder / "figures").mkdir()
    sent = ["curves.png", "figures/grid.jpg"]
    kept = [
        ".env",
        ".hidden.png",
        "checkpoint.pt",
        "log.txt",
        "odd.txt",
        "unused.png",
        "../secret.png",
        "figures/x.png",
    ]
    for name in [*sent, *kept]:
        (folder / name).write_text(name)
    push_folder(folder, "org/name", commit_message="First")
    repository = hub.repositories["org/name"]
    files = repository.commits[repository.refs["main"]]
    assert set(files) == {".gitattributes", "config.json", WEIGHTS, "README.md", *sent}
    assert files["README.md"].data == (folder / "README.md").read_bytes()
    assert sorted(repository.messages.values()) == ["First", "initial commit"]


def test_a_picture_that_is_a_link_out_of_the_folder_is_not_sent(hub, model_folder, tmp_path):
    folder = model_folder()
    (folder / "README.md").write_text("![a](a.png) ![b](b.png) ![c](c/x.png) ![d](d.png)")
    (tmp_path / "secret").mkdir()
    for path in (tmp_path / "secret/x.png", folder / "b.png", folder / ".hidden.png"):
        path.write_text("x")
    (folder / "a.png").symlink_to(tmp_path / "secret/x.png")
    (folder / "c").symlink_to(tmp_path / "secret")
    (folder / "d.png").symlink_to(folder / ".hidden.png")
    push_folder(folder, "org/name")
    repository = hub.repositories["org/name"]
    files = repository.commits[repository.refs["main"]]
    assert set(files) == {".gitattributes", "config.json", WEIGHTS, "README.md", "b.png"}


def test_a_folder_without_a_card_gets_one_on_the_hub_only(hub, model_folder):
    folder = model_folder()
    push_folder(folder, "org/name")
    repository = hub.repositories["org/name"]
    assert 'from_pretrained("org/name")' in repository.commits[repository.refs["main"]]["README.md"].data.decode()
    assert sorted(contents(folder)) == ["config.json", WEIGHTS]


def test_a_pull_request_leaves_main_as_it_was(hub, published, model_folder):
    before = hub.repositories["org/name"].refs["main"]
    url = push_folder(model_folder("other", seed=1), "org/name", create_pr=True)
    assert url == f"{hub.endpoint}/org/name/discussions/1"
    assert hub.repositories["org/name"].refs["main"] == before
    assert (resolve_model("org/name") / WEIGHTS).read_bytes() == published[WEIGHTS]
    proposed = resolve_model("org/name@refs/pr/1")
    assert (proposed / WEIGHTS).read_bytes() == contents(model_folder("other", seed=1))[WEIGHTS]


def test_a_pull_request_needs_no_right_to_write(hub, published, model_folder):
    url = push_folder(model_folder("other", seed=1), "org/name", create_pr=True, token="read")
    assert url.endswith("/discussions/1")


def test_a_branch_is_made_and_committed_to(hub, published, model_folder):
    before = hub.repositories["org/name"].refs["main"]
    for seed in (1, 2):
        push_folder(model_folder(f"s{seed}", seed=seed), "org/name", revision="large")
    assert hub.repositories["org/name"].refs["main"] == before
    assert (resolve_model("org/name@large") / WEIGHTS).read_bytes() == contents(model_folder("s", seed=2))[WEIGHTS]


def test_a_pinned_commit_stays_what_it_was(hub, model_folder):
    first, second = model_folder("first", seed=1), model_folder("second", seed=2)
    pin = push_folder(first, "org/name").rpartition("/")[2]
    push_folder(second, "org/name")
    assert (resolve_model(f"org/name@{pin}") / WEIGHTS).read_bytes() == contents(first)[WEIGHTS]
    assert (resolve_model("org/name", revision=pin) / WEIGHTS).read_bytes() == contents(first)[WEIGHTS]
    assert (resolve_model("org/name") / WEIGHTS).read_bytes() == contents(second)[WEIGHTS]


def test_the_same_model_again_makes_no_commit(hub, model_folder):
    folder = model_folder()
    assert push_folder(folder, "org/name") == push_folder(folder, "org/name")
    assert len(hub.asked(r"POST .*/commit/")) == 1


def test_the_token_does_not_reach_the_storage_host(hub, model_folder):
    push_folder(model_folder(), "org/name", private=True)
    resolve_model("org/name")
    stored = [(method, token) for method, path, token in hub.requests if re.fullmatch("/[0-9a-f]{64}", path)]
    assert stored == [("PUT", None), ("GET", None)]


# --- which files ----------------------------------------------------------------------------------------------------


def test_the_weights_are_fetched_once_where_a_repository_holds_them_twice(hub, published):
    extra = {"pytorch_model.bin": b"pickle", "tf_model.h5": b"h5", "old/model.safetensors": b"old", "mae.pth": b"pth"}
    hub.add("org/name", published | extra | {"preprocessor_config.json": b"{}"})
    folder = resolve_model("org/name")
    assert sorted(p.name for p in folder.rglob("*")) == sorted([*published, "preprocessor_config.json"])


@pytest.mark.parametrize("name", ["pytorch_model.bin", "mae_visualize_vit_base.pth", "mae.safetensors"])
def test_other_weights_are_fetched_where_there_is_no_model_safetensors(hub, published, name):
    others = {"notes.txt": b"", "epoch1/mae.pth": b"x", "epoch1/mae.safetensors": b"x"}
    hub.add("org/name", {"config.json": b"{}", name: published[WEIGHTS]} | others)
    assert sorted(p.name for p in resolve_model("org/name").iterdir()) == sorted(["config.json", name])


@pytest.mark.parametrize("name", ["mae[v1].pth", "mae*?.pth"])
def test_a_name_that_would_be_a_pattern_is_a_name(hub, published, name):
    hub.add("org/name", {name: published[WEIGHTS], "README.md": b""})
    folder = resolve_model("org/name")
    assert contents(folder) == {name: published[WEIGHTS], "README.md": b""}
    assert resolve_model("org/name", local_files_only=True) == folder


def test_one_kind_of_weights_is_fetched(hub, published):
    hub.add("org/name", {"config.json": b"{}", "pytorch_model.bin": b"x", "mae.pth": b"x", "odd.safetensors": b"x"})
    assert sorted(p.name for p in resolve_model("org/name").iterdir()) == ["config.json", "pytorch_model.bin"]


def test_several_checkpoints_are_refused_before_they_are_fetched(hub, tmp_path):
    files = {"mae_vit_base.pth": b"x" * 99, "mae_vit_large.pth": b"y" * 99, "epoch1/mae.pth": b"z"}
    hub.add("org/name", files | {"README.md": b""})
    message = refused(resolve_model, "org/name")
    assert "2 files of weights (mae_vit_base.pth, mae_vit_large.pth)" in message
    assert "hf download org/name FILE" in message
    assert hub.asked(r"^GET /[0-9a-f]{64}$|resolve.*pth") == []
    for name in ("mae_vit_base.pth", "mae_vit_large.pth"):
        (tmp_path / name).write_bytes(b"")
    assert "2 files of weights" in refused(load_autoencoder, tmp_path)


def test_a_checkpoint_beside_a_config_is_loaded(hub, published, tiny_model, tmp_path):
    """A config of ours counts; one that is of no model that is known says nothing of the weights."""
    model, heads = tiny_model(), {"num_heads": 2, "decoder_num_heads": 2}
    torch.save({"model": model.state_dict()}, tmp_path / "mae.pth")
    checkpoint = (tmp_path / "mae.pth").read_bytes()
    hub.add("org/meta", {"config.json": b'{"timm": "no"}', "mae.pth": checkpoint})
    hub.add("org/ours", {"config.json": published["config.json"], "odd.safetensors": published[WEIGHTS]})
    for name, settings in (("org/meta", heads), ("org/ours", {})):
        again = load_autoencoder(resolve_model(name), **settings).state_dict()
        assert all(torch.allclose(value, again[key], atol=1e-3) for key, value in model.state_dict().items())


@pytest.mark.parametrize("files", [{"data.csv": b"1"}, {"config.json": b"{}"}])
def test_a_repository_without_a_model_says_so(hub, files):
    hub.add("org/name", files)
    assert "holds no model" in refused(resolve_model, "org/name")


# --- the cache, and no network ------------------------------------------------------------------------------------


def test_the_second_pull_downloads_nothing(hub, published):
    first = resolve_model("org/name")
    hub.requests.clear()
    assert resolve_model("org/name") == first
    assert hub.asked(r"^GET /org/name/resolve|^GET /[0-9a-f]{64}$|^HEAD") == []


def test_offline_the_cache_serves(hub, published, monkeypatch):
    folder = resolve_model("org/name")
    hub.requests.clear()
    assert resolve_model("org/name", local_files_only=True) == folder
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert resolve_model("org/name") == resolve_model(f"org/name@{folder.name}") == folder
    assert hub.requests == []


@pytest.mark.parametrize("name", ["org/name", "org/name@v2", "org/name@" + "0" * 40])
def test_offline_what_is_not_in_the_cache_is_named(hub, published, monkeypatch, name):
    if "@" in name:
        resolve_model("org/name")
    message = refused(resolve_model, name, local_files_only=True)
    assert message.startswith(f"{name}: not in the cache")
    assert "local_files_only" in message
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refused(resolve_model, name)
    assert "HF_HUB_OFFLINE" in message
    assert f"maerestore pull {name}" in message


def nobody():
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_a_hub_that_cannot_be_reached_is_named_and_the_cache_serves(hub, published, monkeypatch):
    folder = resolve_model("org/name")
    address = nobody()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    with pytest.warns(MaerestoreWarning, match=f"commit {folder.name[:12]} from the cache is taken"):
        assert resolve_model("org/name") == folder
    assert "cannot be reached: check the network" in refused(fetch_repository, "org/name", newest=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a commit never changes
        assert resolve_model(f"org/name@{folder.name}") == folder
    message = refused(resolve_model, "org/other")
    assert f"{address} cannot be reached" in message
    assert "not in the cache" in message


@pytest.mark.parametrize("status", [None, 401, 403, 404, 503])
def test_a_commit_whose_list_was_not_kept_is_found_in_the_cache(hub, published, monkeypatch, status):
    """The client's releases below 2 keep none."""
    folder = resolve_model("org/name")
    shutil.rmtree(folder.parents[1] / "trees")
    if status is None:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", nobody())
    else:
        hub.fail(".", status, times=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fetch_repository("org/name", folder.name, newest=True) == folder
    words = "cannot be reached" if status is None else str(status)
    assert words in refused(fetch_repository, "org/name", "0" * 40)


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_an_older_commit_does_not_stand_for_what_the_hub_refuses(hub, published, model_folder, status):
    old = resolve_model("org/name")
    hub.add("org/name", contents(model_folder("new", seed=1)))
    hub.fail(".", status, times=1000)
    assert str(status) in refused(resolve_model, "org/name")
    assert resolve_model(f"org/name@{old.name}") == old  # known and complete: nothing is asked


def test_the_cache_knows_branches_and_tags_when_offline(hub, published):
    first = resolve_model("org/name")
    hub.add("org/name", published, ref="refs/pr/1")
    proposed = resolve_model("org/name@refs/pr/1")
    hub.add("org/name", published | {"README.md": b"new"})
    second = resolve_model("org/name")
    assert len({first, proposed, second}) == 3
    for name, folder in (("org/name", second), ("org/name@refs/pr/1", proposed), (f"org/name@{first.name}", first)):
        assert resolve_model(name, local_files_only=True) == folder


def test_what_else_of_a_commit_is_in_the_cache_does_not_matter(hub, published, monkeypatch):
    """Other programs fetch single files: which weights are the model's, the list of the commit says."""
    from huggingface_hub import hf_hub_download

    hub.add("org/two", {"a.pth": b"x", "b.pth": b"y"})
    hub.add("org/bin", {"config.json": b"{}", "pytorch_model.bin": published[WEIGHTS], "extra.safetensors": b"x"})
    hf_hub_download("org/two", "b.pth")
    hf_hub_download("org/bin", "extra.safetensors")
    assert "2 files of weights" in refused(resolve_model, "org/two")
    folder = resolve_model("org/bin")
    assert locate(folder)[1].name == "pytorch_model.bin"
    assert [path.name for path in model_files(folder)] == ["config.json", "pytorch_model.bin"]
    (folder / "pytorch_model.bin").unlink()
    assert "only a part is in the cache" in refused(resolve_model, "org/bin", local_files_only=True)


def test_a_config_alone_in_the_cache_is_no_model_that_holds_none(hub, published, monkeypatch):
    """Other programs fetch that, and keep no list."""
    from huggingface_hub import hf_hub_download

    folder = Path(hf_hub_download("org/name", "config.json")).parent
    assert not (folder.parents[1] / "trees").exists()
    for name in ("org/name", f"org/name@{folder.name}"):
        message = refused(resolve_model, name, local_files_only=True)
        assert message.startswith(f"{name}: not in the cache, and the network is switched off (local_files_only)")
    address = nobody()
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.ENDPOINT", address)
        for name in ("org/name", f"org/name@{folder.name}"):
            message = refused(resolve_model, name)
            assert f"{address} cannot be reached" in message
            assert "not in the cache, or only a part" in message
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(resolve_model, "org/name")


@pytest.mark.parametrize("name", ["mae.pt", "mae.bin"])
def test_weights_of_any_name_are_fetched_where_there_are_no_others(hub, published, name):
    hub.add("org/name", {name: published[WEIGHTS], "README.md": b""})
    assert locate(resolve_model("org/name")) == (None, resolve_model("org/name") / name)
    hub.add("org/name", {name: published[WEIGHTS], "mae.pth": published[WEIGHTS]})
    assert locate(resolve_model("org/name"))[1].name == "mae.pth"


def test_sending_offline_is_refused(hub, model_folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused(push_folder, model_folder(), "org/name")


# --- what the Hub refuses -------------------------------------------------------------------------------------------


def test_a_wrong_token_is_told_apart(hub, published, model_folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "wrong")
    for call, arguments in ((resolve_model, ("org/name",)), (push_folder, (model_folder(), "org/name"))):
        message = refused(call, *arguments)
        assert "refuses the token (401)" in message
        assert "hf auth login" in message
    assert hub.asked("PUT|preupload|commit|batch|resolve") == []


def test_without_a_token_nothing_is_asked_of_the_hub(hub, model_folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    for settings in ({}, {"token": False}, {"create_pr": True}):
        assert "needs a token" in refused(push_folder, model_folder(), "org/name", **settings)
    assert hub.requests == []


@pytest.mark.parametrize(("repository", "token"), [("org/name", "read"), ("stranger/name", "write")])
def test_a_token_that_may_not_write_sends_nothing(hub, model_folder, repository, token):
    message = refused(push_folder, model_folder(), repository, token=token)
    assert "403" in message
    assert f"write to {repository.partition('/')[0]}" in message
    assert hub.asked("PUT|preupload|commit|batch") == []


def test_a_line_break_after_a_token_does_not_matter(hub, model_folder):
    push_folder(model_folder(), "org/name", private=True, token="write\n")
    assert load_autoencoder(resolve_model("org/name", token=" write\r\n"))


@pytest.mark.parametrize("token", ["hf_SECRET 123", "hf_SECRET\n123", "hf_SECRET\u00e9", "", "\n"])
def test_what_is_no_token_is_refused_without_being_shown(hub, published, model_folder, monkeypatch, token):
    for call, arguments in ((resolve_model, ("org/name",)), (push_folder, (model_folder(), "org/new"))):
        message = refused(call, *arguments, token=token)
        assert "no token has" in message
        assert "SECRET" not in message
    assert hub.requests == []


@pytest.mark.parametrize("kind", ["LocalProtocolError", "InvalidHeader", "UnicodeEncodeError"])
def test_a_header_that_cannot_be_sent_is_no_broken_download_and_shows_no_token(monkeypatch, kind):
    """Of httpx's, a ProtocolError too; both libraries put the header into the text of their error."""
    base = type("ProtocolError", (Exception,), {})
    error = type(kind, (base,), {})("Illegal header value b'Bearer hf_SECRET123\\n'")
    calls = []

    def action():
        calls.append(1)
        raise error

    with pytest.raises(ModelError) as caught:
        ask_hub(action, "org/name")
    assert len(calls) == 1
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))
    assert "token" in str(caught.value)
    assert "cut short" not in str(caught.value)


def test_no_message_shows_a_token():
    for text in ("sent 'Bearer abc SECRET'", "with hf_SECRET in it"):
        assert "SECRET" not in explain(OSError(text), "org/name")


def test_a_private_repository_is_for_those_who_may_read_it(hub, model_folder, monkeypatch):
    push_folder(model_folder(), "org/name", private=True)
    assert load_autoencoder(resolve_model("org/name", token="write"))
    monkeypatch.delenv("HF_TOKEN")
    message = refused(resolve_model, "org/name", cache_dir="elsewhere")
    assert "private" in message
    assert "HF_TOKEN" in message


def test_private_is_refused_for_a_repository_that_is_public(hub, published, model_folder):
    assert "public" in refused(push_folder, model_folder("other", seed=1), "org/name", private=True)
    assert hub.asked("PUT|preupload|commit|batch") == []


def test_a_gated_repository_says_where_to_ask(hub, published):
    hub.repositories["org/name"].gated = True
    message = refused(resolve_model, "org/name", token="read")
    assert f"{hub.endpoint}/org/name" in message
    assert "asked for" in message


def test_what_is_not_there_is_told_apart(hub, published, model_folder):
    assert "no such repository" in refused(resolve_model, "org/absent")
    assert "no revision 'v9'" in refused(resolve_model, "org/name@v9")
    assert "no such repository" in refused(push_folder, model_folder(), "org/absent", create_pr=True)
    assert "asks for two revisions" in refused(resolve_model, "org/name@v9", revision="v8")


@pytest.mark.parametrize("name", ["name", "org/name@v1", "a/b/c", "", "org/na me"])
def test_a_name_that_cannot_be_sent_to(hub, model_folder, name):
    assert "give org/name" in refused(push_folder, model_folder(), name)
    assert hub.requests == []


def test_a_name_that_no_model_can_be_loaded_by_is_refused(hub, model_folder):
    assert "leave out the suffix" in refused(push_folder, model_folder(), "org/thing.head")
    assert hub.requests == []


def test_what_is_left_of_another_model_is_not_sent_and_a_card_keeps_its_licence(hub, model_folder):
    folder = model_folder()
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0, 0, 0]}')
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    with pytest.warns(MaerestoreWarning, match="sent as it is"):
        push_folder(folder, "org/name", license="cc0-1.0")
    repository = hub.repositories["org/name"]
    files = repository.commits[repository.refs["main"]]
    assert set(files) == {".gitattributes", "config.json", WEIGHTS, "README.md"}
    assert b"license: mit" in files["README.md"].data


@pytest.mark.parametrize(("status", "words"), [(429, "too many requests"), (413, "takes no more"), (403, "403")])
def test_other_refusals_of_a_commit_are_told_with_the_reason(hub, model_folder, status, words):
    hub.fail("POST .*/commit/", status)
    message = refused(push_folder, model_folder(), "org/name")
    assert words in message
    assert "injected" in message


# --- what goes wrong on the way -------------------------------------------------------------------------------------

DOWNLOAD = [r"^GET /api/models/org/name", r"/tree/", r"^HEAD .*safetensors", r"^GET /[0-9a-f]{64}$", r"^GET .*config"]
UPLOAD = [r"/repos/create", r"validate-yaml", r"/preupload/", r"/objects/batch", r"^PUT", r"/lfs/verify", r"/commit/"]


@pytest.mark.parametrize("request_", DOWNLOAD)
def test_a_download_goes_on_after_server_errors(hub, published, request_):
    hub.fail(request_, 503, times=2)
    assert (resolve_model("org/name") / WEIGHTS).read_bytes() == published[WEIGHTS]
    assert len(hub.asked(request_)) >= 3


@pytest.mark.parametrize("request_", UPLOAD)
def test_an_upload_goes_on_after_server_errors(hub, model_folder, request_):
    folder = model_folder()
    hub.fail(request_, 500, times=2)
    push_folder(folder, "org/name")
    assert len(hub.asked(request_)) >= 3
    repository = hub.repositories["org/name"]
    assert repository.commits[repository.refs["main"]][WEIGHTS].data == (folder / WEIGHTS).read_bytes()


def test_a_pull_request_is_opened_once(hub, published, model_folder):
    hub.fail("/commit/", 500, times=1)
    assert "error 500" in refused(push_folder, model_folder("other", seed=1), "org/name", create_pr=True)
    assert len(hub.asked("/commit/")) == 1


def test_a_hub_that_keeps_failing_is_given_up(hub, published, model_folder):
    hub.fail(".", 502, times=1000)
    for call, arguments in ((resolve_model, ("org/name",)), (push_folder, (model_folder(), "org/name"))):
        assert "error 502" in refused(call, *arguments)


def test_a_connection_that_breaks_once_is_made_again(hub, published):
    hub.fail(r"^GET /[0-9a-f]{64}$", "cut")
    assert (resolve_model("org/name") / WEIGHTS).read_bytes() == published[WEIGHTS]


@pytest.mark.parametrize("kind", ["cut", "short"])
@pytest.mark.parametrize("file", [r"^GET /[0-9a-f]{64}$", r"^GET .*/config.json"])
def test_a_truncated_download_is_not_kept(hub, published, tmp_path, kind, file):
    hub.fail(file, kind, times=1000)
    assert "cut short" in refused(resolve_model, "org/name")
    with pytest.raises(ModelError):  # nor is what came taken for the file later
        load_autoencoder(resolve_model("org/name", local_files_only=True))
    if "config" not in file:
        assert unfinished(tmp_path / "home") == []
    hub.faults.clear()
    assert contents(resolve_model("org/name")) == published


@pytest.mark.parametrize("file", [r"^GET /[0-9a-f]{64}$", r"^GET .*/config.json"])
def test_a_changed_byte_is_detected_and_not_kept(hub, published, file):
    hub.fail(file, "flipped")
    message = refused(resolve_model, "org/name")
    assert "checksum" in message
    with pytest.raises(ModelError):
        load_autoencoder(resolve_model("org/name", local_files_only=True))
    assert contents(resolve_model("org/name")) == published


def test_a_cache_without_links_is_checked_too(hub, published, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_SYMLINKS", True, raising=False)
    monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda *_: False)
    folder = resolve_model("org/name")
    assert not (folder / WEIGHTS).is_symlink()
    (folder / WEIGHTS).write_bytes(published[WEIGHTS][:-1] + b"?")
    assert "checksum" in refused(resolve_model, "org/name")
    assert contents(resolve_model("org/name")) == published


# --- models that are not sent -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["weights", "config", "nan", "no weights", "no config", "no folder"])
def test_a_broken_model_is_refused_before_the_hub_is_asked(hub, model_folder, harm):
    folder = model_folder()
    if harm == "weights":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-40])
    elif harm == "config":
        (folder / "config.json").write_text("{}")
    elif harm == "nan":
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / WEIGHTS)
        weights["autoencoder.cls_token"].fill_(float("nan"))
        save_file(weights, folder / WEIGHTS)
    elif harm == "no folder":
        folder = folder / "absent"
    else:
        (folder / (WEIGHTS if harm == "no weights" else "config.json")).unlink()
    assert str(folder) in refused(push_folder, folder, "org/name")
    assert hub.requests == []


def test_a_card_whose_front_matter_is_no_yaml_is_refused_with_the_reason(hub, model_folder):
    folder = model_folder()
    (folder / "README.md").write_text("---\ntags: [x\n---\n")
    message = refused(push_folder, folder, "org/name")
    assert "README.md" in message
    assert "expected ',' or ']'" in message
    assert hub.asked("PUT|/commit/") == []


# --- the environment --------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from maerestore.hub.fetch import resolve_model
from maerestore.hub.errors import ModelError
try:
    print(resolve_model("org/name"))
except ModelError as err:
    print("ModelError", err)
assert "torch" not in sys.modules
"""


def test_the_variables_of_the_client_are_respected(hub, published, tmp_path):
    hub.repositories["org/name"].private = True

    def python(**variables):
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        environment |= {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "other"), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False,
                              env=environment | {"HF_ENDPOINT": hub.endpoint} | variables)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert "not in the cache" in python(HF_HUB_OFFLINE="1")
    assert "no such repository, or a private one" in python()
    folder = python(HF_TOKEN="read")
    assert folder.startswith(str(tmp_path / "other" / "hub"))
    assert python(HF_HUB_OFFLINE="1") == folder
