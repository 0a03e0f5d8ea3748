"""The official int8 keyword model compiles from its integer weights and keeps its score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from compiler_models import model_folder
from hyle_bundle import open_bundle
from hyle_compiler.evaluate import evaluate_bundle, tensor_file
from hyle_compiler.pipeline import Options, compile_model
from hyle_substrates.profile import find_profile

OWN_SCORE = 0.902


def test_the_int8_keyword_model_scores_within_a_point_of_its_own_score_on_ideal(tmp_path: Path) -> None:
    folder = model_folder("mlperf_tiny_kws_dscnn")
    for split in ("calib", "eval"):
        with np.load(folder / f"{split}.npz") as file:
            np.savez(tmp_path / f"{split}.npz", input_1=file["x"], labels=file["y"])
    model = folder / "model_int8_qdq.onnx"
    integers = {tuple(np.unique(onnx.numpy_helper.to_array(t))) for t in onnx.load(str(model)).graph.initializer}
    for target in ("ideal", "pcm-generic"):
        profile, text = find_profile(target)
        out = tmp_path / f"{target}.hyle"
        compile_model(model, tmp_path / "calib.npz", profile, text, out, Options(instances=1))
        with open_bundle(out) as bundle:
            bundle.extract(tmp_path / target)
            manifest = bundle.manifest
        if target == "ideal":
            found = evaluate_bundle(tmp_path / target, manifest, tmp_path / "eval.npz", ages_s=(0.0,), seeds=(0,))
            assert abs(found["ages"][0]["mean"] - OWN_SCORE) <= 0.01
        else:
            tensors = tensor_file(tmp_path / target / "programming.safetensors")
            dense = next(layer for layer in manifest.layers if layer.op == "matmul")
            assert tuple(np.unique(tensors.array(dense.blocks[0].levels))) in integers
