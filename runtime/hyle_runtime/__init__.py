"""A bundle on a device: place its layers, program them, measure corrections, run. Shared by compiler and agent."""

import os

# onnxruntime reports its use to its makers unless it is told not to before it is imported (ADR 0006).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
