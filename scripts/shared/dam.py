"""The DAM: OpenText Media Management's REST API v6, as far as the A1→A2 job needs it.

What is confirmed, inferred or unknown about the API stands in MARKDOWN_DOCS/DAM_AND_BOX.md; what is not
confirmed is a setting.
"""

from __future__ import annotations

import json
import logging
import os
import re
import ssl
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.exceptions import TimeoutError as HttpTimeoutError
from urllib3.util.retry import Retry

from shared.errors import ConfigError, DamError
from shared.models import Asset, Campaign, DamFolder, DamSettings, MasterAssets, SearchHit

logger = logging.getLogger(__name__)

E = TypeVar("E", bound=BaseException)

API = "/otmmapi/v6"
CONNECT_TIMEOUT_SECONDS = 10
READ_TRIES = 3
CERTIFICATE_WARNING = timedelta(days=30)
OUT_OF_REACH_STATUSES = (429, 502, 503, 504)
RETRIED_STATUSES = (500, *OUT_OF_REACH_STATUSES)
GONE_STATES = ("DELETED", "SEL_DEL")

_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")
_REFUSED_CERTIFICATE_ALERTS = (
    "CERTIFICATE_REQUIRED",
    "UNKNOWN_CA",
    "BAD_CERTIFICATE",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_UNKNOWN",
    "ACCESS_DENIED",
    "HANDSHAKE_FAILURE",
)
_SERVER_CERTIFICATE_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_HOSTNAME_MISMATCH = 62  # X509_V_ERR_HOSTNAME_MISMATCH


class Readable(Protocol):
    """A stream of bytes: at most `size` of them, b"" at the end."""

    def read(self, size: int) -> bytes: ...


class DamClient:
    """One session with the DAM.

    Reads are retried a few times on dropped connections, 429 and 5xx; every call has a time-out; a session
    that ends is renewed once per call. Raises DamError for what the DAM does, ConfigError for credentials
    and certificates it will never accept.
    """

    def __init__(self, settings: DamSettings, *, now: datetime) -> None:
        self._settings = settings
        self._timeout = (CONNECT_TIMEOUT_SECONDS, settings.timeout_seconds)
        self._is_logged_in = False
        self._http = requests.Session()
        self._http.headers["User-Agent"] = "a1-to-a2"
        self._http.verify = settings.ca_bundle or True
        context = _client_context(settings, now) if settings.auth == "pfx-v2" else None
        origin = _origin(settings.base_url)
        self._http.mount("https://", _Adapter(None))
        self._http.mount("http://", _Adapter(None))
        self._http.mount(f"{origin}/", _Adapter(context))
        # A search and a login change nothing, so their POST may be repeated like a read.
        self._http.mount(f"{origin}{API}/search/", _Adapter(context, retry_posts=True))
        token_context = context if _origin(settings.token_url) == origin else None
        self._http.mount(settings.token_url, _Adapter(token_context, retry_posts=True))
        self._http.mount(f"{origin}{API}/sessions", _Adapter(context, retry_posts=True))

    def close(self) -> None:
        """Log out of a session login (the DAM would keep it open for long) and drop the connections."""
        if self._is_logged_in and self._settings.auth == "password":
            try:
                self._http.delete(self._url("/sessions"), timeout=self._timeout)
            except requests.RequestException as exc:
                logger.debug("could not log out of the DAM: %s", exc)
        self._http.close()

    # Campaigns

    def find_campaigns(self) -> list[SearchHit]:
        """The folders below the campaigns folder whose status the search index likens to A1, each once.

        An index lags and CONTAINS also hits A10, so a hit is a hint: `read_campaign` has the last word.
        """
        settings = self._settings
        condition = {
            "type": "com.artesia.search.SearchScalarCondition",
            "metadata_field_id": settings.status_field_id,
            "relational_operator_id": settings.search_operator_id,
            "value": settings.status_a1,
        }
        form = {
            "keyword_query": "*",
            "search_config_id": settings.search_config_id,
            "load_type": "metadata",
            "level_of_detail": "slim",
            "metadata_to_return": f"{settings.status_field_id},{settings.number_field_id}",
            "folder_filter": settings.campaigns_folder_id,
            "folder_filter_type": "all",
            "search_condition_list": _compact({"search_condition_list": {"search_condition": [condition]}}),
        }
        what = f"searching for campaigns in {settings.status_a1}"

        def fetch(after: int) -> list[dict[str, Any]]:
            page = {**form, "after": str(after), "limit": str(settings.page_size)}
            answer = self._json("POST", "/search/text", what=what, data=page)
            return _search_page(_mapping(answer, "search_result_resource", what), what)

        hits: dict[str, SearchHit] = {}
        for item in _all_pages(fetch, what, None):
            is_file = not _is_folder(item) and _size_of(item) is not None
            status = _code(item, settings.status_field_id)
            if not is_file and status in (None, settings.status_a1):
                hits.setdefault(item["asset_id"], SearchHit(item["asset_id"], status))
        return list(hits.values())

    def read_campaign(self, campaign_id: str) -> Campaign | None:
        """The campaign as the DAM itself has it now; None when it is gone or no longer visible (both 404)."""
        what = f"reading campaign {campaign_id}"
        try:
            answer = self._json(
                "GET", f"/folders/{_in_path(campaign_id)}", what=what, item_id=campaign_id,
                params={"load_type": "metadata", "level_of_detail": "slim"},
            )  # fmt: skip
        except DamError as exc:
            if exc.status_code == 404:
                return None
            raise
        folder = _mapping(_mapping(answer, "folder_resource", what), "folder", what)
        if folder.get("asset_id") not in (None, campaign_id):
            raise DamError(
                f"{what}: the DAM answered with {folder['asset_id']!r}",
                kind="bad_answer",
                retryable=True,
                item_id=campaign_id,
            )
        if _is_gone(folder):
            return None
        locked = folder.get("locked") is True
        return Campaign(
            id=campaign_id,
            number=_text(_code(folder, self._settings.number_field_id) or ""),
            name=_text(folder.get("name")) or campaign_id,
            status=_code(folder, self._settings.status_field_id),
            locked_by=_text(folder.get("metadata_lock_state_user_name")) if locked else None,
        )

    def change_status(self, campaign_id: str, *, expected: str, new: str) -> Campaign | None:
        """Set the status under a metadata lock, if it still is `expected`; return the campaign as re-read.

        1. lock, 2. read again, 3. PATCH, 4. unlock (whatever happened), 5. read again. The answer to the
        PATCH decides nothing: the DAM answers 404 to a save after which the folder is no longer visible, and
        a lost answer may have been a success. Raises DamError when the status did not become `new`.
        """
        self._lock(campaign_id)
        refusal: DamError | None = None
        try:
            before = self.read_campaign(campaign_id)
            if before is None or before.status != expected:
                return before
            try:
                self._patch_status(campaign_id, new)
            except DamError as exc:
                refusal = exc
        finally:
            self._unlock(campaign_id)
        after = self.read_campaign(campaign_id)
        if after is not None and after.status == new:
            return after
        if refusal is not None:
            raise refusal
        shown = "not visible any more" if after is None else f"still {after.status!r}"
        raise DamError(
            f"campaign {campaign_id}: the DAM accepted status {new} but shows the campaign as {shown}",
            kind="status_not_kept",
            hint="check the status field's workflow and the permissions of the DAM user",
            item_id=campaign_id,
        )

    def release_lock(self, campaign: Campaign) -> None:
        """Unlock a campaign that a run of ours, killed in between, left locked; leave others' locks alone."""
        if campaign.locked_by and campaign.locked_by == self._own_login():
            self._unlock(campaign.id)

    # Master Assets

    def list_master_assets(self, campaign_id: str) -> MasterAssets:
        """Every live file below the campaign's Master Assets folder, sub-folders included, each once.

        Listed to an empty last page, on a valid session: only then is an empty answer a proof. An item that
        sits in several folders is taken where it is met first. Raises DamError when anything at all could not
        be read, when two folders bear the name, and when an asset has no content yet.
        """
        name = self._settings.master_assets_folder
        roots = [
            item
            for item in self._list_children(campaign_id)
            if _is_folder(item) and _text(item.get("name")) == name
        ]
        if len(roots) > 1:
            raise DamError(
                f'campaign {campaign_id} has {len(roots)} folders named "{name}"',
                kind="ambiguous_folder",
                hint="merge or rename them in the DAM",
                item_id=campaign_id,
            )
        if not roots:
            return MasterAssets(folder_id=None)
        root = DamFolder(roots[0]["asset_id"], name, None)
        assets: dict[str, Asset] = {}
        seen = {root.id}
        waiting = deque([root])
        while waiting:
            folder = waiting.popleft()
            for item in self._list_children(folder.id):
                item_id = item["asset_id"]
                if _is_folder(item):
                    if item_id not in seen:
                        seen.add(item_id)
                        waiting.append(DamFolder(item_id, _text(item.get("name")) or item_id, folder))
                elif item_id not in assets:
                    assets[item_id] = _asset(item, folder)
        return MasterAssets(root.id, tuple(assets.values()))

    @contextmanager
    def open_asset(self, asset_id: str) -> Iterator[Readable]:
        """The master bytes of an asset, as a stream. A connection that breaks raises DamError (retryable)."""
        what = f"downloading asset {asset_id}"
        response = self._send(
            "GET", f"/assets/{_in_path(asset_id)}/contents", what=what, item_id=asset_id,
            stream=True, headers={"Accept": "*/*", "Accept-Encoding": "identity"},
        )  # fmt: skip
        with response:
            _raise_for_status(response, what, asset_id)
            yield _Body(response, what, asset_id)

    def _list_children(self, folder_id: str) -> Iterator[dict[str, Any]]:
        """The live children of a folder, each once."""
        what = f"listing folder {folder_id}"
        load = {"data_load_request": {"load_asset_content_info": True}}
        live_only = {"asset_filter_request_param": {"asset_filter_request": {"exclude_deleted_assets": True}}}

        def fetch(after: int) -> list[dict[str, Any]]:
            params = {
                "load_type": "custom",
                "level_of_detail": "full",
                "data_load_request": _compact(load),
                "asset_filter_request": _compact(live_only),
                "after": str(after),
                "limit": str(self._settings.page_size),
            }
            path = f"/folders/{_in_path(folder_id)}/children"
            answer = self._json("GET", path, what=what, item_id=folder_id, params=params)
            return _items(_mapping(answer, "folder_children", what).get("asset_list"), what)

        seen: set[str] = set()
        for item in _all_pages(fetch, what, folder_id):
            if item["asset_id"] not in seen:
                seen.add(item["asset_id"])
                if not _is_gone(item):
                    yield item

    # Writing

    def _lock(self, campaign_id: str) -> None:
        try:
            self._set_lock(campaign_id, "lock")
        except DamError as exc:
            campaign = self.read_campaign(campaign_id)
            if campaign is None or not campaign.locked_by:
                raise
            if campaign.locked_by == self._own_login():
                logger.info("campaign %s was left locked by an earlier run of ours", campaign_id)
                return
            raise DamError(
                f"campaign {campaign_id} is locked in the DAM by {campaign.locked_by}",
                kind="locked",
                hint="its status is set as soon as the lock is gone",
                retryable=True,
                item_id=campaign_id,
            ) from exc

    def _unlock(self, campaign_id: str) -> None:
        try:
            self._set_lock(campaign_id, "unlock")
        except DamError as exc:
            logger.warning("campaign %s could not be unlocked: %s", campaign_id, exc)

    def _set_lock(self, campaign_id: str, action: str) -> None:
        """Lock or unlock a folder: through the asset service, with the folder's id, as OpenText's UI does."""
        if self._settings.lock_style == "none":
            return
        what = f"{action}ing campaign {campaign_id}"
        if self._settings.lock_style == "single":
            path = f"/assets/{_in_path(campaign_id)}/state"
            self._send_write("PUT", path, what, campaign_id, data={"action": action})
            return
        context = {
            "asset_ids": [campaign_id],
            "type": "com.artesia.asset.selection.AssetIdsSelectionContext",
            "include_descendants": "NONE",
            "child_type": "ASSETS",
        }
        selection = _compact({"selection_context_param": {"selection_context": context}})
        answer = self._send_write(
            "PUT", "/assets/state", what, campaign_id, data={"action": action, "selection_context": selection}
        )
        representation = answer.get("bulk_asset_result_representation")
        result = representation.get("bulk_asset_result") if isinstance(representation, dict) else None
        if not isinstance(result, dict):
            return
        failed = _as_list(result.get("failed_object_list"))
        if failed or campaign_id not in _as_list(result.get("successful_object_list")):
            raise DamError(
                f"{what}: the DAM refused: {_compact(failed):.200}",
                kind="locked",
                retryable=True,
                item_id=campaign_id,
            )

    def _patch_status(self, campaign_id: str, new: str) -> None:
        is_folder = self._settings.patch_resource == "folders"
        field = {
            "id": self._settings.status_field_id,
            "type": "com.artesia.metadata.MetadataField",
            "value": {"value": {"type": "string", "value": new}},
        }
        self._send_write(
            "PATCH",
            f"/{self._settings.patch_resource}/{_in_path(campaign_id)}",
            f"setting campaign {campaign_id} to {new}",
            campaign_id,
            json={"edited_folder" if is_folder else "edited_asset": {"data": {"metadata": [field]}}},
        )

    def _send_write(self, method: str, path: str, what: str, item_id: str, **body: Any) -> dict[str, Any]:
        """A write; its answer as a mapping, {} when the DAM answered success without JSON."""
        response = self._send(method, path, what=what, item_id=item_id, **body)
        _raise_for_status(response, what, item_id)
        answer = _parsed(response)
        if answer is None:
            return {}
        _raise_for_exception_body(answer, what, item_id, response.status_code)
        return answer

    # Session

    def _json(self, method: str, path: str, *, what: str, **call: Any) -> dict[str, Any]:
        item_id = call.get("item_id")
        response = self._send(method, path, what=what, expects_json=True, **call)
        _raise_for_status(response, what, item_id)
        answer = _parsed(response)
        if answer is None:
            raise DamError(
                f"{what}: the DAM answered {response.status_code} without usable JSON",
                kind="bad_answer",
                retryable=True,
                item_id=item_id,
                status_code=response.status_code,
            )
        _raise_for_exception_body(answer, what, item_id, response.status_code)
        return answer

    def _send(
        self,
        method: str,
        path: str,
        *,
        what: str,
        item_id: str | None = None,
        expects_json: bool = False,
        stream: bool = False,
        **call: Any,
    ) -> requests.Response:
        """One call on a valid session; a session that ended is renewed once and the call repeated."""
        if not self._is_logged_in:
            self._log_in()
        response = self._call(method, self._url(path), what, item_id, stream=stream, **call)
        if not _is_session_over(response, expects_json=expects_json):
            return response
        response.close()
        self._log_in()
        response = self._call(method, self._url(path), what, item_id, stream=stream, **call)
        if not _is_session_over(response, expects_json=expects_json):
            return response
        response.close()
        raise DamError(
            f"{what}: the DAM asks for a login again right after one (HTTP {response.status_code})",
            kind="not_logged_in",
            retryable=True,
            item_id=item_id,
            status_code=response.status_code,
        )

    def _call(
        self, method: str, url: str, what: str, item_id: str | None, *, stream: bool = False, **call: Any
    ) -> requests.Response:
        try:
            return self._http.request(
                method, url, timeout=self._timeout, allow_redirects=stream, stream=stream, **call
            )
        except requests.RequestException as exc:
            raise self._transport_error(exc, what, item_id) from exc

    def _log_in(self) -> None:
        self._is_logged_in = False
        self._http.auth = _NoAuth()
        self._http.cookies.clear()
        if self._settings.auth == "password":
            self._open_session()
        else:
            self._http.auth = _BearerAuth(self._fetch_token())
        self._is_logged_in = True

    def _fetch_token(self) -> str:
        settings = self._settings
        form = {"client_id": settings.client_id, "client_secret": settings.client_secret or ""}
        if settings.username:
            form |= {
                "grant_type": "password",
                "username": settings.username,
                "password": settings.password or "",
            }
        else:
            form["grant_type"] = "client_credentials"
        answer = self._login_answer(
            settings.token_url, form, "DAM_CLIENT_ID, DAM_CLIENT_SECRET, DAM_USERNAME"
        )
        token_info = answer.get("token_info")
        oauth_token = token_info.get("oauth_token") if isinstance(token_info, dict) else None
        found = (
            oauth_token.get("accessToken") if isinstance(oauth_token, dict) else answer.get("access_token")
        )
        if not isinstance(found, str) or not found:
            raise DamError(
                f"{_shown_url(settings.token_url)} answered without an access token",
                kind="bad_answer",
                hint="check DAM_TOKEN_URL",
            )
        return found

    def _open_session(self) -> None:
        form = {"username": self._settings.username, "password": self._settings.password or ""}
        answer = self._login_answer(self._url("/sessions"), form, "DAM_USERNAME and DAM_PASSWORD")
        session = _mapping(_mapping(answer, "session_resource", "logging in"), "session", "logging in")
        self._http.headers["X-Requested-By"] = str(session.get("id", ""))

    def _login_answer(self, url: str, form: Mapping[str, str], variables: str) -> dict[str, Any]:
        what = f"logging in at {_shown_url(url)}"
        response = self._call("POST", url, what, None, data=form)
        if response.status_code in (400, 401, 403):
            raise DamError(
                f"{what}: the DAM refused the credentials (HTTP {response.status_code})",
                kind="login_refused",
                hint=f"check {variables}",
                status_code=response.status_code,
            )
        _raise_for_status(response, what, None)
        answer = _parsed(response)
        if answer is None:
            raise DamError(
                f"{what}: answered without JSON, as a login page or a proxy would",
                kind="bad_answer",
                hint="check DAM_BASE_URL and DAM_TOKEN_URL",
                retryable=True,
            )
        return answer

    def _own_login(self) -> str:
        """Our login name: what the DAM writes into a lock of ours."""
        if self._settings.username:
            return self._settings.username
        try:
            answer = self._json("GET", "/sessions", what="reading our session")
            session = _mapping(_mapping(answer, "session_resource", ""), "session", "")
        except DamError:
            return ""
        return str(session.get("login_name", ""))

    def _url(self, path: str) -> str:
        return f"{self._settings.base_url}{API}{path}"

    def _transport_error(
        self, exc: requests.RequestException, what: str, item_id: str | None
    ) -> DamError | ConfigError:
        """Tell the ways apart in which a call gets no answer; only some of them heal by waiting."""
        host = urlsplit(self._settings.base_url).netloc
        cause = _cause(exc, ssl.SSLError)
        if isinstance(cause, ssl.SSLCertVerificationError):
            if cause.verify_code == _HOSTNAME_MISMATCH:
                return ConfigError(f"DAM_BASE_URL: {host} shows a certificate made for another name")
            if cause.verify_code != _SERVER_CERTIFICATE_EXPIRED:
                return ConfigError(
                    f"DAM_CA_BUNDLE: the certificate of {host} is signed by no known CA"
                    f" ({cause.verify_message}); name the file with your CA's certificate"
                )
            detail = "its server certificate has expired"
        elif cause is not None and any(alert in str(cause) for alert in _REFUSED_CERTIFICATE_ALERTS):
            return ConfigError(
                f"DAM_PFX_PATH: {host} refused the client certificate {self._settings.pfx_path}"
                f" ({cause.reason or cause})"
            )
        elif _cause(exc, TimeoutError) or _cause(exc, HttpTimeoutError):
            detail = f"no answer within {self._settings.timeout_seconds:g} s"
        else:
            detail = type(exc).__name__
        return DamError(
            f"{what}: {host} is out of reach ({detail})", kind="out_of_reach", retryable=True, item_id=item_id
        )


class _Body:
    """A response's bytes; what breaks while they arrive becomes a DamError."""

    def __init__(self, response: requests.Response, what: str, asset_id: str) -> None:
        self._raw = response.raw
        self._what = what
        self._asset_id = asset_id

    def read(self, size: int) -> bytes:
        try:
            return bytes(self._raw.read(size))
        except (HTTPError, OSError) as exc:
            raise DamError(
                f"{self._what}: the connection broke before the end ({type(exc).__name__})",
                kind="broken_download",
                retryable=True,
                item_id=self._asset_id,
            ) from exc


class _BearerAuth(requests.auth.AuthBase):
    """An OAuth token. As an auth object it also keeps requests from putting a ~/.netrc entry in its place."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _NoAuth(requests.auth.AuthBase):
    """Nothing but cookies; keeps ~/.netrc out as well."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class _Adapter(HTTPAdapter):
    """HTTP with bounded retries of reads, and the client certificate where a context brings one."""

    def __init__(self, context: ssl.SSLContext | None, *, retry_posts: bool = False) -> None:
        self._context = context
        methods = {"GET", "HEAD", "PUT", "DELETE"} | ({"POST"} if retry_posts else set())
        super().__init__(
            max_retries=Retry(
                total=READ_TRIES - 1,
                other=0,  # TLS faults do not heal by repetition
                status_forcelist=RETRIED_STATUSES,
                allowed_methods=methods,
                backoff_factor=0.5,
                backoff_jitter=0.2,
                raise_on_status=False,
                retry_after_max=60,
            )
        )

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        if self._context is not None:
            kwargs["ssl_context"] = self._context
        super().init_poolmanager(*args, **kwargs)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        if self._context is not None:
            kwargs["ssl_context"] = self._context
        return super().proxy_manager_for(proxy, **kwargs)


def _client_context(settings: DamSettings, now: datetime) -> ssl.SSLContext:
    """A TLS context that shows the certificate of a PKCS#12 file; its key never touches a disk.

    Raises ConfigError when the file cannot be opened or its certificate is not valid now.
    """
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        pkcs12,
    )

    path = settings.pfx_path
    if path is None:
        raise ConfigError("DAM_PFX_PATH: missing, needed because DAM_AUTH=pfx-v2")
    password = (settings.pfx_password or "").encode() or None
    try:
        key, certificate, others = pkcs12.load_key_and_certificates(path.read_bytes(), password)
    except OSError as exc:
        raise ConfigError(f"DAM_PFX_PATH: cannot read {path}: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConfigError(
            f"DAM_PFX_PASSWORD: cannot open {path}: wrong password, or not a PKCS#12 file"
        ) from exc
    if key is None or certificate is None:
        raise ConfigError(f"DAM_PFX_PATH: {path} holds no private key with its certificate")
    expires_at = certificate.not_valid_after_utc
    if expires_at <= now:
        raise ConfigError(
            f"DAM_PFX_PATH: the certificate in {path} expired on {expires_at:%Y-%m-%d %H:%M} UTC"
        )
    if certificate.not_valid_before_utc > now:
        valid_from = certificate.not_valid_before_utc
        raise ConfigError(f"DAM_PFX_PATH: the certificate in {path} is valid from {valid_from:%Y-%m-%d} on")
    if expires_at - now <= CERTIFICATE_WARNING:
        days = (expires_at - now).days
        logger.warning(
            "the client certificate %s expires on %s, in %d days", path, expires_at.date(), days,
            extra={"action": "certificate_expires_soon"},
        )  # fmt: skip
    context = ssl.create_default_context(cafile=settings.ca_bundle)
    if settings.ca_bundle is None:
        import certifi

        context.load_verify_locations(certifi.where())
    passphrase = os.urandom(32).hex().encode()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase))
    chain = [certificate, *others]
    pem += b"".join(entry.public_bytes(Encoding.PEM) for entry in chain)
    with _memory_file(pem) as name:
        context.load_cert_chain(name, password=passphrase)
    return context


@contextmanager
def _memory_file(content: bytes) -> Iterator[str]:
    """A path that OpenSSL can read and no disk holds (Linux). Elsewhere a private file, gone right after.

    The content is encrypted in either case.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("client-certificate")
        try:
            os.write(descriptor, content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "client-certificate.pem")
            path.touch(mode=0o600)
            path.write_bytes(content)
            yield str(path)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def _shown_url(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _in_path(item_id: str) -> str:
    return quote(item_id, safe="")


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _text(value: object) -> str:
    """A name as it can be stored and sent anywhere: no NUL, no half characters, no outer blanks."""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", value).strip() if isinstance(value, str) else ""


def _checked_id(value: object, what: str) -> str:
    """An id that is safe in a path, in SQL shown to people and on a command line."""
    if isinstance(value, str) and _ID.fullmatch(value):
        return value
    raise DamError(f"{what}: the DAM answered with the id {value!r:.80}", kind="bad_answer", retryable=True)


def _as_list(value: object) -> list[Any]:
    """A list; some servers send a list of one as the thing itself, and an empty one not at all."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _mapping(answer: Mapping[str, Any], key: str, what: str) -> dict[str, Any]:
    value = answer.get(key)
    if isinstance(value, dict):
        return value
    raise DamError(f'{what}: the DAM\'s answer has no "{key}"', kind="bad_answer", retryable=True)


def _items(value: object, what: str) -> list[dict[str, Any]]:
    """The objects of a list, each with an id that is safe to use."""
    items = []
    for item in _as_list(value):
        if not isinstance(item, dict):
            raise DamError(f"{what}: the DAM listed {item!r:.80}", kind="bad_answer", retryable=True)
        _checked_id(item.get("asset_id"), what)
        items.append(item)
    return items


def _search_page(resource: Mapping[str, Any], what: str) -> list[dict[str, Any]]:
    """The hits of one page: objects where the answer carries them, else bare ids."""
    result = _mapping(resource, "search_result", what)
    if result.get("contains_invalid_conditions") is True:
        raise DamError(
            f"{what}: the DAM does not know the search condition",
            kind="bad_search",
            hint="check DAM_STATUS_FIELD_ID and DAM_SEARCH_OPERATOR_ID",
        )
    hits = {item["asset_id"]: item for item in _items(resource.get("asset_list"), what)}
    for hit_id in _as_list(result.get("asset_id_list")):
        hits.setdefault(_checked_id(hit_id, what), {"asset_id": hit_id})
    return list(hits.values())


def _all_pages(
    fetch: Callable[[int], list[dict[str, Any]]], what: str, item_id: str | None
) -> Iterator[dict[str, Any]]:
    """What `fetch(after)` brings until a page is empty, and never by a count: counts are at times wrong, and
    pages may be shorter than asked for. Raises DamError when the server repeats a page instead of going on.
    """
    after = 0
    previous: list[str] = []
    while page := fetch(after):
        ids = [item["asset_id"] for item in page]
        if ids == previous:
            raise DamError(
                f"{what}: the DAM repeats a page instead of going on, so the list cannot be finished",
                kind="unfinished_listing",
                retryable=True,
                item_id=item_id,
            )
        yield from page
        after += len(page)
        previous = ids


def _is_folder(item: Mapping[str, Any]) -> bool:
    return (
        item.get("data_type") == "CONTAINER"
        or "container_id" in item
        or item.get("type") == "com.artesia.container.Container"
    )


def _is_gone(item: Mapping[str, Any]) -> bool:
    return (
        item.get("deleted") is True or item.get("expired") is True or item.get("content_state") in GONE_STATES
    )


def _size_of(item: Mapping[str, Any]) -> int | None:
    size = item.get("content_size")
    if size is None:
        master = item.get("master_content_info")
        size = master.get("content_size") if isinstance(master, dict) else None
    if isinstance(size, str) and size.isdecimal():
        size = int(size)
    return size if isinstance(size, int) and not isinstance(size, bool) and size >= 0 else None


def _asset(item: Mapping[str, Any], folder: DamFolder) -> Asset:
    asset_id, size = item["asset_id"], _size_of(item)
    if size is None:
        raise DamError(
            f"asset {asset_id} ({_text(item.get('name'))!r}) has no content yet",
            kind="no_content",
            hint="is its import still running, or did it fail?",
            retryable=True,
            item_id=asset_id,
        )
    return Asset(
        id=asset_id,
        name=_text(item.get("name")) or asset_id,
        folder=folder,
        size_bytes=size,
        revision=f"{item.get('version', '')}/{item.get('date_last_updated', '')}/{size}",
    )


def _find_field(node: object, field_id: str) -> dict[str, Any] | None:
    """The metadata field with this id, however deep: groups in a GET, a flat list in a listing."""
    waiting = deque([node])
    while waiting:
        current = waiting.popleft()
        if isinstance(current, list):
            waiting.extend(current)
        elif isinstance(current, dict):
            if current.get("id") == field_id:
                return current
            waiting.append(current.get("metadata_element_list"))
    return None


def _code(item: Mapping[str, Any], field_id: str) -> str | None:
    """The code in a metadata field of a folder; None when it is empty or was not sent."""
    field = _find_field(item.get("metadata"), field_id)
    return None if field is None else _field_code(field)


def _field_code(field: Mapping[str, Any]) -> str | None:
    """The stored code of a scalar or lookup field; an empty field lacks its inner value."""
    value: object = field.get("value")
    for _ in range(3):
        if not isinstance(value, dict):
            break
        inner = value.get("field_value")
        value = inner if inner is not None else value.get("value")
    return None if value is None or isinstance(value, dict | list) else str(value)


def _parsed(response: requests.Response) -> dict[str, Any] | None:
    try:
        answer = response.json()
    except (ValueError, RecursionError, requests.RequestException):
        return None
    return answer if isinstance(answer, dict) else None


def _is_html(response: requests.Response) -> bool:
    return "html" in response.headers.get("Content-Type", "").lower()


def _is_session_over(response: requests.Response, *, expects_json: bool) -> bool:
    """401, or a login page in one of its disguises: a redirect, or HTML where JSON or a file was due."""
    if response.status_code == 401:
        return True
    if expects_json:
        return response.is_redirect or (response.ok and _is_html(response))
    return bool(response.history) and response.ok and _is_html(response)


def _raise_for_status(response: requests.Response, what: str, item_id: str | None) -> None:
    status = response.status_code
    if 200 <= status < 300:
        return
    said = _said(response)
    if status in OUT_OF_REACH_STATUSES:
        kind = "out_of_reach"
    else:
        kind = {403: "forbidden", 404: "not_found"}.get(status, "refused" if status < 500 else "dam_error")
    hints = {
        403: "the DAM user needs permission to see and edit it",
        404: "it does not exist, or the DAM user may not see it",
    }
    raise DamError(
        f"{what}: HTTP {status}{f', {said}' if said else ''}",
        kind=kind,
        hint=hints.get(status, ""),
        retryable=status >= 500 or status == 429,
        item_id=item_id,
        status_code=status,
    )


def _said(response: requests.Response) -> str:
    """The DAM's own words on a failure, or what stands in their place."""
    if _is_html(response):
        return "an HTML page in place of JSON, as a proxy sends it"
    body = (_parsed(response) or {}).get("exception_body")
    return _text(body.get("message"))[:300] if isinstance(body, dict) else ""


def _raise_for_exception_body(answer: Mapping[str, Any], what: str, item_id: str | None, status: int) -> None:
    body = answer.get("exception_body")
    if isinstance(body, dict):
        raise DamError(
            f"{what}: HTTP {status} carrying an error: {_text(body.get('message'))[:300]}",
            kind="dam_error",
            retryable=True,
            item_id=item_id,
            status_code=status,
        )


def _cause(exc: BaseException, wanted: type[E]) -> E | None:
    """The first error of a type below an exception of requests, which wraps what it got several times over."""
    waiting: list[object] = [exc]
    seen: set[int] = set()
    while waiting:
        current = waiting.pop()
        if isinstance(current, wanted):
            return current
        if isinstance(current, BaseException) and id(current) not in seen:
            seen.add(id(current))
            waiting += [
                *current.args,
                current.__cause__,
                current.__context__,
                getattr(current, "reason", None),
            ]
    return None
