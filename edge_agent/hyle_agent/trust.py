"""Whose bundles this agent runs: the signature is checked before anything else of a bundle is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hyle_bundle.keys import KeyFileError, PublicKey, load_public_key
from hyle_bundle.override import Override, read_override
from hyle_bundle.signature import SignatureError, verify_manifest

from hyle_agent.errors import ConfigError, UntrustedError

__all__ = ["Trust", "read_keys"]


@dataclass(frozen=True, slots=True)
class Trust:
    """The keys that may sign, and whether an unsigned bundle runs too.

    Attributes:
        keys: Public keys of those who may sign.
        insecure: Also run bundles that none of them signed; only for an agent on loopback.
        operators: Public keys of those who may sign overrides; by default `keys`.
    """

    keys: tuple[PublicKey, ...]
    insecure: bool
    operators: tuple[PublicKey, ...] = ()

    def signer(self, manifest: bytes, signature: bytes) -> str:
        """Prove who signed a manifest.

        Args:
            manifest: `bundle.json`, byte for byte, not yet parsed.
            signature: `signature.dsse.json`, empty for an unsigned bundle.

        Returns:
            The key's id, or "" for a bundle that only `insecure` lets through.

        Raises:
            UntrustedError: No trusted key signed this manifest.
        """
        try:
            return verify_manifest(manifest, signature, self.keys)
        except SignatureError as error:
            if self.insecure:
                return ""
            raise UntrustedError(error.message, remedy=error.remedy) from error

    def override(self, data: bytes) -> tuple[Override, str]:
        """Prove who signed an override, also on an agent that is insecure.

        Returns:
            What it says, and the key's id.

        Raises:
            UntrustedError: No operator's key signed it.
        """
        try:
            return read_override(data, self.operators or self.keys)
        except SignatureError as error:
            raise UntrustedError(error.message, remedy=error.remedy) from error


def read_keys(paths: Sequence[str], field: str = "trusted") -> tuple[PublicKey, ...]:
    """Read public keys, PEM files as `hyle keys new` writes them; `field` is for the message.

    Raises:
        ConfigError: A file is not one.
    """
    keys = []
    for index, path in enumerate(paths):
        try:
            keys.append(load_public_key(Path(path)))
        except KeyFileError as error:
            raise ConfigError(f"{field}[{index}]: {error.message}", remedy=error.remedy) from error
    return tuple(keys)
