"""hyle gives trained models a body in physical neural networks: compile, deploy, query.

    import hyle

    hyle.compile("model.onnx", target="pcm-hermes", calib="calib.npz", output="model.hyle")
    with hyle.open("model.hyle") as bundle:
        print(bundle.evaluate("eval.npz", at="25s,1d,1y", instances=10))
    with hyle.connect("127.0.0.1:8500") as agent:
        agent.deploy("model.hyle")
        answers = agent.infer("model", {"input": x})

Importing this package loads nothing else; every verb imports what it needs when it is called.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyle_compiler.fitting.fit import fit_device
    from hyle_compiler.fitting.read_out import read_out
    from hyle_deploy.client import connect

    from hyle.verbs import OpenBundle, compile, open  # noqa: A004

__all__ = ["OpenBundle", "compile", "connect", "fit_device", "open", "read_out"]

_HOMES = {
    "compile": "hyle.verbs",
    "open": "hyle.verbs",
    "OpenBundle": "hyle.verbs",
    "connect": "hyle_deploy.client",
    "fit_device": "hyle_compiler.fitting.fit",
    "read_out": "hyle_compiler.fitting.read_out",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'hyle' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
