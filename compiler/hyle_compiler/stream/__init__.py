"""Compiling what does not fit in memory: layer by layer, every weight read once and its levels written at once.

`build.build_streamed` walks the model along its digital segments. At each layer it sees what the float model and its
twins feed into it, chooses ranges, and passes over the matrix a few rows at a time: answers of the float model, levels,
answers of the twin. Memory holds activations, and rows of one matrix.
"""
