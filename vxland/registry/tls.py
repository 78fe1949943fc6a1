"""TLS towards stores, no stricter than Go's: flanneld, etcdctl and kubectl take what a cluster has, and so must we.

Python and Debian's OpenSSL refuse by default what Go takes: authorities without key identifiers or a critical
basicConstraints (VERIFY_X509_STRICT, Python 3.13), an intermediate authority as the only one that is trusted, RSA keys
of 1,024 bits (OpenSSL's security level 2), and files of certificates with other text or damaged blocks between them.
What Go refuses stays refused: TLS before 1.2, SHA-1 signatures, another name or address, dates, encrypted keys.
"""

from __future__ import annotations

import base64
import binascii
import re
import ssl
import tempfile
from pathlib import Path
from typing import Final

# Python's own list but for its level 2. Level 1 refuses SHA-1 signatures too, and RSA below 1,024 bits, as Go does.
_CIPHERS: Final = "@SECLEVEL=1:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:DHE+AES:!aNULL:!eNULL:!aDSS:!AESCCM"
_BLOCK: Final = re.compile(rb"-----BEGIN (?:X509 )?CERTIFICATE-----([^-]*)-----END (?:X509 )?CERTIFICATE-----")


def client_context(authorities: bytes | None) -> ssl.SSLContext:
    """A context that trusts the certificates in a PEM text, or else the system's; ValueError where it has none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags = (context.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN) & ~ssl.VERIFY_X509_STRICT
    context.set_ciphers(_CIPHERS)
    if authorities is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    elif not sum(_trusted(context, block) for block in _BLOCK.findall(authorities)):
        raise ValueError("it has no certificate in PEM")
    return context


def show(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    """Have the context show a client certificate, from PEM files; ValueError."""
    try:
        # Without a callback OpenSSL would ask the terminal for the passphrase of an encrypted key.
        context.load_cert_chain(cert, key, password=lambda: b"")
    except (OSError, ValueError) as exc:  # SSLError is an OSError
        raise ValueError(f"give a PEM certificate and its key, without a passphrase: {_cause(exc)}") from exc


def show_pem(context: ssl.SSLContext, pem: bytes) -> None:
    """The same from PEM text of both; ValueError. OpenSSL reads files only: it is one that nobody else may read."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem)
        file.flush()
        show(context, Path(file.name), None)


def _trusted(context: ssl.SSLContext, block: bytes) -> bool:
    """Whether a block is a certificate, which the context trusts from now on; Go passes over others as well."""
    try:
        context.load_verify_locations(cadata=base64.b64decode(block))
    except (ssl.SSLError, binascii.Error, ValueError):
        return False
    return True


def _cause(exc: BaseException) -> str:
    reason = getattr(exc, "reason", None)  # of an SSLError; its text adds a line of OpenSSL's source
    return str(reason or getattr(exc, "strerror", None) or exc)
