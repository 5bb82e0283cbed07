"""Finds out who asks and what they may do, and logs them in and out: by a proxy's header, or by a
password.
"""

from __future__ import annotations

import ipaddress
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec
from urllib.parse import quote

from flask import (
    Blueprint,
    Flask,
    Response,
    current_app,
    g,
    make_response,
    redirect,
    render_template,
    request,
    url_for,
)
from flask.typing import ResponseReturnValue

from shared.base.redaction import escape_line
from shared.page import guards
from shared.page.app_context import database, here, person
from shared.page.context import Person
from shared.page.faults import WORDS, PageError
from shared.page.guards import Site
from shared.page.logins import Gate, Tries
from shared.page.sessions import LIFE, Sessions
from shared.page.users import MOST_NAME, MOST_PASSWORD, UsersFile
from shared.settings import AccessSettings, PageSettings

logger = logging.getLogger("page.access")

EXTENSION = "a1_to_a2_access"
METHODS = ("GET", "HEAD", "POST")
ADDRESS_HEADER = "X-Real-IP"
"""The header in which a proxy gives the browser's address."""
MOST_FIELDS = 6000
"""The most fields that a form may have."""
OPEN = ("static", "health")
"""Endpoints and blueprints that need no log-in."""
LOG_IN, LET_IN = "access.log_in", "access.let_in"
"""The form, and the endpoint that it is sent to."""
BUSY_SECONDS = 5

P = ParamSpec("P")

blueprint = Blueprint("access", __name__)


@dataclass(frozen=True, slots=True)
class Access:
    """What access needs in addition to the context. users: None: nobody can log in by a password."""

    site: Site
    users: UsersFile | None
    tries: Tries
    gate: Gate


def guard(app: Flask, settings: PageSettings) -> None:
    """Check each request of this application. Raises ConfigError for settings that cannot work."""
    path = settings.access.users_file
    app.extensions[EXTENSION] = Access(
        guards.site_of(settings), UsersFile(path) if path else None, Tries(), Gate()
    )
    app.before_request(_admit)
    app.after_request(_keep_secret)
    app.jinja_env.globals["csrf_token"] = csrf_token
    app.context_processor(lambda: {"person": g.get("person")})


def _access() -> Access:
    found = current_app.extensions[EXTENSION]
    assert isinstance(found, Access)  # noqa: S101 - put there by guard()
    return found


def site() -> Site:
    """The address of this page."""
    return _access().site


def peer() -> str:
    """The address of the browser: the connection's other end, or what a proxy of ADMIN_PROXY_PEERS says."""
    other_end = _other_end()
    if not _is_of(other_end, here().settings.access):
        return other_end
    return _address_in(request.headers.get(ADDRESS_HEADER, "")) or other_end


def _other_end() -> str:
    """The address of the connection's other end: a browser's, or its proxy's. No header can change it."""
    return str(request.environ.get("REMOTE_ADDR") or "")


def _address_in(text: str) -> str:
    """The IP address that a header holds; "" for anything else."""
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        return ""


# Each request


def _admit() -> ResponseReturnValue | None:
    """Check the request before its handler. None: the handler may answer."""
    _check_host()
    if request.method not in METHODS:
        raise PageError(405, *WORDS[405], {"Allow": ", ".join(METHODS)})
    if request.endpoint == "static" or request.blueprint in OPEN:
        return None
    if _comes_from_elsewhere():
        return _show_again()
    g.person = _who_asks(here().settings.access)
    if g.person is None and request.endpoint not in (LOG_IN, LET_IN):
        return _ask_to_log_in()
    if request.method == "POST":
        _check_origin()
        _check_csrf()
    g.is_admitted = True
    return None


def _check_host() -> None:
    """Refuse a host name that is not ours: by such a name in DNS, another site could read our pages."""
    if site().is_host(request.headers.get("Host", "")):
        return
    raise PageError(
        400,
        "This page has another address",
        "The host name in the request is not the name of this page. Nothing was changed.",
        "Open the page by its own address. If this is its address, set ADMIN_URL to it and restart the page.",
    )


def _comes_from_elsewhere() -> bool:
    """Whether the person followed a link on another site, such as webmail: the browser then does not send our
    cookie, and we do not know who asks.
    """
    return (
        request.method == "GET"
        and request.headers.get("Sec-Fetch-Site") == "cross-site"
        and request.headers.get("Sec-Fetch-Mode") == "navigate"
        and not _secret()
    )


def _show_again() -> Response:
    """A page that opens the same address again, now as a link of our own, so that the browser sends the
    cookie.
    """
    return make_response(render_template("onward.html.j2", target=_address()))


def _address() -> str:
    """Path and query of the request, as a local address."""
    query = request.query_string.decode("latin-1")
    path = quote(request.path, safe="/~")
    target = f"{path}?{quote(query, safe='=&%+/~')}" if query else path
    return target if guards.is_local_path(target) else "/"


def _who_asks(access: AccessSettings) -> Person | None:
    """The person whom the proxy names, or else the one who logged in; None for nobody."""
    named = _named_by_proxy(access)
    if named is not None:
        return Person(named, named in access.operators, "proxy", peer())
    users, token = _access().users, _secret()
    if users is None:
        raise PageError(
            403,
            "The page does not know who you are",
            "People log in to this page through a proxy, and this request did not come from it.",
            "Open the page by the address of the proxy. For the engineer: see"
            " ADMIN_PROXY_HEADER and ADMIN_PROXY_PEERS.",
        )
    session = Sessions(database()).find(token, here().now()) if token else None
    if session is None:
        return None
    name, fingerprint = session
    user = users.users().get(name)
    if user is None or user.fingerprint != fingerprint:
        return None  # since removed, or the password has changed
    return Person(name, name in access.operators, "password", peer())


def _named_by_proxy(access: AccessSettings) -> str | None:
    """Whom a proxy's header names; None without one. Raises PageError when it cannot be believed."""
    value = request.headers.get(access.proxy_header) if access.proxy_header else None
    if value is None:
        return None
    if not _is_of(_other_end(), access):
        logger.warning(
            "refused: %s sent the header %s, but is not in ADMIN_PROXY_PEERS",
            escape_line(_other_end()), access.proxy_header, extra={"action": "page_refused"},
        )  # fmt: skip
        raise PageError(
            403,
            "This address may not tell us who you are",
            "The request has the header in which the proxy names people, but does not come from the proxy.",
            "Open the page by the proxy's address. For the engineer: see ADMIN_PROXY_PEERS.",
        )
    try:
        name = value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        name = ""
    # Several headers of one name arrive joined by commas.
    if not name or name != name.strip() or len(name) > MOST_NAME or "," in name or escape_line(name) != name:
        logger.warning(
            "refused: the header %s of the proxy %s names nobody",
            access.proxy_header, escape_line(_other_end()), extra={"action": "page_refused"},
        )  # fmt: skip
        raise PageError(
            403,
            "The proxy did not tell us who you are",
            f"Its header must contain one name of 1 to {MOST_NAME} printable characters, without commas.",
            "Tell the engineer who runs the proxy.",
        )
    return name


def _is_of(address: str, access: AccessSettings) -> bool:
    """Whether an address is a proxy's."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    return any(found in network for network in access.proxy_peers)


def _ask_to_log_in() -> ResponseReturnValue:
    if request.headers.get("HX-Request"):  # part of an open page: only the whole page can ask for a log-in
        return make_response("", 401, {"HX-Refresh": "true"})
    if request.method == "POST":
        raise PageError(
            403,
            "You are no longer logged in",
            "Nothing was done.",
            "Log in, open the page again and repeat what you did.",
        )
    return redirect(url_for(LOG_IN, next=_address()), 303)


# Forms


def _check_origin() -> None:
    asked = f"{request.scheme}://{request.headers.get('Host', '')}"
    origin, fetch_site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if site().is_origin(origin, fetch_site, asked):
        return
    logger.warning(
        "refused a form from %s, sent by %s",
        escape_line(origin or "an unknown origin"), escape_line(peer()), extra={"action": "page_refused"},
    )  # fmt: skip
    raise PageError(
        403,
        "The form came from another site",
        "This page only accepts forms from its own site. Nothing was done.",
        f"Open the page by {site().origin or 'its own address'} and do it there.",
    )


def _check_csrf() -> None:
    if sum(1 for _ in request.form.items(multi=True)) > MOST_FIELDS:
        raise PageError(413, *WORDS[413])
    secret = _secret()
    if secret and guards.is_csrf_token(request.form.get("csrf", ""), secret, _purpose()):
        return
    raise PageError(
        403,
        "The form is out of date",
        "It was made for another log-in, or the browser does not keep cookies. Nothing was done.",
        "Go back, reload the page and try again.",
    )


def csrf_token() -> str:
    """The token for the field `csrf` of each form; a new one after each log-in."""
    if not _secret():
        g.new_secret = guards.new_secret()
    return guards.csrf_token(_secret(), _purpose())


def _purpose() -> str:
    """Whom the forms are for: the person, or anyone who logs in."""
    found: Person | None = g.get("person")
    return f"of:{found.name}" if found else "log-in"


def _secret() -> str:
    """The browser's secret: the one it sent, or the one this answer sets; "" for none."""
    value: str = g.get("new_secret") or request.cookies.get(site().cookie_name, "")
    return value if guards.is_secret(value) else ""


def _keep_secret(response: Response) -> Response:
    """Send the browser the secret that was made for the forms of this answer."""
    secret: str | None = g.get("new_secret")
    if secret:
        _set_cookie(response, secret)
    return response


def _set_cookie(response: Response, secret: str) -> None:
    response.set_cookie(
        site().cookie_name, secret, max_age=LIFE, path="/",
        secure=site().is_https, httponly=True, samesite="Strict",
    )  # fmt: skip


# Acting


def acting(handler: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """Let only those in ADMIN_OPERATORS call a handler that changes something; others get a page that says
    so.
    """

    @wraps(handler)
    def checked(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        asks = person()
        if not asks.may_act:
            logger.warning(
                "%s may only read: refused %s",
                escape_line(asks.name), request.path, extra={"action": "page_refused"},
            )  # fmt: skip
            raise PageError(
                403,
                "You can read, but not act",
                f"{asks.name} is not allowed to act here. Nothing was done.",
                "Ask somebody who is. For the engineer: ADMIN_OPERATORS lists the people who may act.",
            )
        return handler(*args, **kwargs)

    return checked


# In and out


@blueprint.get("/login")
def log_in() -> ResponseReturnValue:
    """Show the log-in form."""
    target = request.args.get("next", "/")
    if g.person is not None:
        return redirect(target if guards.is_local_path(target) else "/", 303)
    return _form(target)


def _form(target: str, name: str = "", fault: str = "", status: int = 200) -> Response:
    target = target if guards.is_local_path(target) else "/"
    return make_response(render_template("login.html.j2", next=target, name=name, fault=fault), status)


@blueprint.post("/login")
def let_in() -> ResponseReturnValue:
    """Log somebody in whose password is right: always with a new session."""
    users = _access().users
    if users is None:
        raise PageError(404, *WORDS[404])
    form = request.form
    name, password, target = form.get("name", "").strip(), form.get("password", ""), form.get("next", "/")
    now, tries = here().now(), _access().tries
    with _access().gate.turn() as is_ours:
        if not is_ours:
            raise _too_many(BUSY_SECONDS, "Many people are trying to log in at this moment.")
        # Nobody has a longer name, and it must not fill the memory.
        wait = tries.begin(name[: MOST_NAME + 1], peer(), now)
        if wait:
            logger.warning(
                "refused: %s from %s tries to log in too often",
                _shown(name), escape_line(peer()), extra={"action": "page_login_refused"},
            )  # fmt: skip
            raise _too_many(
                math.ceil(wait.total_seconds()),
                "There were too many wrong passwords for this name, or from this address.",
            )
        user = users.checked(name, password) if len(password) <= MOST_PASSWORD else None
    if user is None:
        logger.warning(
            "%s from %s: wrong name or password",
            _shown(name), escape_line(peer()), extra={"action": "page_login_failed"},
        )  # fmt: skip
        return _form(target, name[:MOST_NAME], "The name or the password is wrong.", 403)
    token = Sessions(database()).begin(user, now, _secret())
    tries.succeeded(name, peer())
    logger.info(
        "%s logged in from %s", escape_line(name), escape_line(peer()), extra={"action": "page_login"}
    )
    response = make_response(redirect(target if guards.is_local_path(target) else "/", 303))
    _set_cookie(response, token)
    return response


def _too_many(seconds: int, what: str) -> PageError:
    return PageError(
        429,
        "Try to log in a little later",
        what,
        f"Try again in {seconds} second{'' if seconds == 1 else 's'}.",
        {"Retry-After": str(seconds)},
    )


def _shown(name: str) -> str:
    return escape_line(name[:MOST_NAME]) or "nobody"


@blueprint.post("/logout")
def log_out() -> ResponseReturnValue:
    """End the session: the cookie is worthless from then on, and so is a copy of it."""
    asks = person()
    if asks.came_by == "proxy":
        raise PageError(
            400,
            "You cannot log out here",
            "You logged in through a proxy in front of this page, and this page cannot end that.",
            "Log out where you logged in.",
        )
    Sessions(database()).end(_secret())
    logger.info(
        "%s logged out from %s",
        escape_line(asks.name), escape_line(asks.peer), extra={"action": "page_logout"},
    )  # fmt: skip
    response = make_response(redirect(url_for(LOG_IN), 303))
    response.delete_cookie(
        site().cookie_name, path="/", secure=site().is_https, httponly=True, samesite="Strict"
    )
    return response
