"""How the bench's servers speak TLS: their certificates, and a cipher that is the same for all contenders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import trustme

BOX_HOSTS = ("api.box.com", "upload.box.com", "account.box.com")
CIPHER = "TLS_AES_128_GCM_SHA256"
"""What every TLS 1.3 has to speak (RFC 8446, section 9.1). Left to the clients, Go's would get AES with 128
bits and Python's with 256, which costs both ends more.
"""


@dataclass(frozen=True)
class Certificates:
    """An authority of our own, one certificate for all servers of the stage, and OpenSSL's settings there."""

    ca: Path
    server: Path
    openssl_conf: Path

    @property
    def server_environment(self) -> dict[str, str]:
        """The variables of a server's process, which takes CIPHER whatever its clients would like best."""
        return {**os.environ, "OPENSSL_CONF": str(self.openssl_conf)}


def make_certificates(folder: Path) -> Certificates:
    """Written into the folder."""
    authority = trustme.CA()
    made = Certificates(folder / "ca.pem", folder / "server.pem", folder / "openssl.cnf")
    authority.cert_pem.write_to_path(str(made.ca))
    issued = authority.issue_cert("localhost", "127.0.0.1", *BOX_HOSTS)
    made.server.touch(mode=0o600)
    made.server.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
    made.openssl_conf.write_text(
        "openssl_conf = all\n[all]\nssl_conf = tls\n[tls]\nsystem_default = servers\n"
        f"[servers]\nCiphersuites = {CIPHER}\n",
        encoding="ascii",
    )
    return made
