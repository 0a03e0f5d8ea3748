"""Linear models and dictionaries of scores, as scikit-learn's converter writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hyle_bundle import open_bundle
from hyle_compiler.errors import PlacementError
from hyle_compiler.evaluate import exact_body
from hyle_compiler.pipeline import Options, compile_model
from hyle_substrates.profile import find_profile
from onnx import TensorProto, helper

ML = "ai.onnx.ml"
RNG = np.random.default_rng(0)
WEIGHTS, BIAS = RNG.normal(size=(3, 8)).astype(np.float32), RNG.normal(size=3).astype(np.float32)
X = RNG.normal(size=(60, 8)).astype(np.float32)


def classifier(post: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "scores"],
        domain=ML,
        coefficients=WEIGHTS.reshape(-1).tolist(),
        intercepts=BIAS.tolist(),
        multi_class=1,
        post_transform=post,
        **(attributes or {"classlabels_ints": [3, 5, 8]}),
    )


def save(folder: Path, nodes: list[onnx.NodeProto], outputs: list[onnx.ValueInfoProto], opset: int = 17) -> Path:
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 8])], outputs, []
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(ML, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=7), str(folder / "m.onnx"))
    np.savez(folder / "c.npz", x=X)
    return folder / "m.onnx"


def answers(path: Path, folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    profile, text = find_profile("ideal")
    done = compile_model(path, path.with_name("c.npz"), profile, text, folder / "o.hyle", Options())
    assert len(done.manifest.layers) == 1
    with open_bundle(folder / "o.hyle") as bundle:
        bundle.extract(folder / "files")
    return exact_body(folder / "files", done.manifest, profile).run({"x": X[:9]})


LABEL = helper.make_tensor_value_info("label", TensorProto.INT64, [None])
SCORES = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 3])


@pytest.mark.parametrize("post", ["NONE", "SOFTMAX", "LOGISTIC"])
def test_a_linear_classifier_goes_on_physics(post: str, tmp_path: Path) -> None:
    path = save(tmp_path, [classifier(post)], [LABEL, SCORES])
    label, scores = ort.InferenceSession(str(path)).run(None, {"x": X[:9]})
    got = answers(path, tmp_path)
    assert np.array_equal(got["label"], label)
    np.testing.assert_allclose(got["scores"], scores, atol=1e-5)


@pytest.mark.parametrize("opset", [9, 17])
def test_scores_come_out_instead_of_dictionaries(opset: int, tmp_path: Path) -> None:
    zipped = helper.make_node("ZipMap", ["scores"], ["odds"], domain=ML, classlabels_int64s=[3, 5, 8])
    kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    odds = helper.make_value_info("odds", helper.make_sequence_type_proto(kind))
    path = save(tmp_path, [classifier("SOFTMAX"), zipped], [LABEL, odds], opset)
    label, dictionaries = ort.InferenceSession(str(path)).run(None, {"x": X[:9]})
    got = answers(path, tmp_path)
    assert np.array_equal(got["label"], label)
    np.testing.assert_allclose(got["odds"], [list(one.values()) for one in dictionaries], atol=1e-5)


def test_a_linear_regressor_goes_on_physics(tmp_path: Path) -> None:
    node = helper.make_node(
        "LinearRegressor", ["x"], ["y"], domain=ML, coefficients=WEIGHTS.reshape(-1).tolist(), targets=3
    )
    path = save(tmp_path, [node], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])])
    want = ort.InferenceSession(str(path)).run(None, {"x": X[:9]})[0]
    np.testing.assert_allclose(answers(path, tmp_path)["y"], want, atol=1e-5)


@pytest.mark.parametrize(
    "node",
    [
        classifier("PROBIT"),
        classifier("NONE", classlabels_strings=["a", "b", "c"]),
        classifier("NONE", classlabels_ints=[0, 1]),
    ],
)
def test_other_linear_models_stay_as_they_are(node: onnx.NodeProto, tmp_path: Path) -> None:
    path = save(tmp_path, [node], [SCORES])
    profile, text = find_profile("ideal")
    with pytest.raises(PlacementError, match="no MatMul"):
        compile_model(path, tmp_path / "c.npz", profile, text, tmp_path / "o.hyle", Options())


def test_a_network_that_answers_with_words_goes_the_whole_way(tmp_path: Path) -> None:
    """As scikit-learn's classifiers of named classes do; the words have no residual, the scores beside them have."""
    made = [
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("ArgMax", ["z"], ["best"], axis=1, keepdims=0),
        helper.make_node("ArrayFeatureExtractor", ["names", "best"], ["row"], domain=ML),
        helper.make_node("Reshape", ["row", "flat"], ["label"]),
        helper.make_node("Softmax", ["z"], ["scores"], axis=1),
    ]
    words = helper.make_tensor_value_info("label", TensorProto.STRING, [None])
    path = save(tmp_path, made, [words, SCORES])
    model = onnx.load(str(path))
    model.graph.initializer.extend(
        [
            onnx.numpy_helper.from_array(WEIGHTS.T.copy(), "w"),
            onnx.numpy_helper.from_array(np.array([-1]), "flat"),
            helper.make_tensor("names", TensorProto.STRING, [3], [b"cat", b"dog", b"owl"]),
        ]
    )
    onnx.save(model, str(path))
    want = ort.InferenceSession(str(path)).run(None, {"x": X[:9]})[0]
    got = answers(path, tmp_path)
    assert got["label"].tolist() == want.tolist()
    profile, text = find_profile("pcm-generic")
    done = compile_model(path, path.with_name("c.npz"), profile, text, tmp_path / "p.hyle", Options(instances=2))
    assert 0.0 < done.manifest.golden.tolerance < 1.0
