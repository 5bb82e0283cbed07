"""The JSON that the simulated DAM sends: folders, assets, metadata, lists, errors.

Names and nesting follow the samples in pyxecm otmm.py and what OpenText's web UI reads; where public sources
are silent, MARKDOWN_DOCS/DAM_AND_BOX.md says so.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from simulators.dam_store import (
    ID_FIELD,
    NAME_FIELD,
    STATUS_FIELD,
    DamStore,
    GeneratedContent,
    Item,
    Table,
    make_id,
)

JsonObject = dict[str, Any]
API_ROOT = "/otmmapi/v6"


class ApiError(Exception):
    """Ends a request with an exception_body."""

    def __init__(self, status: int, message: str, *, error_code: str = "") -> None:
        """`error_code`'s values are not public: ours only tell apart."""
        super().__init__(message)
        self.status = status
        self.error_code = error_code or f"SIM-{status}"


def exception_body(status: int, message: str, error_code: str = "") -> JsonObject:
    """The error shape that OpenText's web UI reads."""
    return {
        "exception_body": {
            "http_response_code": status,
            "error_code": error_code or f"SIM-{status}",
            "message": message,
            "debug_message": message,
        }
    }


def json_parameter(params: Mapping[str, str], name: str, inner: str) -> JsonObject:
    """What `inner` (below `name`_param or not) holds in a JSON parameter; absent is empty. ApiError 400."""
    text = params.get(name)
    if not text:
        return {}
    try:
        found = json.loads(text)
    except ValueError as exc:
        raise ApiError(400, f"{name} is not JSON") from exc
    for key in (f"{name}_param", inner):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict):
        raise ApiError(400, f"{name} is not an object")
    return found


def is_true(value: object) -> bool:
    """JSON's true or the string: pyxecm sends the former, others the latter."""
    return value is True or str(value).lower() == "true"


@dataclass(frozen=True)
class Load:
    """What a request asks to be loaded in addition to the plain attributes. `fields` None: all of them."""

    metadata: bool = False
    fields: frozenset[str] | None = None
    path: bool = False
    security: bool = False
    child_counts: bool = False

    @classmethod
    def from_params(cls, params: Mapping[str, str]) -> "Load":
        """Reads load_type, data_load_request and metadata_to_return."""
        kind = params.get("load_type", "").lower()
        asked = json_parameter(params, "data_load_request", "data_load_request") if kind == "custom" else {}
        wanted = [part.strip() for part in params.get("metadata_to_return", "").split(",") if part.strip()]
        full = kind == "full"
        return cls(
            metadata=full or kind == "metadata" or is_true(asked.get("load_metadata")) or bool(wanted),
            fields=frozenset(wanted) or None,
            path=full or is_true(asked.get("load_path")),
            security=full or is_true(asked.get("load_security_policies")),
            child_counts=full or bool(asked.get("child_count_load_type")),
        )


def format_date(value: datetime) -> str:
    """`YYYY-MM-DDTHH:MM:SSZ`: the one form pyxecm otmm.py parses."""
    return value.strftime("%Y-%m-%dT%H:%M:%SZ")


def item_object(
    store: DamStore, item: Item, load: Load, *, in_list: bool = False, indexed: bool = False
) -> JsonObject:
    """A folder or asset as it stands in every answer."""
    with store.guard:
        shape = _common(item)
        shape |= _folder_part(store, item, load) if item.is_folder else _asset_part(store, item)
        if load.metadata:
            shape["metadata"] = _metadata(store, item, load, in_list=in_list, indexed=indexed)
        if load.path:
            shape["path_list"] = [
                {
                    "tree_descriptor": {"tree_id": "ARTESIA.PUBLIC.TREEN", "detached": False},
                    "parents": [{"id": folder.id, "name": folder.name} for folder in path],
                }
                for path in store.paths(item)
            ]
        if load.security:
            shape["security_policy_list"] = [{"id": 1, "name": "Everybody"}]
        return shape


def _common(item: Item) -> JsonObject:
    updated = format_date(item.updated_at)
    locked = item.locked_by is not None
    return {
        "access_control_descriptor": {
            "permissions_map": {
                "entry": [
                    {"key": f"text.securityPolicy.permission.{name}", "value": True}
                    for name in ("ViewPermission", "ContentEditPermission", "MetadataEditPermission")
                ]
            }
        },
        "asset_id": item.id,
        "asset_lock_state_last_update_date": format_date(item.locked_at or item.created_at),
        "asset_lock_state_user_id": "1001",
        "asset_state": "LOCKED" if item.deleted and item.is_folder else "NORMAL",
        "asset_state_last_update_date": updated,
        "asset_state_user_id": "1001",
        "checked_out": False,
        "content_editable": not locked,
        "content_state": "DELETED" if item.deleted else "NORMAL",
        "content_state_last_update_date": updated,
        "content_state_user_id": "1001",
        "content_state_user_name": "Importer",
        "creator_id": "1001",
        "date_imported": format_date(item.created_at),
        "date_last_updated": updated,
        "deleted": item.deleted,
        "expired": item.expired,
        "import_job_id": 1,
        "import_user_name": "importer",
        "latest_version": True,
        "legacy_model_id": 104,
        "locked": locked,
        "metadata_lock_state_user_name": item.last_locked_by,  # survives the unlock, as in pyxecm's samples
        "metadata_model_id": "OTM.MARKETING.MODEL",
        "metadata_state_user_name": "Importer",
        "mime_type": item.mime_type,
        "name": item.name,
        "original_asset_id": item.id,
        "product_associations": False,
        "subscribed_to": False,
        "version": item.version,
    }


def _folder_part(store: DamStore, item: Item, load: Load) -> JsonObject:
    part: JsonObject = {
        "type": "com.artesia.container.Container",
        "data_type": "CONTAINER",
        "container_id": make_id("container", item.id),  # not the id for paths: that is asset_id
        "container_type_id": "CAMPAIGN.FOLDER" if item.is_campaign else "ARTESIA.BASIC.FOLDER",
        "container_type_name": "Campaign" if item.is_campaign else "Folder",
        "in_review": False,
    }
    if load.child_counts:
        children = store.children(item.id)
        folders = sum(child.is_folder for child in children)
        offset = store.options.child_count_offset
        part["container_child_counts"] = {
            "asset_count": max(0, len(children) - folders + offset),
            "container_count": folders,
            "total_child_count": max(0, len(children) + offset),
        }
    return part


def _asset_part(store: DamStore, item: Item) -> JsonObject:
    master = _master_content(store, item)
    return {
        "asset_content_info": {"master_content": master},
        "content_size": item.size,
        "content_type": _content_type(item.mime_type),
        "delivery_service_url": f"https://delivery.invalid/rendition?id={item.content_id}",
        "master_content_info": master,
        "rendition_content": {},
    }


def _master_content(store: DamStore, item: Item) -> JsonObject:
    content: JsonObject = {
        "content_data": {"data_source": "NO_CONTENT", "temp_file": False},
        "content_kind": "MASTER",
        "content_manager_id": "ARTESIA.CONTENT.SIMULATOR",
        "content_size": item.size,
        "height": -1,
        "id": item.content_id,
        "mime_type": item.mime_type,
        "name": item.name,
        "unit_of_size": "BYTES",
        "url": f"{API_ROOT}/renditions/{item.content_id}",
        "width": -1,
    }
    checksum = _checksum(store, item)
    if checksum is not None:
        content["content_checksum"] = checksum
    return content


def _checksum(store: DamStore, item: Item) -> str | None:
    if item.declared_checksum is None:
        if isinstance(item.content, GeneratedContent):
            return item.content.md5() if store.options.generated_checksums else None
        item.declared_checksum = hashlib.md5(item.content, usedforsecurity=False).hexdigest()
    return item.declared_checksum


def _content_type(mime_type: str) -> str:
    if mime_type == "application/pdf":
        return "ACROBAT"
    return {"image": "BITMAP", "video": "VIDEO", "audio": "AUDIO"}.get(mime_type.partition("/")[0], "NONE")


def _metadata(store: DamStore, item: Item, load: Load, *, in_list: bool, indexed: bool) -> JsonObject:
    values = item.values(indexed=indexed)
    general = [_scalar(store, key, values[key]) for key in (NAME_FIELD, ID_FIELD)]
    own = [_scalar(store, key, value) for key, value in values.items() if key not in (NAME_FIELD, ID_FIELD)]
    own += [_table(store, table_id, table) for table_id, table in item.tables.items()]
    if load.fields is not None:
        general = [element for element in general if element["id"] in load.fields]
        own = [element for element in own if element["id"] in load.fields]
    groups = [
        {
            "id": f"{name.upper()}.CATEGORY",
            "name": name,
            "type": "com.artesia.metadata.MetadataCategory",
            "metadata_element_list": elements,
        }
        # pyxecm reads an asset's first group only. A folder's own fields are in its second: walk them all.
        for name, elements in (
            [("General", general), ("Campaign", own)] if item.is_folder else [("Marketing", own + general)]
        )
    ]
    flat = store.options.flat_metadata
    return {
        "type": "com.artesia.metadata.MetadataModel",
        "id": "OTM.MARKETING.MODEL",
        "name": "Marketing",
        "has_multilingual_fields": False,
        "legacy_id": 104,
        "metadata_element_list": general + own if (in_list if flat is None else flat) else groups,
    }


def _scalar(store: DamStore, field_id: str, value: str | None) -> JsonObject:
    is_lookup = field_id == STATUS_FIELD and store.options.status_is_lookup
    holder: JsonObject = {"cascading_domain_value": False, "domain_value": is_lookup, "is_locked": False}
    if value is not None:  # an empty field has no inner value at all
        plain = {"type": "string", "value": value}
        holder["value"] = (
            {
                "type": "com.artesia.metadata.DomainValue",
                "field_value": plain,
                "display_value": store.status_labels.get(value, f"Status {value}"),
            }
            if is_lookup
            else plain
        )
    name = field_id.rsplit(".", 1)[-1].title()
    return {"id": field_id, "name": name, "type": "com.artesia.metadata.MetadataField", "value": holder}


def _table(store: DamStore, table_id: str, table: Table) -> JsonObject:
    return {
        "id": table_id,
        "name": table_id.rsplit(".", 1)[-1].title(),
        "type": "com.artesia.metadata.MetadataTable",
        "metadata_element_list": [
            {
                "id": table.column_id,
                "type": "com.artesia.metadata.MetadataTableField",
                "values": [
                    {
                        "value": {
                            "type": "com.artesia.metadata.DomainValue",
                            "field_value": {"type": "string", "value": code},
                            "display_value": store.label(table.column_id, code),
                        }
                    }
                    for code in table.codes
                ],
            }
        ],
    }


def lookup_domain_object(domain_id: str, values: Mapping[str, str]) -> JsonObject:
    """A lookup domain with its values (code -> label)."""
    return {
        "domainId": domain_id,
        "datatype": "CHAR",
        "cacheable": True,
        "domainValues": [
            {
                "active_from": "",
                "active_to": "",
                "description": label,
                "display_value": label,
                "expired_value": False,
                "field_value": {"type": "string", "value": code},
            }
            for code, label in values.items()
        ],
    }


def single_lists_unwrapped(value: object) -> object:
    """The same answer with each list of one replaced by that one."""
    if isinstance(value, dict):
        return {key: single_lists_unwrapped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        inner = [single_lists_unwrapped(entry) for entry in value]
        return inner[0] if len(inner) == 1 else inner
    return value
