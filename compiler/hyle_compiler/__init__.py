"""ONNX in, bundle out: passes, mapping, calibration, adaptation, evaluation, report."""

import hyle_runtime as _runtime  # noqa: F401  (it tells onnxruntime to keep quiet before anything imports it)
