"""`maerestore export --format onnx`, under onnxruntime."""

import sys

import numpy as np
import pytest
import torch

from maerestore.cli.main import main
from maerestore.hub.refiner import save_refiner
from maerestore.hub.save import save_autoencoder
from maerestore.inpaint import onnx_file
from maerestore.inpaint.graph import FillGraph
from maerestore.inpaint.pipeline import Inpainter
from maerestore.model.refiner import Refiner, RefinerConfig


@pytest.fixture
def source(tiny_model, tmp_path):
    torch.manual_seed(0)
    refiner = Refiner(RefinerConfig(feature_dim=16, feature_layer=1, widths=(4, 4, 8, 8), dilations=(1,)))
    torch.nn.init.normal_(refiner.head.weight, std=0.05)
    save_autoencoder(tiny_model(mask_embed=True), tmp_path / "model", None, {"smooth": 1.0}, torch.float32)
    save_refiner(refiner, tmp_path / "model", {}, torch.float32)
    return tmp_path / "model"


def refused(capsys, *arguments):
    assert main(["export", *map(str, arguments), "--format", "onnx"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


@pytest.mark.slow
def test_the_file_fills_photos_of_any_size_as_torch_does(source, tmp_path, capfd):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = tmp_path / "fill.onnx"
    assert main(["export", str(source), str(out), "--format", "onnx", "--side", "32"]) == 0
    captured = capfd.readouterr()
    assert captured.out.startswith(f"{out}: the fill as ONNX")
    assert captured.err == ""
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["fill.onnx"]

    inpainter = Inpainter.from_pretrained(str(source), device="cpu", precision="fp32")
    graph = FillGraph(inpainter.model, inpainter.restorer.refiner, 32, 32, inpainter.curve, inpainter.smooth).eval()
    capfd.readouterr()
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    assert capfd.readouterr() == ("", "")  # at the severity that every program has by default
    random = np.random.default_rng(0)
    for height, width in ((64, 64), (1, 7), (45, 200), (300, 90)):
        image = random.integers(0, 256, (1, 3, height, width), dtype=np.uint8)
        mask = np.zeros((1, 1, height, width), np.uint8)
        mask[..., height // 4 : height // 2 + 1, width // 3 : width // 2 + 1] = 3
        filled = session.run(["filled"], {"image": image, "mask": mask})[0]
        hole = np.broadcast_to(mask > 0, image.shape)
        assert (filled == image)[~hole].all()
        assert (filled != image)[hole].any()
        ours = graph(torch.from_numpy(image), torch.from_numpy(mask)).numpy()
        assert np.abs(ours.astype(int) - filled).max() <= 1

    before = out.read_bytes()
    assert "exists" in refused(capfd, source, out)
    assert out.read_bytes() == before


def test_a_conversion_names_its_type_where_that_is_known():
    onnx = pytest.importorskip("onnx")
    make, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto
    nodes = [
        onnx.helper.make_node("Shape", ["image"], ["shape"]),
        onnx.helper.make_node("CastLike", ["one", "shape"], ["whole"]),  # of a type that is only inferred
        onnx.helper.make_node("CastLike", ["whole", "image"], ["out"]),
    ]
    one = onnx.helper.make_tensor("one", kind.FLOAT, [], [1.0])
    graph = onnx.helper.make_graph(
        nodes, "graph", [make("image", kind.UINT8, [None])], [make("out", kind.UINT8, [])], [one]
    )
    nodes = onnx_file._with_casts(onnx.helper.make_model(graph)).graph.node
    assert [(node.op_type, list(node.input)) for node in nodes[1:]] == [("Cast", ["one"]), ("Cast", ["whole"])]
    assert [node.attribute[0].i for node in nodes[1:]] == [kind.INT64, kind.UINT8]


def test_what_does_not_fit_is_refused(source, tiny_model, tmp_path, capsys):
    out = tmp_path / "fill.onnx"
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert "multiple of 32" in refused(capsys, source, out, "--side", "50")
    assert "--dtype" in refused(capsys, source, out, "--dtype", "float16")
    assert "--num-heads" in refused(capsys, source, out, "--num-heads", "2")
    save_autoencoder(tiny_model(in_chans=1, mean=(0.5,), std=(0.5,)), tmp_path / "gray", dtype=torch.float32)
    assert "RGB" in refused(capsys, tmp_path / "gray", out)
    refused(capsys, tmp_path / "none", out)
    refused(capsys, source, tmp_path / "none" / "fill.onnx")
    assert not out.exists()
    assert main(["export", str(source), str(tmp_path / "x"), "--format", "maerestore", "--side", "64"]) == 2
    assert "--side" in capsys.readouterr().err


def test_missing_packages_are_named_before_anything_is_loaded(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(onnx_file, "PACKAGES", ("onnx_that_is_not_there", "sys"))
    message = refused(capsys, source, tmp_path / "fill.onnx")
    assert "onnx_that_is_not_there" in message
    assert "pip install 'maerestore[onnx]'" in message


def test_a_runtime_that_computes_something_else_is_noticed(tiny_model, monkeypatch, tmp_path):
    runtime = pytest.importorskip("onnxruntime")

    class Wrong:
        def __init__(self, *args, **kwargs):
            pass

        def run(self, outputs, inputs):
            return [255 - inputs["image"]]

    monkeypatch.setattr(runtime, "InferenceSession", Wrong)
    monkeypatch.setattr(onnx_file, "_convert", lambda graph: b"")
    monkeypatch.setattr(onnx_file, "require_packages", lambda: None)
    refiner = Refiner(RefinerConfig(feature_dim=16, feature_layer=1, widths=(4, 4, 8, 8), dilations=(1,)))
    inpainter = Inpainter(tiny_model(), precision="fp32", refiner=refiner)
    with pytest.raises(onnx_file.OnnxError, match="levels of 255 off"):
        onnx_file.export_onnx(inpainter, tmp_path / "fill.onnx", 32)
    stem = inpainter.refiner.stem.weight  # the inpainter goes on as it was
    assert stem.is_contiguous(memory_format=torch.channels_last)
    assert not stem.is_contiguous()
    assert "onnxruntime" in sys.modules
    assert not (tmp_path / "fill.onnx").exists()
