"""The configurations of nginx that we ship, in a real nginx, before the real page; oauth2-proxy is played."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPSConnection
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

import psycopg2
import pytest
import trustme

from page import OPERATOR, PASSWORD, READER
from page_process import Launcher, Served
from world import REPOSITORY, wait_for

DEPLOYMENT = REPOSITORY / "scripts" / "deployment"
HOST = "a1-to-a2.example.com"
MACHINES = ("/metrics", "/healthz", "/readyz")
FRAME = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;{user}
events {{ }}
http {{
    access_log {folder}/access.log; gzip on;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    include {folder}/page.conf;
}}
"""
"""What a distribution puts around a site, as far as it matters here."""


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    text: str


@dataclass
class Browser:
    """Keeps cookies, checks certificates, and sends what else it is told to."""

    port: int
    tls: ssl.SSLContext
    cookies: dict[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        return f"https://{HOST}:{self.port}"

    def ask(self, path: str, form: dict[str, str] | None = None, **headers: str) -> Answer:
        more = {
            "Host": f"{HOST}:{self.port}",
            "Cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items()),
        }
        if form is not None:
            more |= {"Origin": self.origin, "Content-Type": "application/x-www-form-urlencoded"}
        more |= {name.replace("__", "-"): value for name, value in headers.items()}
        connection = HTTPSConnection("localhost", self.port, timeout=30, context=self.tls)
        with contextlib.closing(connection):
            connection.putrequest("GET" if form is None else "POST", path, skip_host=True)
            body = urlencode(form or {}).encode()
            for name, value in {**more, "Content-Length": str(len(body))}.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            for line in answer.headers.get_all("Set-Cookie", []):
                self.cookies |= {name: cookie.value for name, cookie in SimpleCookie(line).items()}
            return Answer(answer.status, dict(answer.headers), answer.read().decode())

    def fields(self, path: str) -> dict[str, str]:
        """What the forms of a page hand over, hidden."""
        found = re.findall(r'name="(csrf|request|drawn)"\s+value="([^"]+)"', self.ask(path).text)
        return dict(found)


class OidcProxy(BaseHTTPRequestHandler):
    """What nginx asks oauth2-proxy. The cookie holds the name; `nobody` is logged in and has none."""

    server_version = "oauth2-proxy"

    def do_GET(self) -> None:
        name = SimpleCookie(self.headers.get("Cookie", "")).get("_oauth2_proxy")
        is_question = self.path == "/oauth2/auth"
        self.send_response((202 if name else 401) if is_question else 302)
        if is_question and name and name.value != "nobody":
            self.send_header("X-Auth-Request-Preferred-Username", name.value)
        if not is_question:
            back = self.headers.get("X-Auth-Request-Redirect", "")
            self.send_header("Location", f"https://login.example.com/?state={back}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *_: object) -> None:
        """Say nothing."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def is_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@dataclass
class Site:
    """The page behind nginx. https, http: the ports of nginx."""

    page: Served
    https: int
    http: int
    tls: ssl.SSLContext

    def browser(self, **cookies: str) -> Browser:
        return Browser(self.https, self.tls, dict(cookies))


def needed_nginx() -> str:
    """nginx; .ci/run installs it, a developer's machine may have none."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert found or "CI" not in os.environ, "CI must bring nginx"
    return found or pytest.skip("nginx is missing (Debian: apt-get install nginx-light)")


@contextlib.contextmanager
def open_site(conf: str, database_url: str, folder: Path, **variables: str) -> Iterator[Site]:
    """Start the page with these variables, and nginx with one of our files, on ports of this test."""
    nginx, https, http = needed_nginx(), free_port(), free_port()
    ca = trustme.CA()
    certificate = ca.issue_cert(HOST, "localhost")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "fullchain.pem").write_bytes(b"".join(part.bytes() for part in certificate.cert_chain_pems))
    tls = ssl.create_default_context()
    ca.configure_trust(tls)
    oidc = ThreadingHTTPServer(("127.0.0.1", 0), OidcProxy)
    thread = threading.Thread(target=oidc.serve_forever)
    with contextlib.ExitStack() as stack:
        thread.start()
        for end in (thread.join, oidc.server_close, oidc.shutdown):
            stack.callback(end)
        launcher = Launcher(database_url, folder)
        page = stack.enter_context(launcher.serve(ADMIN_URL=f"https://{HOST}:{https}", **variables))
        text = (DEPLOYMENT / conf).read_text(encoding="utf-8")
        for theirs, ours in (
            (r"    listen \[::\].*\n", ""),
            ("listen 443 ssl;", f"listen 127.0.0.1:{https} ssl;"),
            ("listen 80;", f"listen 127.0.0.1:{http};"),
            (r"127\.0\.0\.1:8080;", f"127.0.0.1:{page.port};"),
            (r"127\.0\.0\.1:4180;", f"127.0.0.1:{oidc.server_port};"),
            ("/etc/ssl/a1-to-a2", str(folder)),
        ):
            text = re.sub(theirs, ours, text)
        (folder / "page.conf").write_text(text, encoding="utf-8")
        user = "" if os.geteuid() else " user root;"
        (folder / "nginx.conf").write_text(FRAME.format(folder=folder, user=user), encoding="utf-8")
        process = subprocess.Popen(
            [nginx, "-p", folder, "-c", folder / "nginx.conf"], stdin=subprocess.DEVNULL
        )
        stack.callback(process.wait, timeout=30)
        stack.callback(process.terminate)
        wait_for(lambda: is_open(https) or process.poll() is not None)
        assert process.poll() is None, (folder / "error.log").read_text()
        yield Site(page, https, http, tls)


def test_nginx__has_the_tls_and_people_log_in_on_the_page(database_url: str, tmp_path: Path) -> None:
    with open_site("nginx-a1-to-a2-page.conf", database_url, tmp_path) as site:
        browser = site.browser()
        assert browser.ask("/", X__Remote__User=OPERATOR).headers["Location"] == "/login?next=/"
        form = {"csrf": browser.fields("/login")["csrf"], "name": OPERATOR, "password": PASSWORD}
        assert browser.ask("/login", form, Origin="https://evil.example").status == 403
        entered = browser.ask("/login", form)
        assert (entered.status, entered.headers["Location"]) == (303, "/")
        assert re.fullmatch(
            r"__Host-a1_to_a2=[\w-]{43}; (Expires=[^;]+; )?Max-Age=43200; Secure; HttpOnly; Path=/;"
            r" SameSite=Strict",
            entered.headers["Set-Cookie"],
        ), entered.headers["Set-Cookie"]
        start = browser.ask("/", Accept__Encoding="gzip")
        assert (start.status, OPERATOR in start.text, "Log out" in start.text) == (200, True, True)
        assert start.headers["Strict-Transport-Security"] == "max-age=31536000"
        assert start.headers["Server"] == "nginx"
        assert browser.ask("/", Host="elsewhere.example").status == 400
        _assert_is_closed_to_machines(site, browser)
        with contextlib.closing(HTTPConnection("127.0.0.1", site.http, timeout=30)) as plain:
            plain.request("GET", "/campaigns?state=failed", headers={"Host": "evil.example"})
            answer = plain.getresponse()
            assert (answer.status, answer.headers["Location"]) == (
                301,
                f"https://{HOST}/campaigns?state=failed",
            )


def test_nginx__names_the_person_whom_the_oidc_proxy_knows(database_url: str, tmp_path: Path) -> None:
    with (
        contextlib.closing(psycopg2.connect(database_url)) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(
            "INSERT INTO campaign_status (campaign_id, campaign_number, status, a1_retry_count,"
            " a1_permanently_failed, updated_at)"
            " VALUES ('stuck', 'C-1', 'A1', 3, TRUE, now() - interval '1 h')"
        )
    by_proxy = {
        "ADMIN_PROXY_HEADER": "X-Remote-User", "ADMIN_PROXY_PEERS": "127.0.0.1", "ADMIN_USERS_FILE": "",
    }  # fmt: skip
    with open_site("nginx-a1-to-a2-page-oidc.conf", database_url, tmp_path, **by_proxy) as site:
        stranger = site.browser()
        for forged in ({}, {"X__Remote__User": OPERATOR}, {"X_Remote_User": OPERATOR}):
            sent_away = stranger.ask("/campaigns?state=failed&q=x", **forged)
            assert sent_away.status == 302
            assert (
                sent_away.headers["Location"]
                == "https://login.example.com/?state=/campaigns?state=failed&q=x"
            )
        piece = stranger.ask("/counters", HX__Request="true")
        assert (piece.status, piece.headers["HX-Refresh"]) == (401, "true")
        assert stranger.ask("/oauth2/auth").status == 404
        assert not stranger.cookies

        reader = site.browser(_oauth2_proxy=READER)
        for forged in ({}, {"X__Remote__User": OPERATOR}, {"X_Remote_User": OPERATOR}):
            shown = reader.ask("/", **forged).text
            assert f'{READER}</span> <span class="soft">(read only)' in shown
            assert OPERATOR not in shown
        nobody = site.browser(_oauth2_proxy="nobody").ask("/", X__Remote__User=OPERATOR)
        assert (nobody.status, "The page does not know who you are" in nobody.text) == (403, True)

        operator = site.browser(_oauth2_proxy=OPERATOR)
        form = {
            **operator.fields("/campaigns/stuck"),
            "act": "reset",
            "id": "stuck",
            "back": "/campaigns?state=failed",
        }
        assert reader.ask("/act", {**form, **reader.fields("/act")}).status == 403
        done = operator.ask("/act", form, X__Real__IP="203.0.113.9")
        assert (done.status, "Reset: 1 campaign" in operator.ask(done.headers["Location"]).text) == (
            303,
            True,
        )
        assert "203.0.113.9" not in operator.ask("/audit").text
        assert "Log out" not in operator.ask("/").text
        _assert_is_closed_to_machines(site, operator)


def _assert_is_closed_to_machines(site: Site, browser: Browser) -> None:
    """The paths for machines answer on the host itself, and nobody by nginx, however they are written."""
    for path in MACHINES:
        assert site.page.ask("GET", path)[0].status == 200, path
        for written in (
            path,
            f"/{path}",
            f"/x/..{path}",
            f"/x/..%2f{path[1:]}",
            f"/%{ord(path[1]):02x}{path[2:]}",
        ):
            assert browser.ask(written).status == 403, written
        for written in (f"{path}/", f"{path}%2f", f"{path};x", path.upper(), f"{path}%00"):
            assert browser.ask(written).status in (303, 400, 404), written
