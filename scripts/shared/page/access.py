"""Who asks, what they may do, and how they get in and out: by a proxy's header, or by name and password."""

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
"""In which a proxy says where a browser is."""
MOST_FIELDS = 6000
"""Of a form."""
OPEN = ("static", "health")
"""Endpoint, or blueprint, that needs no log-in."""
LOG_IN, LET_IN = "access.log_in", "access.let_in"
"""The form, and what takes it."""
BUSY_SECONDS = 5

P = ParamSpec("P")

blueprint = Blueprint("access", __name__)


@dataclass(frozen=True, slots=True)
class Access:
    """What access needs beside the context. users: None: nobody gets in by a password."""

    site: Site
    users: UsersFile | None
    tries: Tries
    gate: Gate


def guard(app: Flask, settings: PageSettings) -> None:
    """Let each request of this application pass the checks of this module. Raises ConfigError for settings
    that cannot work.
    """
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
    """Where this page is."""
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
    """What comes before every handler. None: it may answer."""
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
    """A name that DNS points here from elsewhere would let a foreign page read ours."""
    if site().is_host(request.headers.get("Host", "")):
        return
    raise PageError(
        400,
        "This page has another address",
        "The request names a host that is not this page's. Nothing was changed.",
        "Open the page by its own address. When this is its address, set ADMIN_URL to it and start the page"
        " again.",
    )


def _comes_from_elsewhere() -> bool:
    """Whether a link of another site, such as webmail, was followed: then the browser keeps our cookie back,
    and it is not known who asks.
    """
    return (
        request.method == "GET"
        and request.headers.get("Sec-Fetch-Site") == "cross-site"
        and request.headers.get("Sec-Fetch-Mode") == "navigate"
        and not _secret()
    )


def _show_again() -> Response:
    """A page that opens the same address once more, as a link of our own: with the cookie."""
    return make_response(render_template("onward.html.j2", target=_address()))


def _address() -> str:
    """Path and query of the request, as a local address."""
    query = request.query_string.decode("latin-1")
    path = quote(request.path, safe="/~")
    target = f"{path}?{quote(query, safe='=&%+/~')}" if query else path
    return target if guards.is_local_path(target) else "/"


def _who_asks(access: AccessSettings) -> Person | None:
    """The person whom the proxy names, else the one who logged in; None for nobody."""
    named = _named_by_proxy(access)
    if named is not None:
        return Person(named, named in access.operators, "proxy", peer())
    users, token = _access().users, _secret()
    if users is None:
        raise PageError(
            403,
            "The page does not know who you are",
            "Your log-in is kept by a proxy in front of this page, and this request did not come with it.",
            "Open the page by the address of the proxy. For the one who looks after it: see"
            " ADMIN_PROXY_HEADER and ADMIN_PROXY_PEERS.",
        )
    session = Sessions(database()).find(token, here().now()) if token else None
    if session is None:
        return None
    name, fingerprint = session
    user = users.users().get(name)
    if user is None or user.fingerprint != fingerprint:
        return None  # removed since, or given another password
    return Person(name, name in access.operators, "password", peer())


def _named_by_proxy(access: AccessSettings) -> str | None:
    """Whom a proxy's header names; None without one. Raises PageError when it cannot be believed."""
    value = request.headers.get(access.proxy_header) if access.proxy_header else None
    if value is None:
        return None
    if not _is_of(_other_end(), access):
        logger.warning(
            "%s sent the header %s, and is not in ADMIN_PROXY_PEERS: refused",
            escape_line(_other_end()), access.proxy_header, extra={"action": "page_refused"},
        )  # fmt: skip
        raise PageError(
            403,
            "This address may not say who asks",
            "The request has the header by which the proxy names people, and does not come from the proxy.",
            "Open the page by the proxy's address. For the one who looks after it: see ADMIN_PROXY_PEERS.",
        )
    try:
        name = value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        name = ""
    # Several headers of one name arrive joined by commas.
    if not name or name != name.strip() or len(name) > MOST_NAME or "," in name or escape_line(name) != name:
        logger.warning(
            "the header %s of the proxy %s names nobody: refused",
            access.proxy_header, escape_line(_other_end()), extra={"action": "page_refused"},
        )  # fmt: skip
        raise PageError(
            403,
            "The proxy did not say who asks",
            f"Its header must hold one name of 1 to {MOST_NAME} printable characters, without commas.",
            "Tell the one who looks after the proxy.",
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
    if request.headers.get("HX-Request"):  # a piece of a page that is shown: the whole page must ask
        return make_response("", 401, {"HX-Refresh": "true"})
    if request.method == "POST":
        raise PageError(
            403,
            "You are not logged in any more",
            "Nothing was done.",
            "Log in, open the page again and do it once more.",
        )
    return redirect(url_for(LOG_IN, next=_address()), 303)


# Forms


def _check_origin() -> None:
    asked = f"{request.scheme}://{request.headers.get('Host', '')}"
    origin, fetch_site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if site().is_origin(origin, fetch_site, asked):
        return
    logger.warning(
        "a form from %s, sent by %s, was refused",
        escape_line(origin or "an unknown origin"), escape_line(peer()), extra={"action": "page_refused"},
    )  # fmt: skip
    raise PageError(
        403,
        "The form came from another site",
        "Acts are taken only from pages of this site. Nothing was done.",
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
        "Go back, reload the page and do it once more.",
    )


def csrf_token() -> str:
    """The token for the field `csrf` of each form; made anew when somebody logs in."""
    if not _secret():
        g.new_secret = guards.new_secret()
    return guards.csrf_token(_secret(), _purpose())


def _purpose() -> str:
    """For whom forms are: the person, or those who log in."""
    found: Person | None = g.get("person")
    return f"of:{found.name}" if found else "log-in"


def _secret() -> str:
    """The browser's secret: as it sent it, or as this answer gives it; "" for none."""
    value: str = g.get("new_secret") or request.cookies.get(site().cookie_name, "")
    return value if guards.is_secret(value) else ""


def _keep_secret(response: Response) -> Response:
    """Give the browser a secret that was made for the forms of this answer."""
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
    """For the handlers that change something: only those in ADMIN_OPERATORS may, others get a page that
    says so.
    """

    @wraps(handler)
    def checked(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        asks = person()
        if not asks.may_act:
            logger.warning(
                "%s may only read: %s was refused",
                escape_line(asks.name), request.path, extra={"action": "page_refused"},
            )  # fmt: skip
            raise PageError(
                403,
                "You may read, and not act",
                f"{asks.name} is not one of those who may act here. Nothing was done.",
                "Ask somebody who may. For the one who looks after the page: ADMIN_OPERATORS names those who"
                " may act.",
            )
        return handler(*args, **kwargs)

    return checked


# In and out


@blueprint.get("/login")
def log_in() -> ResponseReturnValue:
    """The form."""
    target = request.args.get("next", "/")
    if g.person is not None:
        return redirect(target if guards.is_local_path(target) else "/", 303)
    return _form(target)


def _form(target: str, name: str = "", fault: str = "", status: int = 200) -> Response:
    target = target if guards.is_local_path(target) else "/"
    return make_response(render_template("login.html.j2", next=target, name=name, fault=fault), status)


@blueprint.post("/login")
def let_in() -> ResponseReturnValue:
    """Let somebody in whose password is right: a new session, whatever the browser had before."""
    users = _access().users
    if users is None:
        raise PageError(404, *WORDS[404])
    form = request.form
    name, password, target = form.get("name", "").strip(), form.get("password", ""), form.get("next", "/")
    now, tries = here().now(), _access().tries
    with _access().gate.turn() as is_ours:
        if not is_ours:
            raise _too_many(BUSY_SECONDS, "Many people try to log in at this moment.")
        # A longer name is nobody's, and must not fill the memory.
        wait = tries.begin(name[: MOST_NAME + 1], peer(), now)
        if wait:
            logger.warning(
                "%s from %s tries to log in too often: refused",
                _shown(name), escape_line(peer()), extra={"action": "page_login_refused"},
            )  # fmt: skip
            raise _too_many(
                math.ceil(wait.total_seconds()), "Wrong passwords came too often, for this name or from here."
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
        "Log in a little later",
        what,
        f"Try again in {seconds} second{'' if seconds == 1 else 's'}.",
        {"Retry-After": str(seconds)},
    )


def _shown(name: str) -> str:
    return escape_line(name[:MOST_NAME]) or "nobody"


@blueprint.post("/logout")
def log_out() -> ResponseReturnValue:
    """End the session: the cookie is worth nothing any more, whoever has a copy."""
    asks = person()
    if asks.came_by == "proxy":
        raise PageError(
            400,
            "The proxy keeps your log-in",
            "You came in by a proxy in front of this page, which cannot be left from here.",
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
