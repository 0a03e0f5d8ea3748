"""What is shipped: the bundle's manifest, reader, writer, digests and signatures."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyle_bundle.bundle import Bundle, open_bundle
    from hyle_bundle.checks import BundleError
    from hyle_bundle.keys import PrivateKey, PublicKey, generate_key, load_private_key, load_public_key
    from hyle_bundle.manifest import Manifest, ManifestError, decode_manifest, encode_manifest
    from hyle_bundle.signature import verify_manifest
    from hyle_bundle.statement import SignatureError
    from hyle_bundle.tensor_writer import TensorWriter
    from hyle_bundle.tensors import TensorError, TensorFile, TensorSpec, tensor_layout, write_tensors
    from hyle_bundle.writer import sign_bundle, write_bundle

__all__ = [
    "Bundle",
    "BundleError",
    "Manifest",
    "ManifestError",
    "PrivateKey",
    "PublicKey",
    "SignatureError",
    "TensorError",
    "TensorFile",
    "TensorSpec",
    "TensorWriter",
    "decode_manifest",
    "encode_manifest",
    "generate_key",
    "load_private_key",
    "load_public_key",
    "open_bundle",
    "sign_bundle",
    "tensor_layout",
    "verify_manifest",
    "write_bundle",
    "write_tensors",
]

_HOMES = {
    "bundle": ("Bundle", "open_bundle"),
    "checks": ("BundleError",),
    "keys": ("PrivateKey", "PublicKey", "generate_key", "load_private_key", "load_public_key"),
    "manifest": ("Manifest", "ManifestError", "decode_manifest", "encode_manifest"),
    "signature": ("verify_manifest",),
    "statement": ("SignatureError",),
    "tensors": ("TensorError", "TensorFile", "TensorSpec", "tensor_layout", "write_tensors"),
    "tensor_writer": ("TensorWriter",),
    "writer": ("sign_bundle", "write_bundle"),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"hyle_bundle.{module}"), name)
    raise AttributeError(f"module 'hyle_bundle' has no attribute {name!r}")
