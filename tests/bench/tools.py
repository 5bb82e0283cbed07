"""The programs that no Python package brings: nginx with its Lua module, curl, openssl."""

from __future__ import annotations

import os
import shutil
import subprocess

from bench.dam_front import MODULES

PACKAGES = ("nginx-light", "libnginx-mod-http-lua", "curl", "openssl")


class MissingToolError(Exception):
    """A program is not there and cannot be installed from here."""


def find_nginx() -> str | None:
    """Its path; Debian keeps it where an ordinary user's PATH does not lead."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def is_complete() -> bool:
    """Whether all are there."""
    programs = all(shutil.which(name) for name in ("curl", "openssl", "bash"))
    return programs and find_nginx() is not None and (MODULES / "ngx_http_lua_module.so").exists()


def install_tools() -> str:
    """See to it that all are there, and return nginx's path. Raises MissingToolError."""
    if not is_complete():
        command = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
        cure = "as root: " + " ".join(command)
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise MissingToolError(f"nginx with its Lua module, curl or openssl is missing; {cure}")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-q"], env=environment, check=False)
        if subprocess.run(command, env=environment, check=False).returncode or not is_complete():
            raise MissingToolError(f"apt-get could not install what is missing; {cure}")
    nginx = find_nginx()
    if nginx is None:
        raise MissingToolError("nginx is missing")
    return nginx
