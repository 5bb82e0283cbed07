"""The operator's page in the demo: the product's own script as a process, used by HTTP as a browser does."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from html.parser import HTMLParser
from pathlib import Path
from types import TracebackType
from typing import Self

import requests

from simulators.installation import PAGE_OPERATOR, REPOSITORY, SCRIPTS, Installation
from simulators.postgres import ending_with_us

START_SECONDS = 30.0
ANSWER_SECONDS = 15.0
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = {"desktop": 1280, "phone": 390}


class OperatorsPage:
    """The page of this installation; a context manager that ends it.

    Raises RuntimeError when it does not start, or answers otherwise than asked.
    """

    def __init__(self, world: Installation) -> None:
        self.url = world.page_url
        self.password = secrets.token_urlsafe(12)
        self._world = world
        self._stack = ExitStack()
        self._browser = requests.Session()
        self._browser.trust_env = False

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        self._let_in()
        log = self._stack.enter_context((self._world.output / "runs" / "page.log").open("wb"))
        command: list[str | Path] = [*ending_with_us("TERM"), sys.executable, SCRIPTS / "admin_page.py"]
        process = subprocess.Popen(  # noqa: S603 - a list, never a shell: the project's own script
            [*command, "--env-file", self._world.env_file],
            cwd=REPOSITORY,
            env={"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        self._stack.callback(_end, process)
        self._stack.callback(self._browser.close)
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the operator's page does not answer: see {log.name}")
            time.sleep(0.1)

    def _let_in(self) -> None:
        """Give the operator a password."""
        done = subprocess.run(  # noqa: S603 - likewise
            [
                *(sys.executable, SCRIPTS / "a1_retry.py", "page-user", PAGE_OPERATOR),
                *("--env-file", self._world.env_file),
            ],
            cwd=REPOSITORY,
            env={"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8"},
            input=f"{self.password}\n",
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"a1_retry.py page-user: {done.stderr.strip()}")

    def _is_ready(self) -> bool:
        try:
            return self._browser.get(f"{self.url}/readyz", timeout=ANSWER_SECONDS).ok
        except requests.ConnectionError:
            return False

    def read(self, address: str) -> str:
        """A page, after the log-in form if the page asks for it."""
        answer = self._browser.get(address, timeout=ANSWER_SECONDS)
        if "/login" in answer.url:
            who = {"name": PAGE_OPERATOR, "password": self.password}
            answer = self._send(_forms(answer.text)[-1] | who, "/login")
        if not answer.ok:
            raise RuntimeError(f"{address}: {answer.status_code}")
        return answer.text

    def act(self, page: str, act: str) -> str:
        """Press the button of this act on a page. Returns the page that comes."""
        (form,) = (form for form in _forms(page) if form.get("act") == act)
        return self._send(form, "/act").text

    def _send(self, form: dict[str, str], path: str) -> requests.Response:
        answer = self._browser.post(
            f"{self.url}{path}", data=form, headers={"Origin": self.url}, timeout=ANSWER_SECONDS
        )
        if not answer.ok:
            raise RuntimeError(f"POST {path}: {answer.status_code}")
        return answer

    def take_pictures(self, folder: Path, pages: Sequence[tuple[str, str]]) -> list[Path]:
        """A picture of each (name, address), as a desktop and as a phone show it; none without a browser."""
        found = next(filter(None, map(shutil.which, BROWSERS)), None)
        if found is None:
            return []
        from playwright.sync_api import sync_playwright

        folder.mkdir()
        taken = []
        arguments = ["--disable-gpu", "--disable-background-networking", "--disable-quic"]
        with sync_playwright() as play:
            browser = play.chromium.launch(
                executable_path=found, args=arguments, chromium_sandbox=os.geteuid() != 0
            )
            for size, width in WIDTHS.items():
                tab = browser.new_page(viewport={"width": width, "height": 900})
                tab.goto(f"{self.url}/login")
                tab.fill("#name", PAGE_OPERATOR)
                tab.fill("#password", self.password)
                tab.click("main button")
                for name, address in pages:
                    tab.goto(address)
                    taken.append(folder / f"{name}_{size}.png")
                    tab.screenshot(path=taken[-1], full_page=True)
            browser.close()
        return taken


def banner(page: str) -> str:
    """The first sentence that a page says of the act before it, as plain text; "" for nothing."""
    found = re.search(r'<p id="banner-title">.*?</p>', page, re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", "", found[0]).split()) if found else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _FormReader(HTMLParser):
    """Collects the fields of each form that is sent by POST."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[dict[str, str]] = []
        self._is_in_form = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        if tag == "form":
            self._is_in_form = values.get("method", "get").lower() == "post"
            if self._is_in_form:
                self.forms.append({})
        elif tag == "input" and self._is_in_form and values.get("name"):
            self.forms[-1][values["name"]] = values.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._is_in_form = False


def _forms(page: str) -> list[dict[str, str]]:
    reader = _FormReader()
    reader.feed(page)
    return reader.forms
