"""The commands of TRAINING.md and of the script for half an hour of a GPU fit the code; what they carry comes back."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from maerestore.cli.main import build_parser
from maerestore.train.pretrain_recipe import PretrainRecipe
from maerestore.train.recipe_file import load_recipe
from maerestore.train.restorer_recipe import RestorerRecipe

ROOT = Path(__file__).resolve().parents[2]
STUB = """#!{python}
import json, sys
from pathlib import Path

if sys.argv[1] == "-m":
    with open({told!r}, "a") as sink:
        sink.write(json.dumps(sys.argv[3:]) + "\\n")
    out = Path(sys.argv[sys.argv.index("-o") + 1])
    if out.name == {fails!r}:
        sys.exit("no luck")
    (out / "model").mkdir(parents=True)
    for name in ("model", "refiner"):
        (out / f"model/{{name}}.safetensors").write_bytes(bytes(range(256)) * 2**17)
    for name in ("model/config.json", "log.jsonl", "fills-000000001.jpg", "fills-000000002.jpg"):
        (out / name).write_text(name)
"""


def recipe_of(arguments: list[str]) -> PretrainRecipe | RestorerRecipe:
    args = build_parser().parse_args(arguments)
    kind = RestorerRecipe if args.verb == "train-restorer" else PretrainRecipe
    return load_recipe(ROOT / args.recipe, args.set, kind)


def commands() -> list[str]:
    """Of TRAINING.md, in one line each."""
    lines = (ROOT / "scripts/TRAINING.md").read_text().replace("\\\n", " ").splitlines()
    found = (re.fullmatch(r"    +.*?\bmaerestore ((?:pretrain|train-restorer) .*)", line) for line in lines)
    return [match.group(1) for match in found if match]


def test_the_commands_are_found() -> None:
    assert len(commands()) > 15


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_plan_fits_the_code(command: str) -> None:
    recipe_of(shlex.split(command, comments=True))


@pytest.mark.parametrize("fails", ["", "4h"])
def test_the_runs_of_half_an_hour_fit_the_code_and_leave_what_can_be_fetched(tmp_path: Path, fails: str) -> None:
    stub = tmp_path / "python"
    stub.write_text(STUB.format(python=sys.executable, told=str(tmp_path / "told"), fails=fails))
    stub.chmod(0o755)
    environment = os.environ | {"PYTHON": str(stub), "RUNS": str(tmp_path / "runs")}
    command = ["bash", "scripts/gpu_runs.sh", "packed", "files", str(tmp_path / "out"), "--set", "seed=3"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
    recipes = [recipe_of(arguments) for arguments in told]
    assert [recipe.seed for recipe in recipes] == [3, 3]
    assert all("torchvision" not in json.dumps(recipe.to_dict()) for recipe in recipes)  # it would download
    assert all(recipe.samples % recipe.batch_size == 0 for recipe in recipes)
    assert told[0][told[0].index("--model") + 1] == "files/start"
    for stage, weights in (("4h", "refiner"), ("5f", "model")):
        folder = tmp_path / "out" / stage
        assert (folder / "done").exists() == (stage != fails)
        if stage == fails:
            assert {path.name for path in folder.iterdir()} == {"run.log", "failed"}
            continue
        parts = sorted(folder.glob(f"{weights}.part-*"))
        assert all(part.stat().st_size < 15 * 2**20 for part in parts)
        assert b"".join(part.read_bytes() for part in parts) == bytes(range(256)) * 2**17
        others = {"config.json", "log.jsonl", "run.log", "fills-000000002.jpg", "done"}
        assert {path.name for path in folder.iterdir()} == others | {part.name for part in parts}


def run_script(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts/carry_tars.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_tars_come_back_from_the_loads_they_were_split_into(tmp_path: Path) -> None:
    contents = {f"{tar}.tar": {f"{tar}{i}.jpg": os.urandom(300_000) for i in range(4)} for tar in "ab"}
    (tmp_path / "x").write_bytes(b"")
    for tar, files in contents.items():
        with tarfile.open(tmp_path / tar, "w") as target:
            target.add(tmp_path / "x", "notes.txt")
            for name, data in files.items():
                (tmp_path / "x").write_bytes(data)
                target.add(tmp_path / "x", name)
    done = run_script("split", tmp_path / "a.tar", tmp_path / "b.tar", "-o", tmp_path / "load", "--mib", 1)
    assert done.returncode == 0, done.stderr
    loads = sorted(tmp_path.glob("load*"))
    assert len(loads) == 3
    assert all((load / "blob").stat().st_size <= 2**20 for load in loads)
    for load in loads:
        assert run_script("join", load, "-o", tmp_path / "out").returncode == 0
    for tar, files in contents.items():
        with tarfile.open(tmp_path / "out" / tar) as made:
            assert {member.name: made.extractfile(member).read() for member in made} == files
    again = run_script("join", loads[0], "-o", tmp_path / "out")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "holds a0.jpg already" in again.stderr
    with tarfile.open(tmp_path / "out/a.tar") as made:
        assert len(made.getnames()) == 4
    (tmp_path / "out/a.tar").write_bytes(b"no tar" * 1000)
    broken = run_script("join", loads[0], "-o", tmp_path / "out")
    assert (broken.returncode, broken.stderr.count("\n")) == (2, 1)


def test_a_load_that_came_cut_off_changes_no_tar(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(os.urandom(5000))
    with tarfile.open(tmp_path / "a.tar", "w") as target:
        target.add(tmp_path / "x", "a.jpg")
    assert run_script("split", tmp_path / "a.tar", "-o", tmp_path / "load").returncode == 0
    blob = tmp_path / "load0/blob"
    blob.write_bytes(blob.read_bytes()[:-1])
    cut = run_script("join", tmp_path / "load0", "-o", tmp_path / "out")
    assert (cut.returncode, cut.stderr.count("\n")) == (2, 1)
    assert "carry it again" in cut.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_images_get_their_own_bytes_in_whatever_order_tars_are_listed(tmp_path: Path) -> None:
    (tmp_path / "load").mkdir()
    (tmp_path / "load/blob").write_bytes(b"AABBCC")
    index = [["x.tar", "a.jpg", 2], ["y.tar", "b.jpg", 2], ["x.tar", "c.jpg", 2]]
    (tmp_path / "load/index.json.gz").write_bytes(gzip.compress(json.dumps(index).encode()))
    assert run_script("join", tmp_path / "load", "-o", tmp_path / "out").returncode == 0
    for tar, files in (("x.tar", {"a.jpg": b"AA", "c.jpg": b"CC"}), ("y.tar", {"b.jpg": b"BB"})):
        with tarfile.open(tmp_path / "out" / tar) as made:
            assert {member.name: made.extractfile(member).read() for member in made} == files


def test_two_tars_or_images_of_one_name_are_not_carried(tmp_path: Path) -> None:
    for folder, names in (("a", ["1.jpg"]), ("b", ["1.jpg"]), ("c", ["2.jpg", "2.jpg"])):
        (tmp_path / folder).mkdir()
        with tarfile.open(tmp_path / folder / "x.tar", "w") as tar:
            for name in names:
                tar.addfile(tarfile.TarInfo(name))
    for folders, said in (("ab", "two of the tars are called x.tar"), ("c", "holds two images called 2.jpg")):
        done = run_script("split", *(tmp_path / folder / "x.tar" for folder in folders), "-o", tmp_path / "load")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert said in done.stderr
    assert not list(tmp_path.glob("load*"))


@pytest.mark.parametrize("arguments", [("split", "{0}/none.tar"), ("split", "{0}/text.tar"), ("join", "{0}/none")])
def test_what_cannot_be_carried_gets_one_line(tmp_path: Path, arguments: tuple[str, str]) -> None:
    (tmp_path / "text.tar").write_text("hello")
    done = run_script(arguments[0], arguments[1].format(tmp_path), "-o", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("carry_tars: ")
    assert done.stderr.count("\n") == 1
