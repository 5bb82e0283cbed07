"""Opens an asset's bytes: follows the DAM's redirections, and recognises a login page in their place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPMessage
from urllib.parse import urljoin

from shared.base.errors import ConfigError, DamError
from shared.dam.answers import in_path
from shared.dam.calls import REDIRECTS, Call
from shared.dam.faults import not_logged_in, unfit
from shared.dam.session import DamSession
from shared.http.guards import NoAnswerError, Reply, UnfitError, origin_of

LONGEST_REDIRECTION = 5
SKIP_BLOCK = 1024 * 1024


class AssetBody:
    """An asset's bytes, or the rest of them, as a stream.

    size: of the whole file, as the answer declares it; None when it does not.
    """

    def __init__(self, reply: Reply, what: str, asset_id: str) -> None:
        self._reply = reply
        self._what = what
        self._asset_id = asset_id

    def readinto(self, view: memoryview) -> int:
        """Fill the view as far as possible; 0 at the end. Raises DamError when the connection breaks."""
        try:
            return self._reply.readinto(view)
        except UnfitError as exc:
            raise unfit(self._what, self._asset_id, exc) from exc
        except NoAnswerError as exc:
            raise DamError(
                f"{self._what}: the connection broke before the end ({type(exc.reason).__name__})",
                kind="broken_download",
                retryable=True,
                item_id=self._asset_id,
            ) from exc

    @property
    def size(self) -> int | None:
        return _whole_size(self._reply)

    def skip(self, count: int) -> None:
        """Read this many bytes and drop them."""
        scratch = memoryview(bytearray(min(SKIP_BLOCK, count)))
        while count:
            got = self.readinto(scratch[:count])
            if not got:
                return
            count -= got


@contextmanager
def open_asset(session: DamSession, asset_id: str, start: int, size_bytes: int | None) -> Iterator[AssetBody]:
    """An asset's bytes from `start` on. A connection that breaks or ends too soon raises DamError
    (retryable). size_bytes: of the whole file, if known.

    It is not documented whether the DAM supports Range requests, so the answer decides: a 206 begins at
    `start`; after a 200 the bytes before it are read and dropped.
    """
    what, path = f"downloading asset {in_path(asset_id)}", f"/assets/{asset_id}/contents"
    headers = {"Accept": "*/*"} | ({"Range": f"bytes={start}-"} if start else {})
    call = Call("GET", session.url(path), what, asset_id, headers)
    with _open(session, call, size_bytes) as reply:
        if reply.status == 206 and start and _range_start(reply.headers) != start:
            raise DamError(
                f"{what}: we asked for the bytes from {start} on, but the DAM sent others"
                f" ({reply.headers.get('Content-Range')!r:.80})",
                kind="bad_answer",
                retryable=True,
                item_id=asset_id,
                status_code=206,
            )
        body = AssetBody(reply, what, asset_id)
        if reply.status != 206:
            body.skip(start)
        yield body


def _open(session: DamSession, call: Call, size_bytes: int | None) -> Reply:
    """The asset's answer, with its body not read yet, on a valid session. Raises DamError unless it succeeds.

    An HTML page may be the asset, or the login page at the end of a session, with status 200 or after a
    redirection. So a page, an answer with another length than the asset, and a failure on another host count
    only when the session is proven to be still valid.
    """
    status = 0
    for _ in range(2):
        login = session.login.ensure()
        credentials = session.login.credentials
        first = session.calls.open(call, credentials)
        try:
            reply = _follow(session, first, call)
        except (ConfigError, DamError):
            if _is_still_valid(session, login, call):
                raise
            continue
        status, is_elsewhere = reply.status, reply is not first
        try:
            if not is_elsewhere and status in (401, *REDIRECTS):
                session.login.forget(login)
            elif not _is_doubtful(reply, size_bytes, is_elsewhere) or _is_still_valid(session, login, call):
                if reply.is_success:
                    return reply
                session.calls.read(call, reply, credentials).raise_for_status()
        except BaseException:
            reply.close()
            raise
        reply.close()
    raise not_logged_in(call, status)


def _is_still_valid(session: DamSession, login: int, call: Call) -> bool:
    """Whether login number `login` is still valid: it reads the asset's record, which renews a session that
    has ended.
    """
    session.read_json("GET", f"/assets/{call.item_id}", what=call.what, item_id=call.item_id)
    return session.login.ensure() == login


def _follow(session: DamSession, reply: Reply, call: Call) -> Reply:
    """The reply at the end of the redirections (for example to an object store). Raises DamError,
    ConfigError.

    After a redirection to another host no token is sent, even if that host redirects back to the DAM.
    """
    for _ in range(LONGEST_REDIRECTION):
        location = reply.headers.get("Location")
        if reply.status not in REDIRECTS or not location:
            break
        reply.close()
        url = _redirected(call, location)
        call = replace(call, url=url, is_at_home=call.is_at_home and session.calls.is_dam(url))
        reply = session.calls.open(call, session.login.credentials)
    return reply


def _redirected(call: Call, location: str) -> str:
    """The target of a redirection; never from https to http, so that nobody in between can change
    the bytes.
    """
    refusal = ""
    try:
        target = urljoin(call.url, location)
        scheme, host, _ = origin_of(target)
    except (ValueError, UnfitError):
        refusal = f"a redirection to {location!r:.200}"
    else:
        if scheme != "https" and origin_of(call.url)[0] == "https":
            refusal = f"a redirection out of https to {host}"
    if refusal:
        raise DamError(
            f"{call.what}: the DAM sent {refusal}", kind="bad_answer", retryable=True, item_id=call.item_id
        )
    return target


def _range_start(headers: HTTPMessage) -> int | None:
    """Where the bytes of a 206 begin."""
    found = re.match(r"bytes (\d+)-", headers.get("Content-Range") or "")
    return int(found[1]) if found else None


def _is_doubtful(reply: Reply, size_bytes: int | None, is_elsewhere: bool) -> bool:
    """Whether an answer may be neither the asset of this size nor the DAM's own refusal. The DAM may not
    declare the asset's length.
    """
    if not reply.is_success:
        return is_elsewhere
    is_page = "html" in (reply.headers.get("Content-Type") or "").lower()
    expected = (size_bytes,) if is_elsewhere else (None, size_bytes)
    return is_page or (size_bytes is not None and _whole_size(reply) not in expected)


def _whole_size(reply: Reply) -> int | None:
    """The size of the whole file, from an answer with all or a part of it; None when it does not say."""
    if "Content-Encoding" in reply.headers:
        return None
    declared = (
        (reply.headers.get("Content-Range") or "").rpartition("/")[2]
        if reply.status == 206
        else reply.headers.get("Content-Length") or ""
    )
    return int(declared) if re.fullmatch("[0-9]{1,18}", declared) else None
