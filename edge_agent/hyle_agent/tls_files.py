"""The agent's certificates as files, held against each other before anything listens.

Imported only where there are certificates: `cryptography` takes memory that an agent without them keeps.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from hyle_agent.certificate_watch import Validity
from hyle_agent.config import Tls
from hyle_agent.errors import ConfigError
from hyle_agent.listening import read_tls_file

__all__ = ["check_tls"]

_LOG = logging.getLogger(__name__)
_INIT = "Make it with `hyle agent init`."


def check_tls(tls: Tls) -> Validity:
    """Refuse certificates that nothing can be served with, and warn of those that no caller will accept now.

    Returns:
        Of all of them, what ends first.

    Raises:
        ConfigError: A file cannot be read or is not PEM, the key is encrypted, or it is not the certificate's.
    """
    chain = _certificates(tls.certificate, "certificate")
    key = _key(tls.key)
    if _public(key) != chain[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
        message = f"tls.key: {tls.key} is not the private key of the first certificate in {tls.certificate}."
        remedy = "Name the two files that were made together, or make new ones with `hyle agent init`."
        raise ConfigError(message, remedy=remedy)
    found = _validities(chain, "certificate", tls.certificate)
    if tls.client_ca:
        found += _validities(_certificates(tls.client_ca, "client_ca"), "client_ca", tls.client_ca)
    for one in found:
        _mind_the_dates(one)
    return min(found, key=lambda one: one.ends)


def _certificates(path: str, field: str) -> Sequence[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(read_tls_file(path, field))
    except ValueError as error:
        raise ConfigError(f"tls.{field}: {path} is no certificate in PEM.", remedy=_INIT) from error


def _key(path: str) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(read_tls_file(path, "key"), None)
    except TypeError as error:
        message = f"tls.key: {path} is encrypted, and an agent starts without anybody to ask for its password."
        remedy = f"Decrypt it into a file that only the agent's user may read: openssl pkey -in {path} -out FILE."
        raise ConfigError(message, remedy=remedy) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"tls.key: {path} is no private key in PEM.", remedy=_INIT) from error


def _public(key: PrivateKeyTypes) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _validities(chain: Sequence[x509.Certificate], field: str, path: str) -> list[Validity]:
    return [Validity(field, path, one.not_valid_before_utc, one.not_valid_after_utc) for one in chain]


def _mind_the_dates(one: Validity) -> None:
    now = datetime.datetime.now(datetime.UTC)
    if one.ends < now:
        said = f"expired on {one.ends.date()}; put a new one in its place and restart the agent"
    elif one.begins > now:
        said = f"is valid from {one.begins.date()} only, and the clock says {now.date()}; set the clock"
    else:
        return
    _LOG.warning("tls.%s: %s %s; calls fail until then", one.field, one.path, said)
