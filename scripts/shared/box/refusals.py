"""Explains Box's refusals in plain words, and says who can do what about them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from shared.base.errors import BoxError
from shared.base.redaction import redact, spellings
from shared.http.guards import within

if TYPE_CHECKING:
    from shared.box.calls import Answer

PASSING_STATUSES = (408, 425, 429)
RETRIED_STATUSES = (401, 409, 412, *PASSING_STATUSES)
KINDS = {**dict.fromkeys((429, 502, 503, 504), "out_of_reach"), 401: "not_logged_in"}
"""Our own kinds for these failures, whatever Box's code."""
KINDS_WITHOUT_CODE = {403: "forbidden", 404: "not_found"}
LOGIN_CODES = ("invalid_client", "invalid_grant", "unauthorized_client")
DAMAGED_ON_THE_WAY = ("bad_digest", "digest_mismatch")
"""Box refused bytes that do not match the SHA-1 that was sent with them."""
LONGEST_TEXT = 2000

MOST_CONFLICTS = 3
"""How often a name is tried before it counts as taken by somebody else. The item with that name may be ours,
from a call whose answer was lost, and an answer may be wrong.
"""

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,80}")


class NameTakenError(BoxError):
    """The name is in use in that folder. file_id or folder_id: of the item that has it, if Box said so."""

    def __init__(self, message: str, *, existing_id: str | None, item_type: str) -> None:
        super().__init__(message, kind="name_taken", retryable=True, status_code=409)
        self.file_id = existing_id if item_type == "file" else None
        self.folder_id = existing_id if item_type == "folder" else None


def error_of(answer: Answer, what: str, secrets: Sequence[str], user: str = "") -> BoxError:
    """An error answer as BoxError, with Box's own code as its kind: error notices are limited per kind, so a
    text that does not look like a code is not used. secrets: texts that must not appear in a message. user:
    the id of the user who made the call; "": the service account.
    """
    status = answer.status
    code = code_of(answer.mapping)
    if "temporar" not in code:
        code = CODES.get(status, code)
    if code in LOGIN_CODES:
        return _login_refused(answer, code, what, secrets)
    refusal = _refusal(status, code)
    if user:
        refusal = refusal.for_user(user)
    said = f"{what}: {_shown(answer, code, refusal.words)}"
    if status == 409 and code == "item_name_in_use":
        return _name_taken(answer, said)
    return BoxError(
        said,
        kind=KINDS.get(status) or code or KINDS_WITHOUT_CODE.get(status, "box_error"),
        hint=refusal.cure,
        retryable=status >= 500 or status in RETRIED_STATUSES or code in DAMAGED_ON_THE_WAY,
        status_code=status,
    )


def _shown(answer: Answer, code: str, words: str) -> str:
    """A failure in plain words, if there are any, and the details by which Box's support can find it."""
    request_id = _slug(answer.mapping.get("request_id"))
    said = f"HTTP {answer.status} {code}".rstrip() + (f", request {request_id}" if request_id else "")
    return f"{words} ({said})" if words else said


def _login_refused(answer: Answer, code: str, what: str, secrets: Sequence[str]) -> BoxError:
    """The error for a refused login. Box may quote what it was sent. It names `jti` when it has already seen
    an assertion, for example after a try whose answer was lost: the next try uses a new one.
    """
    described = storable(answer.mapping.get("error_description", ""))
    return BoxError(
        f"{what}: Box refused the credentials ({code}: {redact(described, spellings(secrets))[:200]})",
        kind="login_refused",
        hint="check BOX_CLIENT_ID, BOX_CLIENT_SECRET and BOX_ENTERPRISE_ID or BOX_JWT_CONFIG,"
        " and that the app is authorised in Box's admin console",
        retryable="jti" in described,
        status_code=answer.status,
    )


def _name_taken(answer: Answer, said: str) -> NameTakenError:
    """The item that has the name: Box sends a list for folders, one object for files."""
    conflicts = within(answer.mapping, "context_info", "conflicts")
    conflict = conflicts[0] if isinstance(conflicts, list) and conflicts else conflicts
    kind = within(conflict, "type")
    return NameTakenError(
        said,
        existing_id=safe_id(within(conflict, "id")),
        item_type=kind if isinstance(kind, str) else "file",
    )


def may_pass(answer: Answer) -> bool:
    """Whether the same call may succeed a little later, without anybody's help."""
    status = answer.status
    is_passing = status in PASSING_STATUSES or status >= 500
    return is_passing or (status in (403, 409, 423) and "temporar" in code_of(answer.mapping))


def code_of(body: Mapping[str, Any]) -> str:
    """Box's own code for a failure: a short word, "" for anything else."""
    return _slug(body.get("code") or body.get("error"))


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal of Box in plain words, and who can do what about it.

    mark: a text that Box's code contains. Not all codes are documented.
    """

    mark: str
    words: str
    cure: str

    def for_user(self, user: str) -> Refusal:
        """The same, of a user that we act for."""
        who = f"Box user {user}"
        return replace(self, words=self.words.replace(US, who), cure=self.cure.replace(US, who))


US = "our service account"
REFUSALS = (
    Refusal(
        "temporar",
        "Box is busy with another operation on that folder",
        "nothing to do: the next run tries again",
    ),
    Refusal(
        "locked", "the file is locked in Box", "unlock it there, or delete it; the next run then uploads it"
    ),
    Refusal(
        "retention",
        "a retention policy in Box does not allow changes to it",
        "ask the Box administrator to end the policy, or to move the file away; the next run then uploads it",
    ),
    Refusal(
        "legal_hold",
        "a legal hold in Box does not allow changes to it",
        "ask the Box administrator to end the hold, or to move the file away; the next run then uploads it",
    ),
    Refusal(
        "policy",
        "a security policy in Box (for example Shield) does not allow it",
        f"ask the Box administrator to allow it to {US}",
    ),
    Refusal(
        "storage_limit_exceeded",
        "the Box account is full",
        "ask the Box administrator to free or buy space; the next run then continues",
    ),
    Refusal(
        "file_size_limit_exceeded",
        "the file is larger than the Box account allows",
        "ask the Box administrator to raise the limit; or put a smaller file into the DAM",
    ),
    Refusal(
        "item_name_in_use",
        "another item in Box already has that name",
        "rename, move or delete that item in Box; the next run then uploads the file",
    ),
)
FORBIDDEN = Refusal(
    "",
    f"{US} may not do that",
    f"ask the owner of the folder in Box to make {US} an editor there, or ask the Box"
    " administrator to look for a setting that forbids it",
)
GONE = Refusal(
    "",
    f"it no longer exists, or {US} may not see it",
    f"restore it in Box, or make {US} an editor of the folder",
)
UNEXPLAINED = Refusal("", "", "")
WITHOUT_MARK = {403: FORBIDDEN, 404: GONE, 410: GONE}

CODES = {413: "file_size_limit_exceeded", 423: "item_locked"}
"""The meaning of a status without a known code, for example from a gateway."""


def _refusal(status: int, code: str) -> Refusal:
    if 400 <= status < 500:
        for refusal in REFUSALS:
            if refusal.mark in code:
                return refusal
    return WITHOUT_MARK.get(status, UNEXPLAINED)


def safe_id(value: object) -> str | None:
    """An id of Box that is safe in an address; None for anything else."""
    text = str(value) if isinstance(value, str | int) else ""
    return text if _ID.fullmatch(text) else None


def storable(value: object) -> str:
    """Text from Box that can be stored anywhere: no NUL, no half characters."""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", str(value)[:LONGEST_TEXT])


def _slug(value: object) -> str:
    return value if isinstance(value, str) and _CODE.fullmatch(value) else ""
