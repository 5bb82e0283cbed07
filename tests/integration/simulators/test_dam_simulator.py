"""The DAM simulator, judged by OpenText's own client (pyxecm) and by raw requests for the rest."""

import hashlib
import http.client as http_client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from pyxecm.otmm import OTMM

from simulators.dam import DamSimulator, GeneratedContent

API = "/otmmapi/v6"
SCRIPT = Path(__file__).parents[3] / "scripts" / "simulators" / "dam.py"
PRODUCTS, UNITS = "OTMM.DOMAIN.OTM_PRODUCT", "OTMM.DOMAIN.OTM_BUSINESS_UNIT.LU"
UNIT_TABLE, PRODUCT_TABLE = "OTMM.FIELD.BUSINESS_UNIT.TAB", "OTM.TABLE.PRODUCT_TABLE_FIELD"


@pytest.fixture
def sim() -> Iterator[DamSimulator]:
    with DamSimulator() as simulator:
        yield simulator


@pytest.fixture
def http(sim: DamSimulator) -> Iterator[requests.Session]:
    """A client with a valid OAuth token."""
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {token(sim, session)}"
        yield session


@pytest.fixture
def otmm(sim: DamSimulator, tmp_path: Path) -> Iterator[OTMM]:
    client = pyxecm_client(sim, tmp_path)
    assert client.authenticate()
    yield client
    client._session.close()


def pyxecm_client(sim: DamSimulator, folder: Path, password: str | None = None) -> OTMM:
    return OTMM(
        base_url=sim.url,
        username=sim.username,
        password=password or sim.password,
        client_id=sim.client_id,
        client_secret=sim.client_secret,
        thread_number=2,
        download_dir=str(folder),
    )


def token(sim: DamSimulator, session: requests.Session, grant: str = "client_credentials") -> str:
    form = {"grant_type": grant, "client_id": sim.client_id, "client_secret": sim.client_secret}
    if grant == "password":
        form |= {"username": sim.username, "password": sim.password}
    answer = session.post(f"{sim.url}{API}/sessions/oauth2/token", data=form, timeout=5)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["token_info"]["oauth_token"]["accessToken"])


def get(sim: DamSimulator, session: requests.Session, path: str, **params: Any) -> Any:
    answer = session.get(f"{sim.url}{API}{path}", params=params, timeout=5)
    assert answer.status_code == 200, answer.text
    return answer.json()


def status_condition(code: str, operator: str = "ARTESIA.OPERATOR.CHAR.CONTAINS") -> dict[str, str]:
    return {
        "type": "com.artesia.search.SearchScalarCondition",
        "metadata_field_id": DamSimulator.STATUS_FIELD,
        "relational_operator_id": operator,
        "value": code,
    }


def search(sim: DamSimulator, session: requests.Session, *conditions: dict[str, str], **params: Any) -> Any:
    form = {
        "load_type": "metadata",
        "search_condition_list": json.dumps({"search_condition_list": {"search_condition": conditions}}),
        **params,
    }
    answer = session.post(f"{sim.url}{API}/search/text", data=form, timeout=5)
    assert answer.status_code == 200, answer.text
    return answer.json()["search_result_resource"]


def hits(found: Any) -> list[str]:
    return list(found["search_result"]["asset_id_list"])


def put_state(sim: DamSimulator, session: requests.Session, action: str, *ids: str) -> requests.Response:
    context = {
        "selection_context_param": {
            "selection_context": {
                "asset_ids": list(ids),
                "type": "com.artesia.asset.selection.AssetIdsSelectionContext",
                "include_descendants": "NONE",
                "child_type": "ASSETS",
            }
        }
    }
    form = {"action": action, "selection_context": json.dumps(context)}
    return session.put(f"{sim.url}{API}/assets/state", data=form, timeout=5)


def bulk_result(answer: requests.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["bulk_asset_result_representation"]["bulk_asset_result"]


def edit(
    value: Any, field_id: str = DamSimulator.STATUS_FIELD, name: str = "edited_folder"
) -> dict[str, Any]:
    field = {"id": field_id, "type": "com.artesia.metadata.MetadataField", "value": value}
    return {name: {"data": {"metadata": [field]}}}


def plain(code: str) -> dict[str, Any]:
    return {"value": {"type": "string", "value": code}}


def patch(
    sim: DamSimulator, session: requests.Session, folder_id: str, body: dict[str, Any]
) -> requests.Response:
    return session.patch(f"{sim.url}{API}/folders/{folder_id}", json=body, timeout=5)


# --- OpenText's client ---


def test_pyxecm_authenticate__right_and_wrong_password(
    sim: DamSimulator, tmp_path: Path, otmm: OTMM, caplog: pytest.LogCaptureFixture
) -> None:
    assert sim.calls("POST", "/sessions/oauth2/token")[0].form["grant_type"] == "password"
    other = pyxecm_client(sim, tmp_path, password="wrong")
    assert other.authenticate() is None
    other._session.close()
    assert "401" in caplog.text


def test_pyxecm_search_assets__finds_by_name_and_drops_nothing(sim: DamSimulator, otmm: OTMM) -> None:
    campaign = sim.add_campaign("Spring", "C-1")
    folder = sim.master_assets_folder(campaign)
    assert folder is not None
    wanted = sim.add_asset(folder, "spring hero.jpg", b"hero")
    sim.add_asset(folder, "other.jpg", b"other")
    found = otmm.search_assets({"keyword_query": "hero", "limit": "5", "after": 0})
    assert found is not None
    result = found["search_result_resource"]["search_result"]
    assert (result["hit_count"], result["total_hit_count"], result["asset_id_list"]) == (1, 1, [wanted])
    everything = otmm.search_assets({"keyword_query": "*"})
    assert everything is not None
    files = [a for a in everything["search_result_resource"]["asset_list"] if "content_size" in a]
    assert [a["name"] for a in files] == ["spring hero.jpg", "other.jpg"]


def test_pyxecm_business_unit__excludes_assets_of_products_and_pages(sim: DamSimulator, otmm: OTMM) -> None:
    sim.options.max_page_size = 3
    wanted = []
    for number in range(7):
        asset = sim.add_asset(sim.root_id, f"unit {number}", b"x")
        sim.set_table_values(asset, UNIT_TABLE, ["42"])
        wanted.append(asset)
    both = sim.add_asset(sim.root_id, "unit and product", b"x")
    sim.set_table_values(both, UNIT_TABLE, ["42"])
    sim.set_table_values(both, "PRODUCT_CHAR_ID", ["7"])
    found = otmm.get_business_unit_assets("42")
    assert found is not None
    assert [asset["asset_id"] for asset in found] == wanted
    assert [asset["asset_id"] for asset in otmm.get_product_assets("7") or []] == [both]
    assert [call.form["after"] for call in sim.calls("POST", "/search/text")][:3] == ["0", "3", "6"]


def test_pyxecm_get_asset__metadata_only_when_asked(sim: DamSimulator, otmm: OTMM) -> None:
    asset = sim.add_asset(sim.root_id, "brochure.pdf", b"pdf bytes")
    sim.set_field(asset, "OTMM.CUSTOM.FIELD_TITLE", "The brochure")
    sim.set_field(asset, "OTMM.CUSTOM.FIELD_EMPTY", None)
    sim.add_lookup_domain(UNITS, {"42": "Business Network"})
    sim.set_table_values(asset, UNIT_TABLE, ["42"])
    slim = otmm.get_asset(asset)
    assert slim is not None
    shape = slim["asset_resource"]["asset"]
    assert "metadata" not in shape
    assert shape["content_size"] == 9
    assert shape["master_content_info"]["content_checksum"] == hashlib.md5(b"pdf bytes").hexdigest()
    details = otmm.get_asset_details(asset)
    assert details is not None
    assert details["asset_resource"]["asset"]["path_list"][0]["parents"][-1]["id"] == sim.root_id
    prepared = otmm.prepare_asset_data(asset)
    assert prepared["OTMM_CUSTOM_FIELD_TITLE"] == "The brochure"
    assert prepared["OTMM_CUSTOM_FIELD_EMPTY"] is None
    assert prepared["OTMM_FIELD_BUSINESS_UNIT_TAB"] == ["Business Network"]
    assert otmm.get_asset("0" * 40) is None


def test_pyxecm_download_asset__bytes_are_equal(sim: DamSimulator, otmm: OTMM, tmp_path: Path) -> None:
    content = GeneratedContent(3_000_001, seed=5)
    asset = sim.add_asset(sim.root_id, "film.mp4", content)
    updated = otmm.get_asset(asset)["asset_resource"]["asset"]["date_last_updated"]
    assert otmm.download_asset(asset, "film.mp4", asset_modification_date=updated)
    data = (tmp_path / asset).read_bytes()
    assert len(data) == content.size
    assert hashlib.sha1(data).hexdigest() == content.sha1()
    assert otmm.download_asset(asset, "film.mp4", asset_modification_date=updated)
    assert len(sim.calls("GET", f"/assets/{asset}/contents")) == 1


def test_pyxecm_load_assets__products_units_and_downloads(
    sim: DamSimulator, otmm: OTMM, tmp_path: Path
) -> None:
    sim.add_lookup_domain(PRODUCTS, {"7": " Trading Grid "})
    sim.add_lookup_domain(UNITS, {"42": "Business Network"})
    product = sim.add_asset(sim.root_id, "grid.pdf", b"grid")
    sim.set_table_values(product, PRODUCT_TABLE, ["7"])
    unit = sim.add_asset(sim.root_id, "unit.pdf", b"unit")
    gone = sim.add_asset(sim.root_id, "gone.pdf", b"gone", deleted=True)
    for asset in (unit, gone):
        sim.set_table_values(asset, UNIT_TABLE, ["42"])
    domains = otmm.get_lookup_domains()
    assert domains is not None
    assert len(domains["lookup_domains_resource"]["lookup_domains"]) == 2
    assert otmm.load_assets()
    rows = otmm.get_data().get_data_frame().set_index("asset_id")
    assert set(rows.index) == {product, unit, gone}
    assert rows.loc[product, "workspace_name"] == "Trading Grid"
    assert rows.loc[product, "OTM_TABLE_PRODUCT_TABLE_FIELD"] == [" Trading Grid "]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {product: b"grid", unit: b"unit"}


# --- log-in ---


@pytest.mark.parametrize("carrier", ["cookie", "otmmauthtoken", "bearer"])
def test_session__carried_in_each_way(sim: DamSimulator, carrier: str) -> None:
    with requests.Session() as http:
        form = {"username": sim.username, "password": sim.password}
        answer = http.post(f"{sim.url}{API}/sessions", data=form, timeout=5)
        session = answer.json()["session_resource"]["session"]
        if carrier != "cookie":
            http.cookies.clear()
        if carrier == "otmmauthtoken":
            http.headers["otmmauthtoken"] = session["message_digest"]
        if carrier == "bearer":
            http.headers["Authorization"] = f"Bearer otmmToken {session['message_digest']}"
        assert get(sim, http, "/sessions")["session_resource"]["session"] == session
        campaign = sim.add_campaign("Spring", "C-1")
        assert put_state(sim, http, "lock", campaign).status_code == 400
        http.headers["X-Requested-By"] = str(session["id"])
        assert bulk_result(put_state(sim, http, "lock", campaign))["successful_object_list"] == [campaign]
        assert sim.lock_state(campaign) == session["login_name"] == sim.username
        assert http.delete(f"{sim.url}{API}/sessions", timeout=5).status_code == 200
        assert http.get(f"{sim.url}{API}/sessions", timeout=5).status_code == 401


def test_tokens__expire_by_hand_and_by_age(sim: DamSimulator, http: requests.Session) -> None:
    url = f"{sim.url}{API}/folders/{sim.root_id}/"
    assert http.get(url, timeout=5).status_code == 200
    sim.expire_tokens()
    expired = http.get(url, timeout=5)
    assert (expired.status_code, expired.json()["exception_body"]["http_response_code"]) == (401, 401)
    sim.token_lifetime = 0
    http.headers["Authorization"] = f"Bearer {token(sim, http, 'password')}"
    assert http.get(url, timeout=5).status_code == 401
    sim.options.html_login_on_expired = True
    assert http.get(url, timeout=5, allow_redirects=False).status_code == 302
    page = http.get(url, timeout=5)
    assert (page.status_code, page.headers["Content-Type"][:9]) == (200, "text/html")


def test_client_certificate__demanded_in_the_handshake() -> None:
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.configure_trust(server)
    authority.configure_trust(client)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    adapter = requests.adapters.HTTPAdapter()
    with DamSimulator(ssl_context=server, require_client_certificate=True) as sim, requests.Session() as http:
        adapter.init_poolmanager(1, 1, ssl_context=client)
        http.mount("https://", adapter)
        with pytest.raises(requests.ConnectionError):
            token(sim, http)
        authority.issue_cert("a1-to-a2@example.com", common_name="a1-to-a2").configure_cert(client)
        assert token(sim, http)
        assert sim.requests[-1].client_certificate == "a1-to-a2"


# --- search and lists ---


def test_search__contains_hits_a10_and_is_does_not(sim: DamSimulator, http: requests.Session) -> None:
    first = sim.add_campaign("One", "C-1", "A1")
    tenth = sim.add_campaign("Ten", "C-10", "A10")
    sim.add_campaign("Two", "C-2", "A2")
    found = search(sim, http, status_condition("A1"), folder_filter=sim.root_id)
    assert hits(found) == [first, tenth]
    fields = found["asset_list"][1]["metadata"]["metadata_element_list"]
    assert {"A10", "C-10"} <= {field["value"]["value"]["value"] for field in fields}
    assert hits(search(sim, http, status_condition("A1", "ARTESIA.OPERATOR.CHAR.IS"))) == [first]
    sim.options.search_contains = False
    assert hits(search(sim, http, status_condition("A1"))) == [first]


def test_search__conditions_folders_and_parameters(sim: DamSimulator, http: requests.Session) -> None:
    inner = sim.add_folder(sim.root_id, "2026")
    near = sim.add_campaign("near", "C-1", "A1")
    far = sim.add_campaign("far", "C-2", "A2", parent_id=inner)
    either = [status_condition("A1"), status_condition("A2") | {"relational_operator": "or"}]
    grouped = [either[0] | {"left_paren": "("}, either[1] | {"right_paren": ")"}]
    assert hits(search(sim, http, *either)) == [near, far]
    assert hits(search(sim, http, *grouped, folder_filter=inner)) == [far]
    direct = {"folder_filter": sim.root_id, "folder_filter_type": "direct"}
    assert hits(search(sim, http, *either, **direct)) == [near]
    assert hits(search(sim, http, *either, sort="asc_NAME")) == [far, near]
    by_get = get(
        sim, http, "/search/text/", keyword_query="(far) and C-2", metadata_to_return=sim.STATUS_FIELD
    )
    shape = by_get["search_result_resource"]["asset_list"][0]
    assert [field["id"] for field in shape["metadata"]["metadata_element_list"]] == [sim.STATUS_FIELD]
    unknown = search(sim, http, status_condition("A1") | {"metadata_field_id": "NO.SUCH"})
    assert unknown["search_result"]["contains_invalid_conditions"] is True
    broken = http.post(f"{sim.url}{API}/search/text", data={"search_condition_list": "{"}, timeout=5)
    assert broken.status_code == 500
    assert "search_condition_list" in broken.json()["exception_body"]["message"]


def test_search__index_lags_until_reindexed(sim: DamSimulator, http: requests.Session) -> None:
    campaign = sim.add_campaign("One", "C-1", "A1")
    sim.options.index_lag = True
    sim.set_status(campaign, "A2")
    late = search(sim, http, status_condition("A1"))
    assert hits(late) == [campaign]
    assert '"A1"' in json.dumps(late)
    assert '"A2"' in json.dumps(get(sim, http, f"/folders/{campaign}", load_type="metadata"))
    sim.reindex()
    assert hits(search(sim, http, status_condition("A1"))) == []


def test_children__pages_are_capped_and_cover_everything(sim: DamSimulator, http: requests.Session) -> None:
    ids = [sim.add_asset(sim.root_id, f"{number}.txt", b"x", deleted=number == 3) for number in range(7)]
    sim.options.max_page_size = 3
    seen: list[str] = []
    while True:
        page = get(sim, http, f"/folders/{sim.root_id}/children", after=len(seen), limit=500)
        shapes = page["folder_children"]["asset_list"]
        seen += [shape["asset_id"] for shape in shapes]
        assert len(shapes) <= 3
        if not shapes:
            break
    assert seen == ids
    live = json.dumps(
        {"asset_filter_request_param": {"asset_filter_request": {"exclude_deleted_assets": True}}}
    )
    filtered = get(sim, http, f"/folders/{sim.root_id}/children/", after=3, asset_filter_request=live)
    assert [shape["asset_id"] for shape in filtered["folder_children"]["asset_list"]] == ids[4:]
    sim.options.ignore_after = True
    again = get(sim, http, f"/folders/{sim.root_id}/children", after=6)
    assert again["folder_children"]["asset_list"][0]["asset_id"] == ids[0]


def test_folders__marks_counts_and_switches(sim: DamSimulator, http: requests.Session) -> None:
    campaign = sim.add_campaign("One", "C-1", "A1")
    folder = sim.master_assets_folder(campaign)
    children = get(sim, http, f"/folders/{campaign}/children")["folder_children"]["asset_list"]
    assert [child["asset_id"] for child in children] == [folder]
    assert children[0]["data_type"] == "CONTAINER"
    assert children[0]["type"] == "com.artesia.container.Container"
    assert "container_id" in children[0]
    assert "content_size" not in children[0]
    asked = {
        "load_type": "custom",
        "data_load_request": json.dumps(
            {"data_load_request": {"child_count_load_type": "both", "load_path": True}}
        ),
    }
    sim.options.child_count_offset = 2
    shape = get(sim, http, f"/folders/{campaign}", **asked)["folder_resource"]["folder"]
    assert shape["container_child_counts"] == {"asset_count": 2, "container_count": 1, "total_child_count": 3}
    assert get(sim, http, f"/assets/{campaign}")["asset_resource"]["asset"]["asset_id"] == campaign
    roots = get(sim, http, "/folders/rootfolders/", limit=0)["folders_resource"]["folder_list"]
    assert [root["asset_id"] for root in roots] == [sim.root_id]
    sim.options.single_object_lists = sim.options.omit_empty_lists = True
    one = get(sim, http, f"/folders/{campaign}/folders")
    assert one["folders_resource"]["folder_list"]["asset_id"] == folder
    assert "asset_list" not in get(sim, http, f"/folders/{folder}/children")["folder_children"]
    assert get(sim, http, f"/folders/{folder}/assets")["assets_resource"]["collection_summary"]


def test_metadata__flat_in_lists_grouped_alone_and_lookup(sim: DamSimulator, http: requests.Session) -> None:
    campaign = sim.add_campaign("One", "C-1", "A1")
    empty = sim.add_campaign("None", "C-2", None)
    listed = get(sim, http, f"/folders/{sim.root_id}/children", metadata_to_return=sim.STATUS_FIELD)
    fields = [
        shape["metadata"]["metadata_element_list"][0] for shape in listed["folder_children"]["asset_list"]
    ]
    assert [field["value"].get("value") for field in fields] == [{"type": "string", "value": "A1"}, None]
    sim.options.status_is_lookup = True
    alone = get(sim, http, f"/folders/{campaign}", load_type="metadata")["folder_resource"]["folder"]
    group = alone["metadata"]["metadata_element_list"][1]
    field = next(field for field in group["metadata_element_list"] if field["id"] == sim.STATUS_FIELD)
    assert field["value"]["domain_value"] is True
    assert field["value"]["value"]["field_value"]["value"] == "A1"
    assert field["value"]["value"]["display_value"] == "Status A1"
    sim.remove(empty)
    missing = http.get(f"{sim.url}{API}/folders/{empty}", timeout=5)
    assert (missing.status_code, missing.json()["exception_body"]["http_response_code"]) == (404, 404)


# --- lock, edit, unlock ---


def test_edit__lock_patch_unlock(sim: DamSimulator, http: requests.Session) -> None:
    campaign = sim.add_campaign("One", "C-1", "A1")
    assert patch(sim, http, campaign, edit(plain("A2"))).status_code == 403
    assert bulk_result(put_state(sim, http, "lock", campaign)) == {
        "successful_object_list": [campaign],
        "failed_object_list": [],
    }
    domain_value = {
        "type": "com.artesia.metadata.DomainValue",
        "field_value": {"type": "string", "value": "A3"},
    }
    for value, status in [(plain("A2"), "A2"), ({"value": domain_value}, "A3"), (None, "")]:
        assert patch(sim, http, campaign, edit(value)).status_code == 200
        assert sim.status(campaign) == status
    assert patch(sim, http, campaign, edit(plain("x"), "NO.SUCH.FIELD")).status_code == 400
    assert patch(sim, http, campaign, edit(plain("x"), name="edited_asset")).status_code == 400
    assert patch(sim, http, campaign, edit({"value": "A2"})).status_code == 400
    assert patch(sim, http, campaign, edit(plain("Renamed"), "ARTESIA.FIELD.ASSET NAME")).status_code == 200
    assert get(sim, http, f"/folders/{campaign}")["folder_resource"]["folder"]["name"] == "Renamed"
    put_state(sim, http, "unlock", campaign)
    assert sim.lock_state(campaign) is None


def test_edit__what_is_saved_is_not_always_what_is_said(sim: DamSimulator, http: requests.Session) -> None:
    campaign = sim.add_campaign("One", "C-1", "A1")
    put_state(sim, http, "lock", campaign)
    sim.options.status_does_not_stick = True
    assert patch(sim, http, campaign, edit(plain("A2"))).status_code == 200
    assert sim.status(campaign) == "A1"
    sim.options.status_does_not_stick = False
    sim.options.patch_404_after_save = True
    assert patch(sim, http, campaign, edit(plain("A2"))).status_code == 404
    assert sim.status(campaign) == "A2"


def test_lock__refused_in_each_way(sim: DamSimulator, http: requests.Session) -> None:
    campaign = sim.add_campaign("One", "C-1", "A1")
    free = sim.add_campaign("Two", "C-2", "A1")
    sim.lock(campaign, by="anna")
    result = bulk_result(put_state(sim, http, "lock", campaign, free))
    assert result["successful_object_list"] == [free]
    assert len(result["failed_object_list"]) == 1
    assert patch(sim, http, campaign, edit(plain("A2"))).status_code == 403
    single = http.put(f"{sim.url}{API}/assets/{campaign}/state", data={"action": "lock"}, timeout=5)
    assert (single.status_code, "anna" in single.json()["exception_body"]["message"]) == (409, True)
    sim.options.lock_refusal = "error"
    assert put_state(sim, http, "lock", campaign).status_code == 409
    assert put_state(sim, http, "lock", free).status_code == 200
    sim.options.lock_answer = "error"
    assert put_state(sim, http, "lock", free).status_code == 409
    sim.options.lock_answer = "bulk_failed_list"
    assert bulk_result(put_state(sim, http, "lock", free))["successful_object_list"] == []
    shape = get(sim, http, f"/folders/{campaign}")["folder_resource"]["folder"]
    assert (shape["locked"], shape["metadata_lock_state_user_name"]) == (True, "anna")


# --- contents and faults ---


def test_contents__headers_names_and_ranges(sim: DamSimulator, http: requests.Session) -> None:
    asset = sim.add_asset(sim.root_id, 'Überschrift "neu"\r\nX: y.png', b"0123456789", declared_size=99)
    url = f"{sim.url}{API}/assets/{asset}/contents"
    whole = http.get(url, headers={"Range": "bytes=2-4"}, timeout=5)
    assert (whole.status_code, whole.content, whole.headers["Content-Length"]) == (200, b"0123456789", "10")
    assert "X" not in whole.headers
    assert "filename*=UTF-8''%C3%9Cberschrift" in whole.headers["Content-Disposition"]
    shape = get(sim, http, f"/assets/{asset}")["asset_resource"]["asset"]
    assert shape["content_size"] == 99
    assert http.get(sim.url + shape["master_content_info"]["url"], timeout=5).content == b"0123456789"
    sim.options.accept_ranges = True
    part = http.get(url, headers={"Range": "bytes=2-4"}, timeout=5)
    assert (part.status_code, part.content) == (206, b"234")
    assert http.get(url, headers={"Range": "bytes=99-"}, timeout=5).status_code == 416


def test_faults__answers_in_the_dams_stead(sim: DamSimulator, http: requests.Session) -> None:
    url = f"{sim.url}{API}/folders/{sim.root_id}"
    fault = sim.fail(r"GET .*/folders/", status=503, retry_after=7, times=2, skip=1)
    answers = [http.get(url, timeout=5) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 503, 503, 200]
    assert answers[1].headers["Retry-After"] == "7"
    assert answers[1].json()["exception_body"]["http_response_code"] == 503
    assert fault.hits == 2
    sim.fail("GET", html=True)
    page = http.get(url, timeout=5)
    assert (page.status_code, page.headers["Content-Type"][:9]) == (502, "text/html")
    sim.clear_faults()
    sim.fail(r"after=2$", body={"folder_children": {}})
    odd = http.get(f"{url}/children", params={"after": 2}, timeout=5)
    assert (odd.status_code, odd.json()) == (200, {"folder_children": {}})
    sim.clear_faults()
    sim.fail("GET", delay=0.2, times=1)
    with pytest.raises(requests.Timeout):
        http.get(url, timeout=0.05)
    assert http.get(url, timeout=5).status_code == 200


def test_faults__truncate_and_drop(sim: DamSimulator, http: requests.Session) -> None:
    asset = sim.add_asset(sim.root_id, "film.mp4", GeneratedContent(5_000_000, seed=1))
    sim.fail("contents", truncate=1_500_000, times=1)
    with http.get(f"{sim.url}{API}/assets/{asset}/contents", stream=True, timeout=5) as answer:
        assert answer.headers["Content-Length"] == "5000000"
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            hashlib.sha256(answer.content)
    campaign = sim.add_campaign("One", "C-1", "A1")
    put_state(sim, http, "lock", campaign)
    for drop, status in [("before", "A1"), ("after", "A2")]:
        sim.fail("PATCH", drop=drop, times=1)
        with pytest.raises(requests.ConnectionError):
            patch(sim, http, campaign, edit(plain("A2")))
        assert sim.status(campaign) == status
        assert sim.calls("PATCH")[-1].status == 0


def test_restart__same_port_same_world(sim: DamSimulator, http: requests.Session) -> None:
    url = sim.url
    sim.stop()
    with pytest.raises(requests.ConnectionError):
        get(sim, http, "/folders/rootfolders")
    sim.start()
    assert sim.url == url
    assert get(sim, http, "/folders/rootfolders")


def test_query__raw_brackets_are_refused_as_by_tomcat(sim: DamSimulator, http: requests.Session) -> None:
    assert get(sim, http, "/search/text", keyword_query="{spring}")
    raw = http_client.HTTPConnection(sim.url.removeprefix("http://"), timeout=5)
    raw.request("GET", f"{API}/search/text?keyword_query={{spring}}")
    assert raw.getresponse().status == 400
    raw.close()


# --- content, speed, by hand ---


def test_generated_content__is_fixed_fast_and_tells_order() -> None:
    content = GeneratedContent(5 * (1 << 20) + 17, seed=3)
    data = b"".join(content.blocks())
    assert len(data) == content.size
    assert content.sha1() == hashlib.sha1(data).hexdigest()
    assert b"".join(content.blocks(1000, 3_000_000)) == data[1000:3_000_000]
    assert data[: 1 << 20] != data[1 << 20 : 2 << 20]
    assert b"".join(GeneratedContent(5, 1).blocks()) != b"".join(GeneratedContent(5, 2).blocks())
    started = time.perf_counter()
    assert sum(len(block) for block in GeneratedContent(1 << 30, seed=3).blocks()) == 1 << 30
    assert time.perf_counter() - started < 3  # 0.1 s on an idle machine


def test_loopback_call__takes_milliseconds(sim: DamSimulator, http: requests.Session) -> None:
    started = time.perf_counter()
    for _ in range(50):
        get(sim, http, f"/folders/{sim.root_id}")
    assert time.perf_counter() - started < 1.5  # 40 ms of Nagle each would be 2 s


def test_script__runs_by_hand_and_stops_on_sigterm() -> None:
    command = [sys.executable, str(SCRIPT), "--port", "0", "--demo-data"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as process:
        assert process.stdout is not None
        printed = [process.stdout.readline() for _ in range(11)]
        url = next(line for line in printed if line.startswith("DAM_BASE_URL=")).strip().partition("=")[2]
        assert "DAM_NUMBER_FIELD_ID='MARKETING.FIELD.CAMPAIGN NUMBER'\n" in printed
        control = f"{url}/_sim"
        with requests.Session() as http:
            rows = http.get(f"{control}/campaigns", timeout=5).json()
            assert [(row["number"], row["status"], row["assets"]) for row in rows[:2]] == [
                ("C-1001", "A1", 3),
                ("C-1002", "A1", 0),
            ]
            made = http.post(f"{control}/campaigns", json={"name": "New", "number": "C-9"}, timeout=5).json()
            asset = {"campaign_id": made["id"], "name": "a.txt", "text": "hello"}
            assert http.post(f"{control}/assets", json=asset, timeout=5).status_code == 201
            moved = {"campaign_id": made["id"], "status": "A2"}
            row = http.post(f"{control}/status", json=moved, timeout=5).json()
            assert (row["assets"], row["status"]) == (1, "A2")
            assert http.post(f"{control}/status", json={}, timeout=5).status_code == 400
            assert http.post(f"{control}/faults", json={"match": "("}, timeout=5).status_code == 400
            assert http.post(f"{control}/faults", json={"match": ".", "status": 500}, timeout=5).ok
            assert http.get(f"{url}{API}/sessions", timeout=5).status_code == 500
            assert http.delete(f"{control}/faults", timeout=5).ok
            assert http.get(f"{control}/requests", timeout=5).json()[0]["status"] == 500
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) == 0
