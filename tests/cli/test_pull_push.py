"""`maerestore pull` and `maerestore push` against a Hub on the loopback interface."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maerestore.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
FILES = ["README.md", "config.json", "model.safetensors"]


@pytest.fixture
def published(hub, model_folder, capsys):
    """org/name holds the tiny model; returns the commit."""
    assert main(["push", str(model_folder), "org/name", "--quiet"]) == 0
    hub.requests.clear()
    return capsys.readouterr().out.strip().rpartition("/")[2]


def one_line(capsys):
    """What a refused command wrote: one line on stderr."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("\n")
    assert captured.err.count("\n") == 1
    return captured.err


def test_pull_prints_the_folder_and_what_it_holds(hub, published, model_folder, capsys):
    assert main(["pull", "org/name"]) == 0
    captured = capsys.readouterr()
    folder = Path(captured.out.strip())
    assert sorted(p.name for p in folder.iterdir()) == FILES
    assert (folder / "model.safetensors").read_bytes() == (model_folder / "model.safetensors").read_bytes()
    assert captured.err.startswith(f"org/name@main: commit {published}, 0.1 MB, 0.0 M parameters")
    assert captured.err.count("\n") == 1


def test_pull_quiet_prints_the_folder_only(hub, published, capsys):
    assert main(["pull", f"org/name@{published}", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert Path(captured.out.strip()).name == published


def test_pull_json(hub, published, tmp_path, capsys):
    assert main(["pull", "org/name", "--json", "--cache-dir", str(tmp_path / "cache")]) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert captured.err == ""
    assert Path(facts["folder"]).is_relative_to(tmp_path / "cache")
    assert sorted(facts["files"]) == FILES
    assert (
        facts["bytes"] == sum(facts["files"].values()) == sum(p.stat().st_size for p in Path(facts["folder"]).iterdir())
    )
    assert (facts["repository"], facts["revision"], facts["commit"]) == ("org/name", "main", published)
    assert facts["decoder"] is True


def test_pull_to_a_folder_makes_plain_files_there_that_load(hub, published, tmp_path, model_folder, capsys):
    from maerestore.hub.load import load_autoencoder

    there = tmp_path / "models/name"
    for _ in range(2):  # the same files again are no conflict
        assert main(["pull", "org/name", "--to", str(there)]) == 0
        assert capsys.readouterr().out.strip() == str(there)
    assert sorted(p.name for p in there.iterdir()) == FILES
    assert not any(p.is_symlink() for p in there.iterdir())
    load_autoencoder(there)
    (there / "config.json").write_text("mine")
    assert main(["pull", "org/name", "--to", str(there)]) == 2
    assert "--overwrite" in one_line(capsys)
    assert (there / "config.json").read_text() == "mine"
    assert main(["pull", "org/name", "--to", str(there), "--overwrite"]) == 0
    assert (there / "config.json").read_bytes() == (model_folder / "config.json").read_bytes()


@pytest.mark.parametrize(
    "name", ["refiner.safetensors", "preprocessor_config.json", "head.safetensors", "whitening.safetensors"]
)
def test_no_file_of_another_model_stays_beside_it(hub, published, tmp_path, capsys, name):
    there = tmp_path / "there"
    there.mkdir()
    (there / name).write_text("of another model")
    (there / "notes.txt").write_text("mine")
    for options in ([], ["--overwrite"]):
        assert main(["pull", "org/name", "--to", str(there), *options]) == 2
        assert f"{name}: is of another model" in one_line(capsys)
        assert len(list(there.iterdir())) == 2
    (there / name).unlink()
    assert main(["pull", "org/name", "--to", str(there)]) == 0
    assert sorted(p.name for p in there.iterdir()) == sorted([*FILES, "notes.txt"])


def test_files_that_are_never_taken_for_the_models_may_lie_beside_it(hub, published, tmp_path):
    from maerestore.hub.config import locate

    there, others = tmp_path / "there", ["dataset.bin", "epoch.pt", "mae.pth", "odd.safetensors", "pytorch_model.bin"]
    there.mkdir()
    for name in others:
        (there / name).write_text("mine")
    assert main(["pull", "org/name", "--to", str(there)]) == 0
    assert locate(there) == (there / "config.json", there / "model.safetensors")
    assert sorted(p.name for p in there.iterdir()) == sorted([*FILES, *others])


def test_weights_of_a_name_of_their_own_are_not_mistaken_for_others(hub, tiny_model, tmp_path, capsys):
    """Nor do they get the config of others."""
    torch.save({"model": tiny_model(embed_dim=192, num_heads=3, decoder_depth=0).state_dict()}, tmp_path / "mae.pth")
    hub.add("org/meta", {"mae.pth": (tmp_path / "mae.pth").read_bytes()})
    there = tmp_path / "there"
    there.mkdir()
    for name in ("config.json", "model.safetensors", "pytorch_model.bin", "other.pth"):
        (there / name).write_text("{}")
        assert main(["pull", "org/meta", "--to", str(there)]) == 2
        assert f"{name}: is of another model" in one_line(capsys)
        (there / name).unlink()
    for name in ("checkpoint.pt", "dataset.bin"):
        (there / name).write_text("mine")
    (there / "model").mkdir()  # a run, of which that model would be loaded
    assert main(["pull", "org/meta", "--to", str(there)]) == 2
    assert "checkpoint.pt: is of another model" in one_line(capsys)
    (there / "model").rmdir()
    assert main(["pull", "org/meta", "--to", str(there)]) == 0
    assert sorted(p.name for p in there.iterdir()) == ["checkpoint.pt", "dataset.bin", "mae.pth"]


def test_an_empty_name_of_a_folder_is_refused(hub, published, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["pull", "org/name", "--to", ""])
    assert "empty" in one_line(capsys)


def test_no_verb_draws_progress_where_there_is_no_terminal(hub, published, tmp_path, capsys):
    from huggingface_hub.utils import enable_progress_bars

    enable_progress_bars()
    assert main(["export", "org/name", str(tmp_path / "out"), "--format", "maerestore"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the client, which Python hides outside tests
def test_what_the_hub_warns_of_a_card_is_one_line(hub, model_folder, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).write_bytes((model_folder / name).read_bytes())
    (tmp_path / "model/README.md").write_text("# No front matter\n")
    assert main(["push", str(tmp_path / "model"), "org/name"]) == 0
    err = capsys.readouterr().err
    assert err.startswith("maerestore push: warning: ")
    assert "empty or missing yaml metadata" in err
    assert err.count("\n") == 1
    assert main(["push", str(tmp_path / "model"), "org/other", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_pull_to_something_that_is_no_folder(hub, published, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["pull", "org/name", "--to", str(tmp_path / "file")]) == 2
    assert "cannot be written" in one_line(capsys)


def test_pull_refuses_a_model_that_does_not_load(hub, published, tmp_path, capsys):
    files = hub.repositories["org/name"].commits[published]
    hub.add("org/broken", {"config.json": files["config.json"].data, "model.safetensors": b"no tensors"})
    assert main(["pull", "org/broken", "--to", str(tmp_path / "there")]) == 2
    assert "safetensors" in one_line(capsys)
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ({"training": "20k photographs"}, "training must be a mapping"),
        ({"fill": {"size": 33}}, "fill settings"),
        ({"fill": {"curve": {"distance": [0, 1], "share": [0]}}}, "fill settings"),
        ({"refiner": "large"}, "refiner"),
    ],
)
def test_what_cannot_fill_is_neither_sent_nor_approved(hub, published, model_folder, tmp_path, capsys, harm, words):
    files = {name: (model_folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    files["config.json"] = json.dumps(json.loads(files["config.json"]) | harm).encode()
    hub.add("org/broken", files)
    (tmp_path / "model").mkdir()
    for name, data in (files | {"README.md": b"---\nlicense: mit\n---\n"}).items():
        (tmp_path / "model" / name).write_bytes(data)
    for arguments in (["pull", "org/broken"], ["push", str(tmp_path / "model"), "org/new"]):
        assert main(arguments) == 2
        assert words in one_line(capsys)
    assert "org/new" not in hub.repositories


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("org/absent", "no such repository"),
        ("org/name@v9", "no revision 'v9'"),
        ("default", "org/name[@revision]"),
        ("org/name@", "org/name[@revision]"),
        ("a--b/name", "no name of a repository"),
    ],
)
def test_pull_of_what_is_not_there(hub, published, capsys, name, words):
    assert main(["pull", name]) == 2
    message = one_line(capsys)
    assert message.startswith("maerestore pull: ")
    assert words in message


@pytest.mark.parametrize(("kind", "words"), [("cut", "cut short"), ("flipped", "checksum"), (503, "error 503")])
def test_pull_of_a_damaged_download(hub, published, tmp_path, capsys, kind, words):
    hub.fail("GET /[0-9a-f]{64}", kind, times=100)
    assert main(["pull", "org/name", "--to", str(tmp_path / "there")]) == 2
    assert words in one_line(capsys)
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("status", [403, 503])
def test_pull_says_so_where_the_newest_commit_cannot_be_had(hub, published, capsys, monkeypatch, status):
    assert main(["pull", "org/name", "--quiet"]) == 0
    hub.fail(".", status, times=1000)
    capsys.readouterr()
    assert main(["pull", "org/name"]) == 2
    assert str(status) in one_line(capsys)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert main(["pull", "org/name"]) == 2
    assert "cannot be reached" in one_line(capsys)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # then the cache is what is asked for
    assert main(["pull", "org/name"]) == 0


def test_a_folder_of_the_repositorys_name_does_not_stand_for_it(hub, published, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org/name").mkdir(parents=True)
    assert main(["pull", "org/name", "--quiet"]) == 0
    assert Path(capsys.readouterr().out.strip()).name == published


def test_push_prints_the_address_and_passes_its_options_on(hub, model_folder, capsys):
    assert main(["push", str(model_folder), "org/new", "--private", "--message", "Hello", "--license", "mit"]) == 0
    repository = hub.repositories["org/new"]
    commit = repository.refs["main"]
    assert capsys.readouterr().out == f"{hub.endpoint}/org/new/commit/{commit}\n"
    assert repository.private
    assert repository.messages[commit] == "Hello"
    assert b"license: mit" in repository.commits[commit]["README.md"].data


def test_push_to_a_pull_request_and_to_a_branch(hub, published, model_folder, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).write_bytes((model_folder / name).read_bytes())
    (tmp_path / "model/README.md").write_text("---\nlicense: mit\n---\nNew\n")
    assert main(["push", str(tmp_path / "model"), "org/name", "--create-pr"]) == 0
    assert capsys.readouterr().out == f"{hub.endpoint}/org/name/discussions/1\n"
    assert main(["push", str(tmp_path / "model"), "org/name", "--revision", "v2"]) == 0
    refs = hub.repositories["org/name"].refs
    assert refs["main"] == published
    for ref in ("refs/pr/1", "v2"):
        assert hub.repositories["org/name"].commits[refs[ref]]["README.md"].data.endswith(b"New\n")


@pytest.mark.parametrize(
    ("arguments", "token", "words"),
    [
        (["org/name"], "wrong", "401"),
        (["org/name"], "read", "403"),
        (["org/name"], None, "needs a token"),
        (["name"], "write", "give org/name"),
        (["org/name", "--create-pr", "--revision", "v2"], "write", "main branch"),
    ],
)
def test_push_refused(hub, model_folder, monkeypatch, capsys, arguments, token, words):
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    assert main(["push", str(model_folder), *arguments]) == 2
    message = one_line(capsys)
    assert message.startswith("maerestore push: ")
    assert words in message
    assert hub.asked("PUT|commit") == []


def test_push_of_a_broken_model_asks_nothing_of_the_hub(hub, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert main(["push", str(tmp_path), "org/name"]) == 2
    assert str(tmp_path) in one_line(capsys)
    assert hub.requests == []


def test_as_a_person_runs_it(hub, published, tmp_path):
    """The command itself, set up by nothing but the variables that the client's users know."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "other"), "HF_HUB_DISABLE_XET": "1"}

    def pull(token):
        return subprocess.run(
            [sys.executable, "-m", "maerestore", "pull", "org/name"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=environment | {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": token},
        )

    done = pull("wrong")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("maerestore pull: org/name: the Hub refuses the token (401)")
    assert done.stderr.count("\n") == 1
    done = pull("read")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert Path(done.stdout.strip()) == tmp_path / "other/hub/models--org--name/snapshots" / published
