"""The simulated DAM's REST resources: sessions, look-ups, search, folders, assets, states and edits.

Paths, parameters and answers are those of OTMM's REST API v6 as pyxecm otmm.py and OpenText's web UI use it;
MARKDOWN_DOCS/DAM_AND_BOX.md marks what is confirmed. Errors have the shape of `exception_body`.
"""

import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any, Protocol
from urllib.parse import quote

from simulators.dam_http import Request, Response, html_response, json_response
from simulators.dam_search import BadSearchError, Search, sort_items
from simulators.dam_shapes import (
    ApiError,
    JsonObject,
    Load,
    exception_body,
    is_true,
    item_object,
    json_parameter,
    lookup_domain_object,
    single_lists_unwrapped,
)
from simulators.dam_store import (
    ID_FIELD,
    DamStore,
    Item,
    UnknownItemError,
    content_blocks,
    content_length,
)

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
LOGIN_PAGE = "/otdsws/login"


class Account(Protocol):
    """The one account there is; read at every log-in, so a test may change it."""

    client_id: str
    client_secret: str
    username: str
    password: str
    token_lifetime: float | None


@dataclass(frozen=True)
class Ticket:
    """A log-in that has not been ended. `number` is the session's id, the value X-Requested-By must have."""

    login: str
    number: int
    secret: str
    cookie: str | None
    expires_at: float | None


class Sessions:
    """Log-ins: OAuth tokens (pyxecm otmm.py) and sessions by cookie or message digest."""

    def __init__(self, account: Account) -> None:
        """Nobody is logged in."""
        self._account = account
        self._guard = threading.Lock()
        self._tickets: dict[str, Ticket] = {}
        self._made = 1000

    def expire_all(self) -> None:
        """Every log-in so far becomes invalid."""
        with self._guard:
            self._tickets.clear()

    def end(self, ticket: Ticket) -> None:
        """Log out."""
        with self._guard:
            for key in (ticket.secret, ticket.cookie or ""):
                self._tickets.pop(key, None)

    def grant(self, form: dict[str, str]) -> Ticket:
        """A token for grant `password` or `client_credentials`; credentials in the form. Raises ApiError."""
        account = self._account
        kind = form.get("grant_type", "")
        if kind not in ("password", "client_credentials"):
            raise ApiError(400, "unsupported_grant_type")
        if (form.get("client_id"), form.get("client_secret")) != (account.client_id, account.client_secret):
            raise ApiError(401, "invalid_client")
        if kind == "client_credentials":
            return self.issue(account.client_id, is_session=False)
        if (form.get("username"), form.get("password")) != (account.username, account.password):
            raise ApiError(401, "invalid_grant")
        return self.issue(account.username, is_session=False)

    def log_in(self, form: dict[str, str]) -> Ticket:
        """A session for user name and password. Raises ApiError 401."""
        account = self._account
        if (form.get("username"), form.get("password")) != (account.username, account.password):
            raise ApiError(401, "Invalid user name or password")
        return self.issue(account.username, is_session=True)

    def issue(self, login: str, *, is_session: bool) -> Ticket:
        """A log-in for this user."""
        lifetime = self._account.token_lifetime
        with self._guard:
            self._made += 1
            ticket = Ticket(
                login=login,
                number=self._made,
                secret=secrets.token_hex(20),
                cookie=f"{secrets.token_hex(16).upper()}.NODE1" if is_session else None,
                expires_at=None if lifetime is None else time.monotonic() + lifetime,
            )
            self._tickets[ticket.secret] = ticket
            if ticket.cookie is not None:
                self._tickets[ticket.cookie] = ticket
            return ticket

    def find(self, request: Request) -> Ticket | None:
        """Who asks: by Authorization, else otmmauthtoken, else cookie. The first that is sent decides."""
        key = _credential(request)
        with self._guard:
            ticket = self._tickets.get(key or "")
        if ticket is None or (ticket.expires_at is not None and time.monotonic() >= ticket.expires_at):
            return None
        return ticket


def _credential(request: Request) -> str | None:
    authorization = request.headers.get("Authorization")
    if authorization is not None:
        scheme, _, token = authorization.partition(" ")
        return token.removeprefix("otmmToken ").strip() if scheme.lower() == "bearer" else None
    digest = request.headers.get("otmmauthtoken")
    if digest is not None:
        return digest
    try:
        morsel = SimpleCookie(request.headers.get("Cookie", "")).get("JSESSIONID")
    except CookieError:
        return None
    return morsel.value if morsel else None


Resource = Callable[["DamRest", Request, Ticket, str], Response]


class DamRest:
    """Answers requests below /otmmapi/v6."""

    def __init__(self, store: DamStore, sessions: Sessions) -> None:
        """Both are shared with the simulator."""
        self.store = store
        self.sessions = sessions

    def answer(self, request: Request) -> Response:
        """Never raises for what a client does wrong."""
        try:
            response = self._dispatch(request)
        except ApiError as exc:
            return json_response(exception_body(exc.status, str(exc), exc.error_code), exc.status)
        except BadSearchError as exc:
            return json_response(exception_body(500, str(exc)), 500)
        except UnknownItemError as exc:
            return json_response(
                exception_body(404, f"Asset {exc.args[0]} does not exist or may not be seen"), 404
            )
        return response

    def _dispatch(self, request: Request) -> Response:
        if request.path == LOGIN_PAGE:
            return html_response(200, "OpenText Directory Services: Sign in")
        if (request.method, request.route) == ("POST", "/sessions/oauth2/token"):
            token = self.sessions.grant(request.form).secret
            return json_response({"token_info": {"oauth_token": {"accessToken": token}}})
        if (request.method, request.route) == ("POST", "/sessions"):
            return self._session_answer(self.sessions.log_in(request.form), new=True)
        ticket = self.sessions.find(request)
        if ticket is None:
            return self._not_logged_in()
        self._check_requested_by(request, ticket)
        return self._resource(request, ticket)

    def _resource(self, request: Request, ticket: Ticket) -> Response:
        known = False
        for method, pattern, resource in ROUTES:
            found = pattern.fullmatch(request.route)
            if found and method == request.method:
                return resource(self, request, ticket, found.group(1) if found.groups() else "")
            known = known or bool(found)
        raise ApiError(405 if known else 404, f"No resource for {request.method} {request.path}")

    def _not_logged_in(self) -> Response:
        if self.store.options.login_page_on_expired:
            return html_response(200, "OpenText Directory Services: Sign in")
        if self.store.options.html_login_on_expired:
            return html_response(302, "Found", {"Location": LOGIN_PAGE})
        raise ApiError(401, "The session is not valid or has expired")

    def _check_requested_by(self, request: Request, ticket: Ticket) -> None:
        if not self.store.options.require_requested_by or ticket.cookie is None:
            return
        is_write = request.method in WRITES and request.route != "/sessions"
        if is_write and request.headers.get("X-Requested-By") != str(ticket.number):
            raise ApiError(400, "X-Requested-By must carry the id of the session")

    def _json(self, value: JsonObject) -> Response:
        options = self.store.options
        if options.omit_empty_lists:
            for inner in value.values():
                for name in ("asset_list", "folder_list"):
                    if isinstance(inner, dict) and inner.get(name) == []:
                        del inner[name]
        return json_response(single_lists_unwrapped(value) if options.single_object_lists else value)

    # --- sessions ---

    def _session_answer(self, ticket: Ticket, *, new: bool = False) -> Response:
        session = {
            "domain_name": "OTMM",
            "id": ticket.number,
            "local_session": False,
            "login_name": ticket.login,
            "message_digest": ticket.secret,
            "role_name": "Administrator",
            "user_full_name": ticket.login,
            "user_id": "1001",
            "user_role_id": 1,
            "validation_key": -ticket.number,
        }
        headers = {"Set-Cookie": f"JSESSIONID={ticket.cookie}; Path=/otmmapi; HttpOnly"} if new else {}
        return json_response({"session_resource": {"session": session}}, headers=headers)

    def get_session(self, request: Request, ticket: Ticket, _: str) -> Response:
        """Who am I; its status is the validity check."""
        return self._session_answer(ticket)

    def delete_session(self, request: Request, ticket: Ticket, _: str) -> Response:
        """Log out."""
        self.sessions.end(ticket)
        return json_response({})

    # --- look-ups and search ---

    def get_lookup_domains(self, request: Request, ticket: Ticket, _: str) -> Response:
        """All lookup domains with their values."""
        with self.store.guard:
            domains = [lookup_domain_object(*entry) for entry in self.store.lookup_domains.items()]
        return self._json({"lookup_domains_resource": {"lookup_domains": domains}})

    def get_lookup_domain(self, request: Request, ticket: Ticket, domain_id: str) -> Response:
        """One of them, or 404."""
        with self.store.guard:
            values = self.store.lookup_domains.get(domain_id)
        if values is None:
            raise ApiError(404, f"Lookup domain {domain_id} does not exist")
        return self._json(
            {"lookup_domain_resource": {"lookup_domain": lookup_domain_object(domain_id, values)}}
        )

    def search_text(self, request: Request, ticket: Ticket, _: str) -> Response:
        """Folders and assets mixed. Both counts agree with what paging delivers (pyxecm relies on it), unless
        an option says otherwise.
        """
        search = Search(self.store, request.params)
        hits = self._without_deleted(request, search.hits)
        page, offset = self._page(request, hits)
        load = Load.from_params(request.params)
        result = {
            "asset_group_count": {"entry": []},
            "asset_id_list": [item.id for item in page],
            "contains_invalid_conditions": search.is_invalid,
            "facet_field_response_list": [],
            "hit_count": len(page),
            "offset": offset,
            "total_hit_count": len(hits) + self.store.options.hit_count_offset,
        }
        assets = [] if request.params.get("return_type") == "ids" else page
        shapes = [item_object(self.store, item, load, in_list=True, indexed=True) for item in assets]
        return self._json({"search_result_resource": {"search_result": result, "asset_list": shapes}})

    def _without_deleted(self, request: Request, items: list[Item]) -> list[Item]:
        wanted = json_parameter(request.params, "asset_filter_request", "asset_filter_request")
        exclude = is_true(wanted.get("exclude_deleted_assets"))
        return [item for item in items if not (exclude and item.deleted)]

    def _page(self, request: Request, items: list[Item]) -> tuple[list[Item], int]:
        options = self.store.options
        try:
            after = max(0, int(request.params.get("after", 0)))
            limit = int(request.params["limit"]) if "limit" in request.params else options.default_page_size
        except ValueError:
            raise ApiError(400, "after and limit must be numbers") from None
        length = len(items) if not limit or limit < 0 else limit
        if options.max_page_size is not None:
            length = min(length, options.max_page_size)
        if options.ignore_after:
            after = 0
        return items[after : after + length], after

    # --- folders ---

    def get_root_folders(self, request: Request, ticket: Ticket, _: str) -> Response:
        """The folders that have no parent."""
        with self.store.guard:
            roots = [item for item in self.store.items.values() if item.is_folder and not item.parents]
        return self._json({"folders_resource": {"folder_list": self._listed(request, roots)[0]}})

    def get_folder(self, request: Request, ticket: Ticket, folder_id: str) -> Response:
        """One folder."""
        load = Load.from_params(request.params)
        return self._json(
            {"folder_resource": {"folder": item_object(self.store, self.store.folder(folder_id), load)}}
        )

    def _listed(self, request: Request, items: list[Item]) -> tuple[list[JsonObject], int]:
        live = sort_items(self._without_deleted(request, items), request.params.get("sort"))
        page, _ = self._page(request, live)
        load = Load.from_params(request.params)
        return [item_object(self.store, item, load, in_list=True) for item in page], len(live)

    def get_children(self, request: Request, ticket: Ticket, folder_id: str) -> Response:
        """Folders and assets mixed, deleted ones too unless filtered."""
        shapes, _ = self._listed(request, self.store.children(folder_id))
        return self._json({"folder_children": {"asset_list": shapes}})

    def get_sub_folders(self, request: Request, ticket: Ticket, folder_id: str) -> Response:
        """Folders only."""
        folders = [item for item in self.store.children(folder_id) if item.is_folder]
        return self._json({"folders_resource": {"folder_list": self._listed(request, folders)[0]}})

    def get_folder_assets(self, request: Request, ticket: Ticket, folder_id: str) -> Response:
        """Assets only, with a collection_summary."""
        assets = [item for item in self.store.children(folder_id) if not item.is_folder]
        shapes, total = self._listed(request, assets)
        summary = {
            "after_index": request.params.get("after", "0"),
            "limit": request.params.get("limit", ""),
            "actual_count_of_items": len(shapes),
            "total_number_of_items": total,
            "group_to_count_map": {"entry": [{"key": "ASSET", "value": total}]},
        }
        return self._json({"assets_resource": {"collection_summary": summary, "asset_list": shapes}})

    # --- assets ---

    def get_asset(self, request: Request, ticket: Ticket, asset_id: str) -> Response:
        """One asset, or a folder by its id."""
        load = Load.from_params(request.params)
        return self._json(
            {"asset_resource": {"asset": item_object(self.store, self.store.item(asset_id), load)}}
        )

    def get_contents(self, request: Request, ticket: Ticket, asset_id: str) -> Response:
        """The master's bytes."""
        item = self.store.item(asset_id)
        if item.is_folder or request.params.get("rendition_type", "master") not in ("master", "original"):
            raise ApiError(404, f"Asset {asset_id} has no such content")
        if self.store.options.contents_redirect:
            return html_response(302, "Found", {"Location": self.store.options.contents_redirect})
        return self._bytes_of(request, item)

    def get_rendition(self, request: Request, ticket: Ticket, content_id: str) -> Response:
        """The same bytes by the id of the content."""
        with self.store.guard:
            owner = self.store.content_owner.get(content_id)
        if owner is None:
            raise ApiError(404, f"Content {content_id} does not exist")
        return self._bytes_of(request, self.store.item(owner))

    def _bytes_of(self, request: Request, item: Item) -> Response:
        size = content_length(item.content)
        fallback = re.sub(r"[^ !#-\[\]-~]", "_", item.name)
        encoded = quote(item.name, safe="", errors="replace")
        disposition = f"attachment; filename=\"{fallback}\"; filename*=UTF-8''{encoded}"
        headers = {"Content-Disposition": disposition}
        wanted = request.headers.get("Range")
        if not self.store.options.accept_ranges or wanted is None:
            return Response(200, b"", item.mime_type, headers, content_blocks(item.content), size)
        start, stop = _range(wanted, size)
        headers |= {"Content-Range": f"bytes {start}-{stop - 1}/{size}", "Accept-Ranges": "bytes"}
        return Response(
            206, b"", item.mime_type, headers, content_blocks(item.content, start, stop), stop - start
        )

    # --- states and edits ---

    def put_states(self, request: Request, ticket: Ticket, _: str) -> Response:
        """Lock or unlock several, folders too. 200 can carry failures: they are in failed_object_list."""
        context = json_parameter(request.params, "selection_context", "selection_context")
        ids = context.get("asset_ids")
        if isinstance(ids, str):
            ids = [ids]
        if not isinstance(ids, list) or not ids:
            raise ApiError(400, "selection_context names no asset_ids")
        done: list[str] = []
        failed: list[JsonObject] = []
        for asset_id in map(str, ids):
            try:
                reason = self._change_state(request, ticket, asset_id)
            except UnknownItemError:
                reason = "The asset does not exist or may not be seen"
            if reason is None:
                done.append(asset_id)
            else:
                failed.append({"asset_id": asset_id, "message": reason})
        result = {"successful_object_list": done, "failed_object_list": failed}
        return self._json({"bulk_asset_result_representation": {"bulk_asset_result": result}})

    def put_state(self, request: Request, ticket: Ticket, asset_id: str) -> Response:
        """Lock or unlock one."""
        reason = self._change_state(request, ticket, asset_id)
        if reason is not None:
            raise ApiError(409, reason)
        return self._json(
            {"asset_resource": {"asset": item_object(self.store, self.store.item(asset_id), Load())}}
        )

    def _change_state(self, request: Request, ticket: Ticket, asset_id: str) -> str | None:
        """Why it was refused, or None when done. Raises ApiError when the refusal is to be an error."""
        action = request.params.get("action", "")
        if action not in ("lock", "unlock"):
            raise ApiError(400, f"Unknown action {action!r}")
        options = self.store.options
        with self.store.guard:
            item = self.store.item(asset_id)
            refused_by_switch = action == "lock" and options.lock_answer != "bulk_ok"
            change = self.store.lock if action == "lock" else self.store.unlock
            if not refused_by_switch and change(asset_id, ticket.login):
                return None
            message = f"{item.name} is locked by {item.locked_by or 'another user'}"
        if (options.lock_answer if refused_by_switch else options.lock_refusal) == "error":
            raise ApiError(409, message)
        return message

    def patch_folder(self, request: Request, ticket: Ticket, folder_id: str) -> Response:
        """edited_folder.data.metadata."""
        item = self.store.folder(folder_id)
        self._edit(request, ticket, item, "edited_folder")
        return self._json({"folder_resource": {"folder": item_object(self.store, item, Load(metadata=True))}})

    def patch_asset(self, request: Request, ticket: Ticket, asset_id: str) -> Response:
        """edited_asset.data.metadata."""
        item = self.store.item(asset_id)
        self._edit(request, ticket, item, "edited_asset")
        return self._json({"asset_resource": {"asset": item_object(self.store, item, Load(metadata=True))}})

    def _edit(self, request: Request, ticket: Ticket, item: Item, name: str) -> None:
        try:
            edits = request.json[name]["data"]["metadata"]
        except (KeyError, TypeError):
            edits = None
        if isinstance(edits, dict):
            edits = [edits]
        if not isinstance(edits, list):
            raise ApiError(400, f"The body must be JSON with a list in {name}.data.metadata")
        with self.store.guard:
            if item.locked_by != ticket.login and (
                self.store.options.require_lock or item.locked_by is not None
            ):
                raise ApiError(403, f"{item.name} is not locked by {ticket.login}")
            changes = [self._read_edit(edit) for edit in edits]
            if not self.store.options.status_does_not_stick:
                for change in changes:
                    change(item.id)
        if self.store.options.patch_404_after_save:
            raise UnknownItemError(item.id)

    def _read_edit(self, edit: Any) -> Callable[[str], None]:
        field_id = str(edit.get("id")) if isinstance(edit, dict) else ""
        kind = str(edit.get("type", "")).rsplit(".", 1)[-1] if field_id else ""
        if kind == "MetadataTableField" and self.store.knows_table(field_id):
            codes = [_edited_value(entry, field_id) or "" for entry in edit.get("values") or []]
            return lambda item_id: self.store.set_table(item_id, field_id, codes)
        if kind != "MetadataField" or not self.store.knows_field(field_id) or field_id == ID_FIELD:
            raise ApiError(400, f"Metadata field {field_id!r} of type {kind!r} cannot be edited")
        value = _edited_value(edit.get("value"), field_id, may_clear=True)
        return lambda item_id: self.store.set_field(item_id, field_id, value)


def _edited_value(holder: Any, field_id: str, *, may_clear: bool = False) -> str | None:
    """What an edit's `value` holds: `{value: {type, value}}` or a DomainValue `{value: {field_value}}`.

    A table's entry holds the same form. None clears a scalar field.
    """
    if holder is None and may_clear:
        return None
    inner = holder.get("value") if isinstance(holder, dict) else None
    if isinstance(inner, dict) and isinstance(inner.get("field_value"), dict):
        inner = inner["field_value"]
    if not isinstance(inner, dict) or not isinstance(inner.get("value"), str | int | float):
        raise ApiError(400, f"Metadata field {field_id}: the value has none of the known forms")
    return str(inner["value"])


def _range(header: str, size: int) -> tuple[int, int]:
    """[start, stop) of `bytes=a-b`, `bytes=a-` or `bytes=-n`."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if not found or found.groups() == ("", ""):
        raise ApiError(416, f"Range {header!r} is not understood")
    first, last = found.groups()
    if not first:
        return max(0, size - int(last)), size
    if int(first) >= size:
        raise ApiError(416, f"Range {header!r} lies behind the end")
    return int(first), min(size, int(last) + 1) if last else size


def _route(method: str, pattern: str, resource: Resource) -> tuple[str, re.Pattern[str], Resource]:
    return method, re.compile(pattern), resource


ROUTES = [
    _route("GET", "/sessions", DamRest.get_session),
    _route("DELETE", "/sessions", DamRest.delete_session),
    _route("GET", "/lookupdomains", DamRest.get_lookup_domains),
    _route("GET", "/lookupdomains/([^/]+)", DamRest.get_lookup_domain),
    _route("GET", "/search/text", DamRest.search_text),
    _route("POST", "/search/text", DamRest.search_text),
    _route("GET", "/folders/rootfolders", DamRest.get_root_folders),
    _route("GET", "/folders/([^/]+)", DamRest.get_folder),
    _route("PATCH", "/folders/([^/]+)", DamRest.patch_folder),
    _route("GET", "/folders/([^/]+)/children", DamRest.get_children),
    _route("GET", "/folders/([^/]+)/folders", DamRest.get_sub_folders),
    _route("GET", "/folders/([^/]+)/assets", DamRest.get_folder_assets),
    _route("PUT", "/assets/state", DamRest.put_states),
    _route("GET", "/assets/([^/]+)", DamRest.get_asset),
    _route("PATCH", "/assets/([^/]+)", DamRest.patch_asset),
    _route("GET", "/assets/([^/]+)/contents", DamRest.get_contents),
    _route("PUT", "/assets/([^/]+)/state", DamRest.put_state),
    _route("GET", "/renditions/([^/]+)", DamRest.get_rendition),
]
