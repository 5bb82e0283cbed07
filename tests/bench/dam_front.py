"""The DAM: its API by simulators/dam.py, its contents by nginx: nobody waits for Python to send bytes.

`NginxFront` is what measurements use. `PlainFront` has the same properties without nginx, TLS and delay, for
the test that keeps the harness alive.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import socket
import subprocess
import threading
import time
from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol

from bench.sets import FileSet, SourceFile
from bench.tls import Certificates
from simulators.dam import DamSimulator, GeneratedContent

START_SECONDS = 10.0
MODULES = Path("/usr/lib/nginx/modules")

# $delay stands for one round trip. A connection's set-up costs one more for TCP, two with TLS, just as in the
# Box stand-in: with TLS before the handshake ends, as in life; without, its first request pays.
_CONFIGURATION = """
load_module {modules}/ndk_http_module.so;
load_module {modules}/ngx_http_lua_module.so;
{user}
worker_processes 2;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 2048; }}
http {{
    types {{ }}
    default_type application/octet-stream;
    log_format bench '$request_method $uri $status $body_bytes_sent';
    access_log {folder}/access.log bench;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    keepalive_timeout 600s;
    max_ranges {max_ranges};
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream dam {{ server 127.0.0.1:{dam_port}; keepalive 64; }}
{servers}
}}
"""

_SERVER = """
    server {{
        listen 127.0.0.1:{plain};
        listen 127.0.0.1:{tls} ssl;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
        {delay}
        location ~ "^/otmmapi/v6/assets/([0-9a-f]{{40}})/contents$" {{ alias {folder}/contents/$1; }}
        location /files/ {{ alias {folder}/files/; autoindex on; }}
        location / {{
            proxy_pass http://dam;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
        }}
    }}
"""

_DELAY = """ssl_certificate_by_lua_block {{ ngx.sleep(2 * {seconds}) }}
        access_by_lua_block {{
            local is_first = ngx.var.https ~= "on" and tonumber(ngx.var.connection_requests) == 1
            ngx.sleep((is_first and 2 or 1) * {seconds})
        }}"""


class Front(Protocol):
    """What the stage asks of the DAM."""

    dam: DamSimulator

    def url(self, *, tls: bool, delay_ms: int) -> str:
        """DAM_BASE_URL."""

    def files_url(self, name: str, *, tls: bool, delay_ms: int) -> str:
        """A set's files by name, for those who do not speak the DAM's API."""

    def publish(self, files: FileSet, sources: list[SourceFile], name: str) -> str:
        """Make a campaign of them and return its id."""

    def take_calls(self) -> dict[str, int]:
        """Requests by kind since the last time it was asked."""


class NginxFront:
    """nginx before a DamSimulator; a context manager."""

    def __init__(
        self,
        folder: Path,
        nginx: str,
        certificates: Certificates,
        *,
        delays_ms: tuple[int, ...],
        ranges: bool = False,
        checksums: bool = False,
    ) -> None:
        self.dam = DamSimulator()
        self._folder = folder
        self._nginx = nginx
        self._certificates = certificates
        self._ports = {delay_ms: (free_port(), free_port()) for delay_ms in delays_ms}
        self._ranges = ranges
        self._checksums = checksums
        self._process: subprocess.Popen[bytes] | None = None
        self._log_read = 0

    def __enter__(self) -> NginxFront:
        for name in ("contents", "files"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        self.dam.start()
        configuration = self._folder / "nginx.conf"
        configuration.write_text(self._configuration(), encoding="utf-8")
        self._process = subprocess.Popen(
            [self._nginx, "-c", configuration, "-p", self._folder], env=self._certificates.server_environment
        )
        deadline = time.monotonic() + START_SECONDS
        for ports in self._ports.values():
            for port in ports:
                while not _listens(port):
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError(f"nginx did not start, see {self._folder}/error.log")
                    time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        self.dam.stop()

    def _configuration(self) -> str:
        servers = [
            _SERVER.format(
                plain=plain,
                tls=tls,
                certificate=self._certificates.server,
                folder=self._folder,
                delay=_DELAY.format(seconds=delay_ms / 1000) if delay_ms else "",
            )
            for delay_ms, (plain, tls) in self._ports.items()
        ]
        return _CONFIGURATION.format(
            modules=MODULES,
            # Else the workers of a nginx started by root run as somebody who may not enter the folder.
            user="user root;" if os.geteuid() == 0 else "",
            folder=self._folder,
            max_ranges="10" if self._ranges else "0",
            dam_port=self.dam.url.rpartition(":")[2],
            servers="".join(servers),
        )

    def url(self, *, tls: bool, delay_ms: int) -> str:
        """DAM_BASE_URL."""
        plain_port, tls_port = self._ports[delay_ms]
        return f"https://127.0.0.1:{tls_port}" if tls else f"http://127.0.0.1:{plain_port}"

    def files_url(self, name: str, *, tls: bool, delay_ms: int) -> str:
        """The folder of a set, with nginx's index."""
        return f"{self.url(tls=tls, delay_ms=delay_ms)}/files/{name}/"

    def publish(self, files: FileSet, sources: list[SourceFile], name: str) -> str:
        """The simulator knows size and name, and the MD5 when wanted; the bytes are nginx's."""
        campaign, folder_id = new_campaign(self.dam, name)
        for number, source in enumerate(sources):
            content = GeneratedContent(source.size, number)
            checksum = _md5(source.path) if self._checksums else None
            asset_id = self.dam.add_asset(folder_id, source.path.name, content, checksum=checksum)
            (self._folder / "contents" / asset_id).hardlink_to(source.path)
        return campaign

    def take_calls(self) -> dict[str, int]:
        """By nginx's own log."""
        with (self._folder / "access.log").open("rb") as log:
            log.seek(self._log_read)
            lines = log.read().decode("utf-8", "replace").splitlines()
            self._log_read = log.tell()
        return dict(Counter(kind_of(*line.split(" ")[:2]) for line in lines))


class PlainFront:
    """The simulator alone, and Python's own file server for the others."""

    def __init__(self, folder: Path) -> None:
        self.dam = DamSimulator()
        (folder / "files").mkdir(parents=True, exist_ok=True)
        handler = functools.partial(_QuietHandler, directory=str(folder))
        self._files = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._files.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> PlainFront:
        self.dam.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._files.shutdown()
        self._thread.join()
        self._files.server_close()
        self.dam.stop()

    def url(self, *, tls: bool, delay_ms: int) -> str:
        """DAM_BASE_URL. Raises ValueError for what only nginx can do."""
        if tls or delay_ms:
            raise ValueError("TLS and delay need nginx")
        return self.dam.url

    def files_url(self, name: str, *, tls: bool, delay_ms: int) -> str:
        """The folder of a set."""
        return f"http://127.0.0.1:{self._files.server_address[1]}/files/{name}/"

    def publish(self, files: FileSet, sources: list[SourceFile], name: str) -> str:
        """The bytes themselves go into the simulator."""
        campaign, folder_id = new_campaign(self.dam, name)
        for source in sources:
            self.dam.add_asset(folder_id, source.path.name, source.path.read_bytes())
        return campaign

    def take_calls(self) -> dict[str, int]:
        """By the simulator's log."""
        calls = Counter(kind_of(request.method, request.path) for request in self.dam.requests)
        self.dam.clear_requests()
        return dict(calls)


class _QuietHandler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def kind_of(method: str, path: str) -> str:
    """A request without the ids in its path."""
    steps = path.removeprefix("/otmmapi/v6").strip("/").split("/")
    return f"{method} {'/'.join('*' if re.search('[0-9]', step) else step for step in steps)}"


def new_campaign(dam: DamSimulator, name: str) -> tuple[str, str]:
    """A campaign that is not in A1 yet, and its Master Assets folder."""
    campaign = dam.add_campaign(name, re.sub(r"\W+", "-", name).upper(), status="DRAFT")
    folder_id = dam.master_assets_folder(campaign)
    if folder_id is None:
        raise RuntimeError("the simulator made no Master Assets folder")
    return campaign, folder_id


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
