"""Training methods: each lets a model learn to live in its matter; one file a method, found through `registry`."""

from hyle_compiler.adapt.method import Adapted, AdaptError, Budget, Method, Needs, Task
from hyle_compiler.adapt.registry import choose, load_method, method_names, refusal, suitable

__all__ = [
    "AdaptError",
    "Adapted",
    "Budget",
    "Method",
    "Needs",
    "Task",
    "choose",
    "load_method",
    "method_names",
    "refusal",
    "suitable",
]
