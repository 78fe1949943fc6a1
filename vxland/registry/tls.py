"""TLS to stores, no stricter than Go's: vxland must accept the certificates that flanneld, etcdctl and kubectl accept.

By default, Python and Debian's OpenSSL refuse some that Go accepts: authorities without key identifiers or a critical
basicConstraints (VERIFY_X509_STRICT, Python 3.13), an intermediate authority as the only trusted one, RSA keys of 1,024
bits (OpenSSL's security level 2), and files of certificates with other text or damaged blocks between them.
Everything that Go refuses is refused here too: TLS before 1.2, SHA-1 signatures, another name or address, a date out of
range, encrypted keys.
"""

from __future__ import annotations

import base64
import binascii
import re
import ssl
import tempfile
from pathlib import Path
from typing import Final

# Python's list with level 1 instead of 2. Level 1 also refuses SHA-1 signatures and RSA below 1,024 bits, as Go does.
_CIPHERS: Final = "@SECLEVEL=1:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:DHE+AES:!aNULL:!eNULL:!aDSS:!AESCCM"
_BLOCK: Final = re.compile(rb"-----BEGIN (?:X509 )?CERTIFICATE-----([^-]*)-----END (?:X509 )?CERTIFICATE-----")


def client_context(authorities: bytes | None) -> ssl.SSLContext:
    """Return a context that trusts the certificates in a PEM text, or the system's; ValueError if there are none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags = (context.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN) & ~ssl.VERIFY_X509_STRICT
    context.set_ciphers(_CIPHERS)
    if authorities is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    elif not sum(_trust(context, block) for block in _BLOCK.findall(authorities)):
        raise ValueError("it has no certificate in PEM")
    return context


def load_client_cert(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    """Give the context a client certificate from PEM files; ValueError."""
    try:
        # Without a callback OpenSSL would ask the terminal for the passphrase of an encrypted key.
        context.load_cert_chain(cert, key, password=lambda: b"")
    except (OSError, ValueError) as exc:  # SSLError is an OSError
        raise ValueError(f"give a PEM certificate and its key, without a passphrase: {_cause(exc)}") from exc


def load_client_cert_pem(context: ssl.SSLContext, pem: bytes) -> None:
    """Give the context a client certificate and key from PEM text; ValueError. OpenSSL needs a file: it is private."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem)
        file.flush()
        load_client_cert(context, Path(file.name), None)


def _trust(context: ssl.SSLContext, block: bytes) -> bool:
    """Trust the certificate in a block, and return whether it is one; Go ignores other blocks too."""
    try:
        context.load_verify_locations(cadata=base64.b64decode(block))
    except (ssl.SSLError, binascii.Error, ValueError):
        return False
    return True


def _cause(exc: BaseException) -> str:
    reason = getattr(exc, "reason", None)  # of an SSLError, whose text adds a line of OpenSSL's source
    return str(reason or getattr(exc, "strerror", None) or exc)
