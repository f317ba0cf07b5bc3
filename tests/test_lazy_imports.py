"""`import maerestore` and `maerestore --help` answer at once: nothing heavy is loaded before it is used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

import maerestore
import maerestore.augment
import maerestore.features

ROOT = Path(maerestore.__file__).parents[1]
HEAVY = {
    *("torch", "torchvision", "numpy", "scipy", "cv2", "PIL", "skimage", "tifffile", "safetensors", "huggingface_hub"),
    *("transformers", "timm", "accelerate", "kornia", "albumentations", "faiss", "ray", "gradio", "pandas", "tqdm"),
    *("webdataset", "tensorboard", "rich", "yaml", "sklearn", "matplotlib", "pyarrow"),
}
VERBS = (
    "",
    "inpaint",
    "show",
    "augment",
    "classify",
    "features",
    "index",
    "train-restorer",
    "pretrain",
    "export",
    "pull",
    "push",
)
HELP = "import sys; sys.argv = {argv!r}; from maerestore.cli.main import main; run()"
CODE = {
    "import maerestore": "import maerestore",
    **{f"maerestore {verb} --help": HELP.format(argv=["maerestore", *verb.split(), "--help"]) for verb in VERBS},
    "dir(maerestore)": "import maerestore; dir(maerestore)",
    "maerestore.errors": "from maerestore import MaerestoreError, ModelError",
    "maerestore.augment": "import maerestore.augment; dir(maerestore.augment); import maerestore.augment.settings",
    "maerestore.MAEAugment": "from maerestore import MAEAugment",
    "maerestore.features": "import maerestore.features; dir(maerestore.features); import maerestore.features.options",
}
RUN = """
def run():
    try:
        main()
    except SystemExit:
        pass
"""


def python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT) + os.pathsep + os.environ.get("PYTHONPATH", "")}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def loaded_by(code: str, cwd: Path | None = None) -> set[str]:
    """The top-level modules that a piece of code leaves loaded, beyond those of a bare interpreter."""
    report = "\nprint('\\n' + ' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = python("-c", f"import sys\nbare = set(sys.modules)\n{RUN}\n{code}{report}", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_every_verb_is_asked_for_its_help() -> None:
    from maerestore.cli.main import VERBS as VERBS_THERE_ARE

    assert set(VERBS_THERE_ARE) == set(VERBS) - {""}


@pytest.mark.parametrize("what", CODE)
def test_nothing_heavy_is_loaded(what: str) -> None:
    loaded = loaded_by(CODE[what])
    assert "maerestore" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("arguments", [["-c", "import maerestore"], ["-m", "maerestore", "--help"]])
def test_it_takes_less_than_half_a_second(arguments: list[str]) -> None:
    times = []
    for _ in range(3):
        before = os.times()
        assert python(*arguments).returncode == 0
        after = os.times()  # of the processor: other work on the machine does not count
        spent = [getattr(after, name) - getattr(before, name) for name in ("children_user", "children_system")]
        times.append(sum(spent))
        if times[-1] < 0.5:
            break
    assert 0 < min(times) < 0.5


def test_a_bad_photo_is_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"no image")
    Image.new("L", (9, 9)).save(tmp_path / "mask.png")
    loaded = loaded_by(
        "from maerestore.cli.main import main; assert main(['inpaint', 'photo.png', 'mask.png']) == 2", tmp_path
    )
    assert not loaded & {"torch", "scipy", "safetensors", "huggingface_hub"}


def test_an_empty_mask_is_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "photo.png")
    Image.new("L", (9, 9)).save(tmp_path / "mask.png")
    loaded = loaded_by(
        "from maerestore.cli.main import main; assert main(['inpaint', 'photo.png', 'mask.png']) == 2", tmp_path
    )
    assert "torch" not in loaded


def test_a_fill_does_without_the_compiler_of_torch(tmp_path: Path) -> None:
    # Its import takes as long as that of torch itself; making a model on the meta device used to cause it.
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "photo.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (20, 20, 40, 40))
    mask.save(tmp_path / "mask.png")
    loaded = loaded_by(
        "from maerestore.cli.main import main; assert main(['inpaint', 'photo.png', 'mask.png']) == 0\n"
        "assert 'torch._dynamo' not in sys.modules",
        tmp_path,
    )
    assert "torch" in loaded
    assert "sympy" not in loaded


@pytest.mark.parametrize("package", [maerestore, maerestore.augment, maerestore.features])
def test_every_public_name_can_be_had(package: ModuleType) -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(dir(package)) >= set(package.__all__)
    with pytest.raises(AttributeError, match="nonesuch"):
        _ = package.nonesuch
