"""Which items a search of the simulated DAM hits, and in what order.

The parameters are those of POST /search/text as pyxecm otmm.py and OpenText's web UI send them: see
MARKDOWN_DOCS/DAM_AND_BOX.md. Values are compared without regard to case, scalar fields as the index knows
them.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from simulators.dam_store import DamStore, Item, UnknownItemError

JsonObject = dict[str, Any]


class BadSearchError(ValueError):
    """The conditions cannot be read. A real server answers 500 with an exception_body."""


class Search:
    """One search: `hits` in order, `is_invalid` when a condition names a field or operator nobody knows."""

    def __init__(self, store: DamStore, params: Mapping[str, str]) -> None:
        """`params`: the query's and the form's parameters together. Raises BadSearchError."""
        self._store = store
        self.is_invalid = False
        self._conditions = read_list(params, "search_condition_list", "search_condition")
        self._facets = read_list(params, "facet_restriction_list", "facet_field_restriction")
        self._keywords = read_keywords(params.get("keyword_query", "*"))
        with store.guard:
            self.hits = [item for item in self._candidates(params) if self._is_hit(item)]
        self.hits = sort_items(self.hits, params.get("sort"), indexed=True)

    def _candidates(self, params: Mapping[str, str]) -> Iterator[Item]:
        folder_id = params.get("folder_filter")
        if not folder_id:
            yield from (item for item in self._store.items.values() if item.parents)
            return
        try:
            if params.get("folder_filter_type", "all").lower() == "direct":
                yield from self._store.children(folder_id)
            else:
                yield from self._store.descendants(folder_id)
        except UnknownItemError:
            self.is_invalid = True

    def _is_hit(self, item: Item) -> bool:
        texts = [text.lower() for text in item.values(indexed=True).values() if text]
        return (
            all(any(pattern.search(text) for text in texts) for pattern in self._keywords)
            and all(self._facet_holds(item, facet) for facet in self._facets)
            and all_hold(self._conditions, lambda condition: self._condition_holds(item, condition))
        )

    def _condition_holds(self, item: Item, condition: JsonObject) -> bool:
        kind = str(condition.get("type", "")).rsplit(".", 1)[-1]
        if kind == "SearchScalarCondition":
            return self._scalar_holds(item, condition)
        if kind == "SearchTabularCondition":
            return self._tabular_holds(item, condition)
        if kind == "SearchFulltextCondition":
            return self._full_text_holds(item, condition)
        raise BadSearchError(f"Unknown search condition type {kind!r}")

    def _scalar_holds(self, item: Item, condition: JsonObject) -> bool:
        field_id = str(condition.get("metadata_field_id"))
        if not self._store.knows_field(field_id):
            self.is_invalid = True
            return False
        return self._compare(item.values(indexed=True).get(field_id), condition)

    def _tabular_holds(self, item: Item, condition: JsonObject) -> bool:
        table_id = str(condition.get("metadata_table_id"))
        if not self._store.knows_table(table_id):
            self.is_invalid = True
            return False
        table = item.tables.get(table_id)
        codes = table.codes if table else []
        columns = condition.get("tabular_field_list") or []
        return all_hold(columns, lambda column: any(self._compare(code, column) for code in codes))

    def _full_text_holds(self, item: Item, condition: JsonObject) -> bool:
        word = str(condition.get("keyword", "")).lower()
        field_id = condition.get("metadata_field_id")
        values = item.values(indexed=True)
        texts = [values.get(str(field_id))] if field_id else list(values.values())
        return any(word in text.lower() for text in texts if text)

    def _facet_holds(self, item: Item, facet: JsonObject) -> bool:
        """value_list [null]: the field is empty (asked for by pyxecm otmm.py's business-unit query)."""
        field_id = str(facet.get("field_id"))
        held: set[str | None] = {
            code for table in item.tables.values() if table.column_id == field_id for code in table.codes
        }
        value = item.values(indexed=True).get(field_id)
        held |= {value} if value else set()
        wanted = facet.get("value_list") or []
        return not wanted or (None in wanted and not held) or any(want in held for want in wanted)

    def _compare(self, value: str | None, condition: JsonObject) -> bool:
        operator = str(condition.get("relational_operator_id", "")).upper()
        wanted = str(condition.get("value", "")).lower()
        held = (value or "").lower()
        if operator.endswith(".CONTAINS"):
            return wanted in held if self._store.options.search_contains else wanted == held
        if operator.endswith(".IS"):
            return wanted == held
        self.is_invalid = True
        return False


def read_list(params: Mapping[str, str], name: str, inner: str) -> list[JsonObject]:
    """`{name: {inner: [...]}}` out of the JSON parameter `name`; absent is empty. Raises BadSearchError."""
    text = params.get(name)
    if not text:
        return []
    try:
        found = json.loads(text)[name][inner]
    except (ValueError, KeyError, TypeError) as exc:
        raise BadSearchError(f"{name} is not of the form {{{name}: {{{inner}: [...]}}}}") from exc
    entries = [found] if isinstance(found, dict) else found
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadSearchError(f"{name}: {inner} is not a list of objects")
    return entries


def read_keywords(query: str) -> list[re.Pattern[str]]:
    """The words of `(spring) and sale*`, all of which must be found; `*` alone finds everything."""
    words = [word.strip().strip("()").strip() for word in re.split(r"\s+and\s+", query.lower())]
    return [re.compile(re.escape(word).replace(r"\*", ".*")) for word in words if word.strip("*")]


def all_hold(conditions: list[JsonObject], holds: Callable[[JsonObject], bool]) -> bool:
    """Joins conditions by relational_operator (and before or, default and) and the parentheses they carry."""
    tokens: list[str | bool] = []
    for condition in conditions:
        if tokens:
            tokens.append(str(condition.get("relational_operator") or "and").lower())
        tokens += list(str(condition.get("left_paren") or "").strip())
        tokens.append(holds(condition))
        tokens += list(str(condition.get("right_paren") or "").strip())
    if not tokens:
        return True
    result = _either(tokens)
    if tokens:
        raise BadSearchError("Unbalanced parentheses in search_condition_list")
    return result


def _either(tokens: list[str | bool]) -> bool:
    result = _both(tokens)
    while tokens and tokens[0] == "or":
        tokens.pop(0)
        result = _both(tokens) or result
    return result


def _both(tokens: list[str | bool]) -> bool:
    result = _one(tokens)
    while tokens and tokens[0] == "and":
        tokens.pop(0)
        result = _one(tokens) and result
    return result


def _one(tokens: list[str | bool]) -> bool:
    first = tokens.pop(0) if tokens else ""
    if isinstance(first, bool):
        return first
    if first != "(":
        raise BadSearchError("Unbalanced parentheses in search_condition_list")
    result = _either(tokens)
    if not tokens or tokens.pop(0) != ")":
        raise BadSearchError("Unbalanced parentheses in search_condition_list")
    return result


def sort_items(items: list[Item], sort: str | None, *, indexed: bool = False) -> list[Item]:
    """By `asc_NAME`, `desc_ARTESIA.FIELD.ASSET ID`…; without it the order of entry."""
    direction, _, field_id = (sort or "").partition("_")
    if direction not in ("asc", "desc") or not field_id:
        return items

    def key(item: Item) -> str:
        return (item.name if field_id == "NAME" else item.values(indexed=indexed).get(field_id) or "").lower()

    return sorted(items, key=key, reverse=direction == "desc")
