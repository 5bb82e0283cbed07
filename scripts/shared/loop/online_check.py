"""Does `--check --online`: logs in to every system and checks what a run needs. Writes nothing anywhere."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from shared.base.errors import AppError, BoxError, ConfigError, DamError
from shared.base.values import BoxSettings, DamSettings
from shared.box.client import BoxClient
from shared.dam.client import DamClient
from shared.notifier import Mailer
from shared.settings import Settings

NO_SUCH_HOST = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
FOLDERS_LOOKED_AT = 3
"""The most folders it reads: of the campaigns in A1, or of each of the first two levels below their root."""
OUR_VARIABLE = re.compile(r"\b(?:DAM|BOX|SMTP|HTTPS?|ALL)_[A-Z_]+")
REFUSED_SEARCHES = ("bad_search", "refused", "dam_error")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked. error: why it cannot work; is_open: the check could not find out."""

    subject: str
    error: AppError | None = None
    is_open: bool = False


def look_online(settings: Settings, now: datetime) -> Iterator[Finding]:
    """Check what a run needs of the DAM, Box and the mail server. A fault does not stop the other checks,
    except those that need a login that failed.
    """
    yield from look_at_dam(settings.dam, now)
    yield from look_at_box(settings.box)
    yield _look(f"mail server {settings.mail.server.host}", "SMTP_HOST", lambda: _greet(settings))


def _look(subject: str, variable: str, look: Callable[[], object], *, address: str = "") -> Finding:
    """The result of one check. An error names the variable to correct; address: the variable with the host,
    if that is another one.
    """
    try:
        look()
    except AppError as exc:
        return Finding(subject, _told(exc, subject, variable, address or variable))
    return Finding(subject)


def _told(error: AppError, subject: str, variable: str, address: str) -> AppError:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, socket.gaierror):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, socket.gaierror) and cause.errno in NO_SUCH_HOST:
        return ConfigError(f"{address}: {subject}: no host has this name; check the spelling")
    if not OUR_VARIABLE.search(str(error)):
        error.message = f"{address if error.is_out_of_reach else variable}: {error.message}"
    return error


# The DAM


def look_at_dam(settings: DamSettings, now: datetime) -> Iterator[Finding]:
    """Check the login, the campaigns folder, the search, and the two fields."""
    what = f"login to the DAM, {settings.token_url if settings.auth == 'pfx-v2' else settings.base_url}"
    try:
        dam = DamClient(settings, now=now)
    except AppError as exc:  # its certificate
        yield Finding(what, exc)
        return
    with closing(dam):
        is_at_home = settings.auth == "password" or settings.token_url.startswith(f"{settings.base_url}/")
        login = _look(what, "DAM_BASE_URL" if is_at_home else "DAM_TOKEN_URL", dam.log_in)
        yield login
        if login.error is not None:
            return
        root = settings.campaigns_folder_id
        folder = _look(
            f"campaigns folder {root} of {settings.base_url}",
            "DAM_CAMPAIGNS_FOLDER_ID",
            lambda: _campaigns_folder(dam, root),
            address="DAM_BASE_URL",
        )
        yield folder
        yield from _look_at_search(dam, settings, has_folder=folder.error is None)


def _campaigns_folder(dam: DamClient, folder_id: str) -> None:
    if dam.read_campaign(folder_id) is None:
        raise ConfigError(
            f"DAM_CAMPAIGNS_FOLDER_ID: the DAM shows no folder {folder_id}; check the id, and that the DAM"
            " user may see it"
        )


def _look_at_search(dam: DamClient, settings: DamSettings, *, has_folder: bool) -> Iterator[Finding]:
    """Check the search as a run makes it, and whether campaigns have the two fields.

    With an unknown field some installations refuse the search, others find nothing. A folder's own record
    is reliable: it lists its fields, even empty ones.
    """
    hits: list[str] = []
    search = _look(
        f"search for campaigns in {settings.status_a1}",
        "DAM_STATUS_FIELD_ID",
        lambda: hits.extend(hit.id for hit in dam.find_campaigns(is_anywhere=not has_folder)),
        address="DAM_BASE_URL",
    )
    is_refused = isinstance(search.error, DamError) and search.error.kind in REFUSED_SEARCHES
    if not is_refused:
        yield search
    fields = {
        "DAM_STATUS_FIELD_ID": settings.status_field_id,
        "DAM_NUMBER_FIELD_ID": settings.number_field_id,
    }
    shown: set[str] = set()
    samples = 0

    def read_samples() -> None:
        nonlocal samples
        below = dam.folders_below(settings.campaigns_folder_id, FOLDERS_LOOKED_AT) if has_folder else ()
        for folder_id in hits[:FOLDERS_LOOKED_AT] or below:
            shown.update(dam.fields_of(folder_id))
            samples += 1
            if shown.issuperset(fields.values()):
                return

    records = _look("records of campaigns", "DAM_CAMPAIGNS_FOLDER_ID", read_samples, address="DAM_BASE_URL")
    if records.error is not None:
        yield records
    if is_refused and settings.status_field_id in shown:
        told = f"DAM_SEARCH_OPERATOR_ID, DAM_SEARCH_CONFIG_ID: the DAM refuses the search: {search.error}"
        yield Finding(search.subject, ConfigError(told))
    for variable, field_id in fields.items():
        is_refused_for_it = is_refused and variable == "DAM_STATUS_FIELD_ID"
        yield _field_finding(variable, field_id, field_id in shown, samples, is_refused=is_refused_for_it)


def _field_finding(
    variable: str, field_id: str, is_shown: bool, samples: int, *, is_refused: bool
) -> Finding:
    """Check that campaigns have a field. samples: folders read. is_refused: the DAM refused to search it."""
    if is_shown:
        return Finding(f"field {field_id}")
    if not samples and not is_refused:
        return Finding(f"{variable}: there is no campaign in which to check the field", is_open=True)
    where = f"none of {samples} folders has it" if samples else "the DAM refuses to search it"
    told = f"{variable}: the DAM seems to have no field {field_id!r}: {where}"
    return Finding(f"field {field_id}", ConfigError(told))


# Box


class _OpenGate:
    """Grants every call: these few need no rate limit."""

    def wait(self, *, is_upload: bool) -> None:
        pass

    def pause(self, seconds: float) -> None:
        pass


def look_at_box(settings: BoxSettings) -> Iterator[Finding]:
    """Check the login, the host for uploads, and the root folder and the right to write there: of the service
    account, or of each user of BOX_USERS.
    """
    try:
        box = BoxClient(settings, _OpenGate())
    except ConfigError as exc:
        yield Finding("login to Box", exc)
        return
    with closing(box):
        login = _look(f"login to Box {settings.api_url}", "BOX_API_URL", box.log_in)
        yield login
        yield _look(f"uploads to Box {settings.upload_url}", "BOX_UPLOAD_URL", box.connect)
        if login.error is not None:
            return
        for user in settings.users or ("",):
            client = box.as_user(user, _OpenGate()) if user else box
            yield from _look_at_root(client, settings.root_folder_id, user)


def _look_at_root(box: BoxClient, folder_id: str, user: str) -> Iterator[Finding]:
    """Check that the root folder can be used. user: one of BOX_USERS; "": the service account."""
    rights: list[bool | None] = []
    variable, subject = "BOX_ROOT_FOLDER_ID", f"Box folder {folder_id}"
    if user:
        variable, subject = "BOX_USERS", f"{subject}, as Box user {user}"
    yield _look(
        subject, variable, lambda: rights.append(_box_rights(box, folder_id, user)), address="BOX_API_URL"
    )
    if rights == [None]:
        who = f"Box user {user}" if user else "we"
        yield Finding(f"{variable}: Box does not say whether {who} may write there", is_open=True)


def _box_rights(box: BoxClient, folder_id: str, user: str) -> bool | None:
    variable, who, whom = "BOX_ROOT_FOLDER_ID", "the service account", "the account"
    if user:
        _act_for(box, user)
        variable, who = "BOX_USERS", f"Box user {user}"
        whom = who
    try:
        can_upload = box.may_upload_to(folder_id)
    except BoxError as exc:
        if exc.status_code not in (403, 404):
            raise
        raise ConfigError(
            f"{variable}: {who} cannot see a folder {folder_id} in Box; check the id,"
            f" and invite {whom} there as an editor"
        ) from exc
    if can_upload is False:
        raise ConfigError(
            f"{variable}: {who} may not write to Box folder {folder_id}; make it an editor there"
        )
    return can_upload


def _act_for(box: BoxClient, user: str) -> None:
    """Raises ConfigError when the calls of this client are not made as the user."""
    try:
        shown = box.read_user()
    except BoxError as exc:
        if exc.status_code not in (400, 403, 404):
            raise
        raise ConfigError(
            f"BOX_USERS: Box does not let our app act for user {user}; check the id (not the service"
            " account's own), switch on 'Make API calls using the as-user header' in the app's configuration,"
            " and 'App + Enterprise Access' unless the app made the user; then let the Box administrator"
            " authorise the app again"
        ) from exc
    if shown != user:
        raise ConfigError(
            f"BOX_USERS: a call for user {user} was made as user {shown}; let the gateway in front of Box"
            " pass the header As-User"
        )


# The mail server


def _greet(settings: Settings) -> None:
    with Mailer(settings.mail.server) as mailer:
        mailer.connect()
