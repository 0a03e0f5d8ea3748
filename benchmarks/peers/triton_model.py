"""Triton's Python backend around onnxruntime: one execution for the requests that Triton batched."""

import os

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        model = os.environ["BENCH_MODEL"]
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.input, self.output = self.session.get_inputs()[0].name, self.session.get_outputs()[0].name

    def execute(self, requests):
        arrays = [pb_utils.get_input_tensor_by_name(request, self.input).as_numpy() for request in requests]
        y = self.session.run([self.output], {self.input: np.concatenate(arrays)})[0]
        answers, start = [], 0
        for array in arrays:
            part = pb_utils.Tensor(self.output, y[start : start + len(array)])
            answers.append(pb_utils.InferenceResponse([part]))
            start += len(array)
        return answers
