"""An operator's signed leave to install an older bundle on one agent, once.

A DSSE envelope with a payload type of its own, so that neither a bundle's signature nor an override can pass for the
other. It names the model, the lowest counter that is let in, the agent by its name and by the challenge that its store
holds at this moment, and the time until which it may be used. The agent draws another challenge when it uses one, so
that the same override is refused from then on, with no list of those used and without trust in the clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from hyle_bundle.envelope import Kind, seal, unseal
from hyle_bundle.keys import PrivateKey, PublicKey
from hyle_bundle.manifest import Count, Name
from hyle_bundle.statement import SignatureError

__all__ = ["OVERRIDE_TYPE", "Override", "read_override", "sign_override"]

OVERRIDE_TYPE = "application/vnd.hyle.override+json"
CLOCK_PLAY_S = 300

_KIND = Kind(OVERRIDE_TYPE, "The override", "Make another with `hyle override`.", 1 << 16)


class Override(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the operator states.

    Attributes:
        model: The model.
        counter: Lowest counter that may be installed.
        agent: The agent's name.
        challenge: What the agent's store holds now, 32 hexadecimal digits.
        issued: When it was signed, seconds since the epoch.
        expires: When it ends, seconds since the epoch.
        format: Version of this statement.
    """

    model: Name
    counter: Count
    agent: Name
    challenge: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
    issued: Count
    expires: Count
    format: Literal["hyle-override/1"] = "hyle-override/1"

    def check(self, model: str, counter: int, agent: str, challenge: str, now_s: float) -> None:
        """Refuse an override that is not for this.

        Args:
            model: What is to be installed.
            counter: Its counter.
            agent: Who is to install it.
            challenge: What the agent's store holds now.
            now_s: Its clock, seconds since the epoch.

        Raises:
            SignatureError: It is for another model, counter or agent, was used already, or it is not the time for it.
        """
        wanted = {"model": (self.model, model), "agent": (self.agent, agent)}
        for field, (said, here) in wanted.items():
            if said != here:
                raise _KIND.refusal(f"it is for the {field} {said!r}, not {here!r}")
        if counter < self.counter:
            raise _KIND.refusal(f"it lets in counters from {self.counter} on, not {counter}")
        if self.challenge != challenge:
            raise _KIND.refusal("it was used already, or made for another store")
        if now_s < self.issued - CLOCK_PLAY_S:
            message = "The override is refused: by this agent's clock it was signed in the future."
            raise SignatureError(message, remedy="Set the agent's clock, then try again.")
        if now_s > self.expires:
            raise _KIND.refusal(f"it ended {now_s - self.expires:.0f} s ago")


def sign_override(override: Override, key: PrivateKey) -> bytes:
    """Return the signed override."""
    return seal(_KIND, override, key)


def read_override(data: bytes, trusted: Sequence[PublicKey]) -> tuple[Override, str]:
    """Check the signature and return the override and the signer's key id.

    Raises:
        SignatureError: It is malformed, its key is not trusted, or the signature is wrong.
    """
    override, signer = unseal(_KIND, data, Override, trusted)
    return override, signer.fingerprint
