"""Fit a digital twin to an attached black box: drive it, choose a model by held-out error, write an ONNX file."""
