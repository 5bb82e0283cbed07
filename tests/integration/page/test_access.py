"""Who gets into the operator's page, who may act, and what it refuses; on a real PostgreSQL."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask, render_template_string, request
from werkzeug.test import TestResponse

from page import CHEAP, LINES, OPERATOR, PASSWORD, READER, Browser, Page, open_page
from shared.base.errors import ConfigError, out_of_reach
from shared.page import access
from shared.page.access import acting
from shared.page.app_context import person
from shared.page.guards import HEADERS
from shared.page.logins import AT_ONCE, MOST_IN_LINE
from shared.page.users import UsersFile, line_of
from world import wait_for

HTML_ERROR = re.compile("<h1>(.*?)</h1>")
HTTPS = "https://a1.example.com"


def with_test_routes(app: Flask, acts: list[str]) -> None:
    """Handlers such as the page's own: one that acts, and those that fail."""

    @acting
    def act() -> str:
        acts.append(person().name)
        return "done"

    def fail() -> str:
        raise RuntimeError("secret detail")

    def lose_database() -> str:
        raise out_of_reach("no connection to db.internal")

    def echo() -> str:
        return render_template_string("{{ text }}", text=request.args["text"])

    app.add_url_rule("/test/act", view_func=act, methods=["POST"])
    app.add_url_rule("/test/fail", view_func=fail)
    app.add_url_rule("/test/lose", view_func=lose_database, methods=["GET", "POST"])
    app.add_url_rule("/test/echo", view_func=echo)


@pytest.fixture
def acts() -> list[str]:
    """Who acted."""
    return []


@pytest.fixture
def page(database_url: str, tmp_path: Path, acts: list[str]) -> Iterator[Page]:
    with open_page(database_url, tmp_path) as opened:
        with_test_routes(opened.app, acts)
        yield opened


@pytest.fixture
def proxied(database_url: str, tmp_path: Path, acts: list[str]) -> Iterator[Page]:
    """A page behind a proxy at 10.0.0.7 that says who asks; passwords work as well."""
    with open_page(
        database_url, tmp_path, ADMIN_PROXY_HEADER="X-Remote-User", ADMIN_PROXY_PEERS="10.0.0.7,fd00::/8"
    ) as opened:
        with_test_routes(opened.app, acts)
        yield opened


def title(answer: TestResponse) -> str:
    found = HTML_ERROR.search(answer.text)
    return found[1] if found else ""


# Reading and acting


def test_stranger__gets_no_page_and_comes_back_after_the_login(page: Page) -> None:
    browser = page.browser()
    for path in ("/", "/no/such/page"):
        assert browser.get(path).status_code == 303
    sent_away = browser.get("/test/echo?text=a&b=%2F")
    assert sent_away.headers["Location"] == "/login?next=/test/echo?text%3Da%26b%3D%252F"
    answer = browser.log_in(READER, next="/test/echo?text=a&b=%2F")
    assert answer.headers["Location"] == "/test/echo?text=a&b=%2F"
    assert browser.get("/").status_code == 200
    assert browser.get("/healthz").status_code == 200


def test_operator__acts_and_reader_may_not(page: Page, acts: list[str]) -> None:
    assert page.browser(OPERATOR).post("/test/act").text == "done"
    refused = page.browser(READER).post("/test/act")
    assert (refused.status_code, title(refused)) == (403, "You can read, but not act")
    assert "ADMIN_OPERATORS" in refused.text
    assert acts == [OPERATOR]


@pytest.mark.parametrize(
    ("other_end", "said", "shown"),
    [
        ("10.0.0.7", "192.0.2.9", "192.0.2.9"),
        ("10.0.0.7", "2001:db8::1", "2001:db8::1"),
        ("10.0.0.7", "", "10.0.0.7"),
        ("10.0.0.7", "192.0.2.9, 10.0.0.7", "10.0.0.7"),
        ("10.0.0.7", "<b>", "10.0.0.7"),
        ("10.0.0.8", "192.0.2.9", "10.0.0.8"),
    ],
)
def test_address__of_a_browser_is_believed_from_a_proxy_alone(
    proxied: Page, caplog: pytest.LogCaptureFixture, other_end: str, said: str, shown: str
) -> None:
    with caplog.at_level("INFO", "page"):
        proxied.browser(peer=other_end).get("/healthz", X_Real_IP=said)
    assert [record.peer for record in caplog.records if hasattr(record, "peer")] == [shown]


# Forms


def test_post__without_its_own_token_does_nothing(page: Page, acts: list[str]) -> None:
    browser = page.browser(OPERATOR)
    for token in ("", "0" * 64, "é", page.browser(OPERATOR).csrf()):
        refused = browser.post("/test/act", csrf=token)
        assert (refused.status_code, title(refused)) == (403, "The form is out of date"), token
    missing = browser.send("POST", "/test/act", headers={"Origin": browser.origin})
    assert missing.status_code == 403
    assert acts == []


def test_post__is_taken_from_our_own_pages_alone(page: Page, acts: list[str]) -> None:
    browser = page.browser(OPERATOR)
    token = browser.csrf()
    evil = "https://evil.example.com"
    for headers, is_taken in (
        ({"Origin": "http://localhost"}, True),
        ({"Origin": "http://localhost:8081"}, False),
        ({"Origin": "https://localhost"}, False),
        ({"Origin": evil}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Sec_Fetch_Site": "same-origin"}, True),
        ({"Sec_Fetch_Site": "same-site"}, False),
        ({"Sec_Fetch_Site": "cross-site"}, False),
        ({"Origin": evil, "Sec_Fetch_Site": "same-origin"}, False),
        ({}, False),
    ):
        acts.clear()
        answer = browser.send("POST", "/test/act", data={"csrf": token}, headers=headers)
        assert answer.status_code == (200 if is_taken else 403), headers
        assert acts == ([OPERATOR] if is_taken else []), headers


def test_post__with_admin_url_is_taken_from_there_alone(
    database_url: str, tmp_path: Path, acts: list[str]
) -> None:
    with open_page(database_url, tmp_path, ADMIN_URL=f"{HTTPS}:443") as page:
        with_test_routes(page.app, acts)
        browser = Browser(page.app, HTTPS)
        browser.log_in(OPERATOR)
        token = browser.csrf()
        for origin in (HTTPS, "https://localhost"):
            browser.send("POST", "/test/act", data={"csrf": token}, headers={"Origin": origin})
    assert acts == [OPERATOR]


def test_login__needs_the_token_too(page: Page) -> None:
    form = {"name": OPERATOR, "password": PASSWORD}
    browser = page.browser()
    browser.get("/login")
    refused = browser.send("POST", "/login", data=form, headers={"Origin": browser.origin})
    assert refused.status_code == 403
    assert browser.get("/").status_code == 303


def test_method__other_than_three_is_refused(page: Page) -> None:
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        for path in ("/", "/login", "/healthz", "/static/htmx.min.js"):
            assert page.browser().send(method, path).status_code == 405, (method, path)


def test_get__does_not_act(page: Page, acts: list[str]) -> None:
    assert page.browser(OPERATOR).get("/test/act").status_code == 405
    assert acts == []


# By a proxy


def test_proxy__names_the_person(proxied: Page, acts: list[str]) -> None:
    for peer in ("10.0.0.7", "fd00::1", "::ffff:10.0.0.7"):
        browser = Browser(proxied.app, peer=peer)
        page = browser.get("/", X_Remote_User=OPERATOR)
        token = re.findall('name="csrf" value="([0-9a-f]+)"', browser.get("/", X_Remote_User=OPERATOR).text)
        assert page.status_code == 200
        assert OPERATOR in page.text
        assert not token or len(token[0]) == 64


def test_proxy__header_from_anybody_else_is_refused(
    proxied: Page, acts: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    for headers in ({}, {"X_Forwarded_For": "10.0.0.7"}, {"Forwarded": "for=10.0.0.7"}):
        for peer in ("127.0.0.1", "10.0.0.8", "::1", ""):
            answer = Browser(proxied.app, peer=peer).get("/", X_Remote_User=OPERATOR, **headers)
            assert (answer.status_code, title(answer)) == (403, "This address may not tell us who you are")
    assert "10.0.0.8 sent the header X-Remote-User" in caplog.text
    logged_in = proxied.browser(READER, peer="10.0.0.8")
    assert logged_in.get("/", X_Remote_User=OPERATOR).status_code == 403, "not silently as who logged in"


def test_proxy__header_that_names_nobody_is_refused(proxied: Page) -> None:
    browser = Browser(proxied.app, peer="10.0.0.7")
    for name in ("", " ", "olga, ruth", "x" * 201, "a\x1bb", "ol\xffga", " olga"):
        sent = {"REMOTE_ADDR": "10.0.0.7", "HTTP_X_REMOTE_USER": name}
        answer = browser.client.get("/", base_url=browser.origin, environ_overrides=sent)
        assert (answer.status_code, title(answer)) == (403, "The proxy did not tell us who you are"), name


def test_proxy__user_needs_the_token_of_his_browser(proxied: Page, acts: list[str]) -> None:
    """The cookie of such a user has no row: it ties forms to the browser alone."""

    @proxied.app.get("/test/form")
    def form() -> str:
        return render_template_string("{{ csrf_token() }}")

    browser = Browser(proxied.app, peer="10.0.0.7")
    token = browser.get("/test/form", X_Remote_User=OPERATOR).text
    headers = {"Origin": browser.origin, "X_Remote_User": OPERATOR}
    assert browser.send("POST", "/test/act", data={"csrf": token}, headers=headers).text == "done"
    for who in (READER, "somebody else"):
        answer = browser.send(
            "POST", "/test/act", data={"csrf": token}, headers={**headers, "X_Remote_User": who}
        )
        assert title(answer) == "The form is out of date"
    browser.client.delete_cookie("a1_to_a2")
    assert browser.send("POST", "/test/act", data={"csrf": token}, headers=headers).status_code == 403
    assert acts == [OPERATOR]


def test_proxy__alone_leaves_no_way_in_by_password(database_url: str, tmp_path: Path) -> None:
    with open_page(
        database_url, tmp_path, ADMIN_USERS_FILE="", ADMIN_PROXY_HEADER="X-Remote-User",
        ADMIN_PROXY_PEERS="10.0.0.7",
    ) as page:  # fmt: skip
        for path in ("/", "/login"):
            assert title(Browser(page.app, peer="10.0.0.7").get(path)) == "The page does not know who you are"


def test_proxy__person_cannot_be_locked_out(proxied: Page) -> None:
    stranger = proxied.browser(peer="10.0.0.7")
    for _ in range(30):
        stranger.log_in(OPERATOR, "guess")
    assert stranger.log_in(OPERATOR).status_code == 429
    browser = Browser(proxied.app, peer="10.0.0.7")
    assert browser.get("/", X_Remote_User=OPERATOR).status_code == 200


# By a password


def test_login__guesses_are_bounded_and_the_right_password_works_after_the_wait(
    page: Page, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    browser = page.browser()
    for number in range(5):
        answer = browser.log_in(OPERATOR, f"guess {number} guess")
        assert answer.status_code == 403
        assert "The name or the password is wrong" in answer.text
    refused = browser.log_in(OPERATOR)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "5")
    page.clock.pass_by(seconds=5)
    assert browser.log_in(OPERATOR, "guess 6 guess").status_code == 403
    assert browser.log_in(OPERATOR).headers["Retry-After"] == "10"
    page.clock.pass_by(seconds=10)
    assert browser.log_in(OPERATOR).status_code == 303
    assert "olga from 127.0.0.1: wrong name or password" in caplog.text
    assert "olga logged in from 127.0.0.1" in caplog.text
    assert "guess 6" not in caplog.text
    assert PASSWORD not in caplog.text


def test_login__names_in_the_log_forge_nothing(page: Page, caplog: pytest.LogCaptureFixture) -> None:
    page.browser().log_in("x\n2026-01-01T00:00:00.000Z INFO run=x page: forged\x1b[2J" + "y" * 5000)
    (message,) = [one.getMessage() for one in caplog.records if "wrong name" in one.getMessage()]
    assert "\n" not in message
    assert "\x1b" not in message
    assert len(message) < 400


def test_login__few_at_once_and_the_rest_are_sent_away(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a flood takes neither all threads nor all processors."""
    begun, go_on = threading.Semaphore(0), threading.Event()
    computing = []

    def slow(users: UsersFile, name: str, password: str) -> None:
        computing.append(name)
        begun.release()
        assert go_on.wait(30)

    monkeypatch.setattr(UsersFile, "checked", slow)
    browsers = [page.browser(peer=f"10.0.0.{number}") for number in range(MOST_IN_LINE + 1)]
    tokens = [browser.csrf("/login") for browser in browsers]

    def log_in(number: int) -> TestResponse:
        form = {"name": f"n{number}", "password": "x", "csrf": tokens[number]}
        return browsers[number].send("POST", "/login", data=form, headers={"Origin": browsers[number].origin})

    threads = [threading.Thread(target=log_in, args=(number,)) for number in range(MOST_IN_LINE)]
    for thread in threads:
        thread.start()
    for _ in range(AT_ONCE):
        assert begun.acquire(timeout=30)
    gate = page.app.extensions[access.EXTENSION].gate
    wait_for(lambda: gate._in_line._value == 0)
    refused = log_in(MOST_IN_LINE)
    assert (refused.status_code, title(refused)) == (429, "Try to log in a little later")
    assert len(computing) == AT_ONCE
    go_on.set()
    for thread in threads:
        thread.join()


def test_login__leads_to_no_other_site(page: Page) -> None:
    logged_in = page.browser(READER)
    for target in (
        *("//evil.example.com", "/\\evil.example.com", "https://evil.example.com", "/\t/evil.example.com"),
        *("javascript:alert(1)", "evil.example.com", "", "\\\\evil", "/a\r\nSet-Cookie: x=y", "/%0d\n"),
    ):
        assert page.browser().log_in(READER, next=target).headers["Location"] == "/", target
        answer = logged_in.client.get("/login", base_url=logged_in.origin, query_string={"next": target})
        assert answer.headers["Location"] == "/", target


def test_logout__leaves_a_stolen_cookie_worthless(page: Page, database_url: str) -> None:
    browser = page.browser(READER)
    stolen = browser.cookies["a1_to_a2"]
    thief = page.browser()
    thief.client.set_cookie("a1_to_a2", stolen, domain="localhost")
    assert thief.get("/").status_code == 200
    assert browser.post("/logout").status_code == 303
    assert browser.get("/").status_code == 303
    assert thief.get("/").status_code == 303


def test_session__is_new_at_each_login_and_only_its_hash_is_kept(page: Page) -> None:
    browser = page.browser()
    before = browser.csrf("/login") and browser.cookies["a1_to_a2"]
    browser.log_in(READER)
    first = browser.cookies["a1_to_a2"]
    assert first != before
    with page.app.app_context():
        rows = page.app.extensions["a1_to_a2"].connections.get().rows("SELECT * FROM page_sessions")
    assert len(rows) == 1
    assert first not in str(rows)
    other = page.browser()
    other.client.set_cookie("a1_to_a2", "A" * 43, domain="localhost")
    assert other.get("/").status_code == 303


def test_session__ends_after_its_life(page: Page) -> None:
    browser = page.browser(READER)
    page.clock.pass_by(hours=11.9)
    assert browser.get("/").status_code == 200
    page.clock.pass_by(hours=0.2)
    assert browser.get("/").status_code == 303


def test_session__ends_with_the_user_or_the_password(page: Page, acts: list[str]) -> None:
    operator, reader = page.browser(OPERATOR), page.browser(READER)
    token = operator.csrf()
    page.write_users(LINES[READER])
    assert operator.get("/").status_code == 303
    answer = operator.send("POST", "/test/act", data={"csrf": token}, headers={"Origin": operator.origin})
    assert (answer.status_code, title(answer)) == (403, "You are no longer logged in")
    assert acts == []
    assert reader.get("/").status_code == 200
    page.write_users(LINES[OPERATOR], line_of(READER, "another password", CHEAP))
    assert reader.get("/").status_code == 303


def test_users_file__that_breaks_lets_nobody_in_by_password(
    page: Page, caplog: pytest.LogCaptureFixture
) -> None:
    browser = page.browser(READER)
    page.users_file.chmod(0o666)
    page.users_file.touch()
    for answer in (browser.get("/"), page.browser().log_in(READER)):
        assert (answer.status_code, title(answer)) == (500, "A setting of the page is wrong")
        assert str(page.users_file) not in answer.text
    assert "users other than its owner can change" in caplog.text
    page.users_file.unlink()
    assert browser.get("/").status_code == 500
    page.write_users(*LINES.values())
    assert browser.get("/").status_code == 200


def test_cookie__is_closed_to_scripts_and_other_sites(page: Page, database_url: str, tmp_path: Path) -> None:
    (cookie,) = page.browser().log_in(READER).headers.getlist("Set-Cookie")
    assert cookie.startswith("a1_to_a2=")
    assert {"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    with open_page(database_url, tmp_path, ADMIN_URL=HTTPS) as secure:
        (cookie,) = Browser(secure.app, HTTPS).log_in(READER).headers.getlist("Set-Cookie")
    assert cookie.startswith("__Host-a1_to_a2=")
    assert {"Secure", "HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert "Domain" not in cookie


def test_link__from_another_site_opens_the_page_at_the_second_look(page: Page) -> None:
    """SameSite=Strict: the browser keeps the cookie back when a link in webmail is followed."""
    browser = page.browser(READER)
    kept = dict(browser.cookies)
    followed = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    answer = page.browser().get("/campaigns/1?x=%22%3E%3Cb%3E", **followed)
    assert answer.status_code == 200
    assert 'content="0; url=/campaigns/1?x=%22%3E%3Cb%3E"' in answer.text
    assert "Set-Cookie" not in answer.headers, "it would take the place of the session"
    assert browser.cookies == kept
    assert browser.get("/", **followed).status_code == 200


def test_fragment__of_somebody_who_was_logged_out_reloads_the_whole_page(page: Page) -> None:
    answer = page.browser().get("/counters", HX_Request="true")
    assert (answer.status_code, answer.headers["HX-Refresh"]) == (401, "true")


# Whatever is asked


def every_kind_of_answer(page: Page) -> dict[str, TestResponse]:
    stranger, reader = page.browser(), page.browser(READER)
    return {
        "page": reader.get("/"),
        "login": stranger.get("/login"),
        "redirect": stranger.get("/"),
        "health": stranger.get("/healthz"),
        "static": stranger.get("/static/htmx.min.js"),
        "400": reader.get("/", Host="evil.example.com"),
        "403": reader.post("/test/act"),
        "404": reader.get("/no/such"),
        "404 static": stranger.get("/static/no-such"),
        "405": reader.send("PUT", "/"),
        "413": reader.post("/test/act", reason="x" * 300_000),
        "500": reader.get("/test/fail"),
        "503": reader.get("/test/lose"),
    }


def test_answer__has_the_headers_whatever_it_is(page: Page) -> None:
    for kind, answer in every_kind_of_answer(page).items():
        if kind.isdecimal():
            assert answer.status_code == int(kind), kind
        for name, value in HEADERS.items():
            if not (kind == "static" and name == "Cache-Control"):
                assert answer.headers.get_all(name) == [value], (kind, name)
        assert "Server" not in answer.headers
        assert "Strict-Transport-Security" not in answer.headers


def test_answer__has_no_script_or_style_of_its_own(page: Page) -> None:
    for kind, answer in every_kind_of_answer(page).items():
        if kind != "static":
            assert not re.search(
                r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:", answer.text
            ), kind


def test_answer__keeps_headers_that_its_handler_set(page: Page) -> None:
    @page.app.get("/test/own")
    def own() -> tuple[str, dict[str, str]]:
        return "", {"Content-Security-Policy": "default-src 'none'"}

    answer = page.browser(READER).get("/test/own")
    assert answer.headers.get_all("Content-Security-Policy") == ["default-src 'none'"]


def test_answer__over_https_stays_there(database_url: str, tmp_path: Path) -> None:
    with open_page(database_url, tmp_path, ADMIN_URL=HTTPS) as page:
        assert Browser(page.app, HTTPS).get("/login").headers["Strict-Transport-Security"]


def test_static__is_kept_for_ever_under_its_version(page: Page) -> None:
    with page.app.test_request_context():
        address = page.app.url_for("static", filename="htmx.min.js")
    assert re.fullmatch(r"/static/htmx\.min\.js\?v=[0-9a-f]{12}", address)
    assert "immutable" in page.browser().get(address).headers["Cache-Control"]
    assert "immutable" not in page.browser().get("/static/htmx.min.js").headers["Cache-Control"]


def test_error__says_what_to_do_and_nothing_of_the_inside(
    page: Page, caplog: pytest.LogCaptureFixture
) -> None:
    found = every_kind_of_answer(page)
    for kind, answer in found.items():
        if kind.isdecimal():
            assert title(answer), kind
            assert answer.text.count("<p>") >= 2, kind
            assert "secret detail" not in answer.text
            assert "db.internal" not in answer.text
            assert "Traceback" not in answer.text
    assert "RuntimeError: secret detail" in caplog.text
    assert "db.internal" in caplog.text
    assert found["503"].headers["Retry-After"] == "10"
    lost = page.browser(OPERATOR).post("/test/lose")
    assert title(lost) == "The database cannot be reached"
    assert "Nothing was done" in lost.text


def test_text__from_outside_is_no_markup(page: Page) -> None:
    browser = page.browser(READER)
    assert browser.get("/test/echo?text=<b>'x'</b>").text == "&lt;b&gt;&#39;x&#39;&lt;/b&gt;"
    shown = browser.get("/login?next=/%22%3E%3Cscript%3E").text
    stranger = page.browser().log_in('"><script>alert(1)</script>', "wrong", next='/"><script>')
    assert "<script>" not in shown + stranger.text


def test_path__leads_out_of_no_folder(page: Page) -> None:
    for path in (
        *("/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static/..\\app.py"),
        *("/static/%2e%2e%2f%2e%2e%2fsettings.py", "/static//etc/passwd", "/static/%00", "/static/"),
    ):
        answer = page.browser().get(path)
        assert answer.status_code in (303, 308, 404), path
        assert "import" not in answer.text, path


def test_host__is_one_of_ours(page: Page) -> None:
    """Else a name that points here by DNS would make a foreign site's scripts read this page."""
    for host in ("localhost", "LOCALHOST:9999", "127.0.0.1:8080", "[::1]:8080"):
        assert page.browser().send("GET", "/healthz", headers={"Host": host}).status_code == 200, host
    for host in (
        *("evil.example.com", "localhost.evil.example.com", "10.0.0.1", "localhost, evil.example.com"),
        *("evil@localhost", "localhost:80:80", "[::1", "", "localhost/"),
    ):
        answer = page.browser().send("GET", "/healthz", headers={"Host": host})
        assert answer.status_code == 400, host
        assert "ADMIN_URL" in answer.text


def test_host__of_admin_url_is_ours_too(database_url: str, tmp_path: Path) -> None:
    with open_page(database_url, tmp_path, ADMIN_URL=HTTPS, ADMIN_LISTEN="0.0.0.0:8080") as page:
        for host, code in {"a1.example.com": 200, "A1.example.com:443": 200, "192.0.2.1:8080": 200,
                           "localhost": 200, "example.com": 400, "2130706433": 400}.items():  # fmt: skip
            assert page.browser().send("GET", "/healthz", headers={"Host": host}).status_code == code, host
    with pytest.raises(ConfigError, match="ADMIN_URL: expected an address without a path"):
        next(iter(open_page(database_url, tmp_path, ADMIN_URL=f"{HTTPS}/a1").gen))


def test_form__has_its_bounds(page: Page, acts: list[str]) -> None:
    browser = page.browser(OPERATOR)
    assert browser.post("/test/act", reason="x" * 200_000).status_code == 200
    assert browser.post("/test/act", reason="x" * 300_000).status_code == 413
    assert browser.post("/test/act", id=[""] * 7000).status_code == 413
    assert acts == [OPERATOR]


def test_request__is_one_line_in_the_log_without_its_query(
    page: Page, caplog: pytest.LogCaptureFixture
) -> None:
    browser = page.browser(READER)
    caplog.set_level(logging.INFO, logger="page")
    caplog.clear()
    browser.get("/test/echo?text=hidden")
    (line,) = [record.getMessage() for record in caplog.records if record.name == "page"]
    assert re.fullmatch(r"ruth GET /test/echo 200, \d+ ms", line)
