"""Who may speak to the OPC UA server, and how: in the clear, or signed and encrypted with certificates both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncua import Server, ua
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.crypto.truststore import TrustStore
from asyncua.crypto.validator import CertificateValidator, CertificateValidatorOptions

if TYPE_CHECKING:
    from line_worker.config import OpcUaSink

_ENCRYPTED = [
    ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt,
    ua.SecurityPolicyType.Aes128Sha256RsaOaep_SignAndEncrypt,
    ua.SecurityPolicyType.Aes256Sha256RsaPss_SignAndEncrypt,
]
_CHECKS = CertificateValidatorOptions.TRUSTED_VALIDATION | CertificateValidatorOptions.PEER_CLIENT


class Anybody:
    """Every user may read, and write what the PLC writes; asyncua's own manager makes `admin` an administrator."""

    def get_user(self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None) -> User:
        """Return the one kind of user there is."""
        return User(role=UserRole.User)


async def secure(server: Server, sink: OpcUaSink) -> None:
    """Set up `server`: with a certificate only clients whose certificates lie in `trusted` are let in, encrypted.

    Raises:
        OSError, ValueError: a certificate or key cannot be read.
    """
    server.set_identity_tokens([ua.AnonymousIdentityToken])
    if sink.certificate is None or sink.private_key is None or sink.trusted is None:
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        return
    server.set_security_policy(_ENCRYPTED)
    await server.load_certificate(sink.certificate)
    await server.load_private_key(sink.private_key)
    known = TrustStore([sink.trusted], [])
    await known.load()
    server.set_certificate_validator(CertificateValidator(_CHECKS, known))
