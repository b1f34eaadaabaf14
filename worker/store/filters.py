"""Filters over metadata, compiled to SQL in which every value is a parameter.

    {"field": value}                                     equal, or a list that holds the value
    {"field": {"$eq"|"$ne"|"$gt"|"$gte"|"$lt"|"$lte": value}}
    {"field": {"$in"|"$nin": [values]}}    {"field": {"$exists": true}}
    {"$and"|"$or": [filters]}    {"$not": filter}

`field` is a dotted path. A missing field matches only `{"$exists": false}`. The operators of order compare numbers with
numbers and strings with strings; values of other types do not match.

Equality with a plain value compiles to containment in the whole metadata, {"field": value} or {"field": [value]}, so
that Postgres can use the inverted index on the metadata.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from psycopg import sql

from worker.documents import clean, clean_json, plain
from worker.errors import InvalidDocument, InvalidQuery

MAX_DEPTH = 16
MAX_VALUES = 200

ORDERS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
OPERATORS = ("$eq", "$ne", *ORDERS, "$in", "$nin", "$exists")
COMBINERS = ("$and", "$or", "$not")

Filter = tuple[sql.Composable, Mapping[str, Any]]  # a condition over r.metadata and its parameters

EVERYTHING = sql.SQL("true")  # the condition of an empty filter


def compile_filter(
    value: object, *, tenant_field: str | None = None, sole_tenant: bool = False
) -> tuple[sql.Composable, dict[str, Any]]:
    """Compile a filter to a condition over `r.metadata` and its parameters; `None` and {} match everything.

    With `tenant_field`, the filter must name the tenant at its top level, by one plain value. This is the only place
    that enforces it. With `sole_tenant`, documents that belong to other tenants too do not match. Raises InvalidQuery
    that names the wrong operator or value.
    """
    if value is None:
        value = {}
    if not isinstance(value, Mapping):
        raise InvalidQuery(f"filter must be an object, not {type(value).__name__}")
    compiler = _Compiler()
    condition = compiler.all_of(value, depth=0)
    if tenant_field is not None:
        tenant = _tenant(value, tenant_field)
        if sole_tenant:
            condition = sql.SQL("({} AND {})").format(condition, compiler.only(tenant_field, tenant))
    return condition, compiler.parameters


def is_empty(value: object) -> bool:
    """Whether a filter without errors names no condition that a document could fail, such as `{"$and": [{}]}`.

    A list without values excludes nothing: `{"field": {"$nin": []}}` is empty, too.
    """
    return _constant(value) is True


def _constant(value: object) -> bool | None:
    """What the filter is for every document; None if it depends on the document."""
    if not isinstance(value, Mapping):
        return None
    return _all(_constant_entry(name, item) for name, item in value.items())


def _constant_entry(name: object, item: object) -> bool | None:
    if name == "$not":
        return _negated(_constant(item))
    if name == "$and" and isinstance(item, list):
        return _all(map(_constant, item))
    if name == "$or" and isinstance(item, list):
        return _negated(_all(_negated(_constant(each)) for each in item))
    if isinstance(item, Mapping) and item:
        return _all(
            {"$in": False, "$nin": True}.get(key) if value == [] else None for key, value in item.items()
        )
    return None


def _all(constants: Iterable[bool | None]) -> bool | None:
    found = set(constants)
    return False if False in found else None if None in found else True


def _negated(constant: bool | None) -> bool | None:
    return None if constant is None else not constant


def _tenant(value: Mapping[str, Any], field: str) -> object:
    """Return the tenant that a filter names. Raises InvalidQuery if there is none, or cleaning would change it."""
    tenant = value.get(field)
    if isinstance(tenant, Mapping) and set(tenant) == {"$eq"}:
        tenant = tenant["$eq"]
    if tenant is None or isinstance(tenant, (Mapping, list)):
        raise InvalidQuery(
            f'this index needs its TENANT_FIELD in every filter: add {{"{field}": the tenant}} to the filter'
        )
    if isinstance(tenant, str) and clean(tenant) != tenant:
        raise InvalidQuery(
            f"{field} in filter, the tenant, contains a NUL or a lone surrogate, which no tenant's name has: remove it"
        )
    return tenant


class _Compiler:
    def __init__(self) -> None:
        self.parameters: dict[str, Any] = {}

    def all_of(self, value: object, depth: int) -> sql.Composable:
        if not isinstance(value, Mapping):
            raise InvalidQuery(f"a filter is an object, not {type(value).__name__}")
        if depth > MAX_DEPTH:
            raise InvalidQuery(f"filter is nested more than {MAX_DEPTH} levels deep")
        return self._join(" AND ", [self._entry(str(name), item, depth) for name, item in value.items()])

    def only(self, name: str, value: object) -> sql.Composable:
        """The field has this value and no other, alone or in a list."""
        field = _Field(path=name.split("."), compiler=self)
        return sql.SQL("coalesce({} <@ {}, false)").format(field.value, self._value([value]))

    def _entry(self, name: str, value: object, depth: int) -> sql.Composable:
        if name == "$not":
            return sql.SQL("NOT {}").format(self.all_of(value, depth + 1))
        if name in ("$and", "$or"):
            if not isinstance(value, list):
                raise InvalidQuery(f"{name} takes a list of filters, not {type(value).__name__}")
            return self._join(f" {name[1:].upper()} ", [self.all_of(item, depth + 1) for item in value])
        if name.startswith("$"):
            raise InvalidQuery(
                f"unknown operator {name!r:.40} in filter: {', '.join(COMBINERS)} combine filters"
            )
        field = _Field(path=clean(name).split("."), compiler=self)
        if isinstance(value, Mapping) and any(str(key).startswith("$") for key in value):
            return self._join(
                " AND ", [self._condition(field, str(key), item) for key, item in value.items()]
            )
        return self._equal(field, value)

    def _condition(self, field: "_Field", operator: str, value: object) -> sql.Composable:
        if operator in ORDERS:
            value = value if isinstance(value, Decimal) else plain(value)
            kind = "string" if isinstance(value, str) else "number"
            if isinstance(value, bool) or not isinstance(value, (str, int, float)):
                raise InvalidQuery(f"{operator} takes a number or a string, not {type(value).__name__}")
            compare = (
                "coalesce(jsonb_typeof({path}) = {kind} AND {path} " + ORDERS[operator] + " {value}, false)"
            )
            return sql.SQL(compare).format(path=field.value, kind=sql.Literal(kind), value=self._value(value))
        handlers: dict[str, Callable[[], sql.Composable]] = {
            "$eq": lambda: self._equal(field, value),
            "$ne": lambda: self._other(field, self._equal(field, value)),
            "$in": lambda: self._any_of(field, operator, value),
            "$nin": lambda: self._other(field, self._any_of(field, operator, value)),
            "$exists": lambda: self._exists(field, value),
        }
        if operator not in handlers:
            raise InvalidQuery(
                f"unknown operator {operator!r:.40} in filter: use one of {', '.join(OPERATORS)}"
            )
        return handlers[operator]()

    def _equal(self, field: "_Field", value: object) -> sql.Composable:
        if isinstance(value, (Mapping, list)):
            return sql.SQL("coalesce({} = {}, false)").format(field.value, self._value(value))
        return self._holds(field, [value])

    def _holds(self, field: "_Field", values: Sequence[object]) -> sql.Composable:
        """The field equals one of these plain values, or is a list that contains one."""
        plain = [_checked(value) for value in values]
        if field.is_plain:
            each = [json.dumps(field.nested(item)) for value in plain for item in (value, [value])]
            return sql.SQL("(r.metadata @> ANY({}))").format(self.bind(each, "jsonb[]"))
        each = [json.dumps(value) for value in plain]
        return sql.SQL("coalesce({} @> ANY({}), false)").format(field.value, self.bind(each, "jsonb[]"))

    def _other(self, field: "_Field", condition: sql.Composable) -> sql.Composable:
        return sql.SQL("({} IS NOT NULL AND NOT {})").format(field.value, condition)

    def _any_of(self, field: "_Field", operator: str, value: object) -> sql.Composable:
        if not isinstance(value, list):
            raise InvalidQuery(f"{operator} takes a list of values, not {type(value).__name__}")
        if any(isinstance(item, (Mapping, list)) for item in value):
            return self._join(" OR ", [self._equal(field, item) for item in value])
        return self._holds(field, value)

    def _exists(self, field: "_Field", value: object) -> sql.Composable:
        if not isinstance(value, bool):
            raise InvalidQuery(f"$exists takes true or false, not {type(value).__name__}")
        return sql.SQL("({} IS NOT NULL)" if value else "({} IS NULL)").format(field.value)

    def _join(self, word: str, parts: list[sql.Composable]) -> sql.Composable:
        if not parts:
            return sql.SQL("false" if word == " OR " else "true")
        return sql.SQL("({})").format(sql.SQL(word).join(parts))

    def _value(self, value: object) -> sql.Composable:
        return self.bind(json.dumps(_checked(value)), "jsonb")

    def bind(self, value: object, cast: str) -> sql.Composable:
        if len(self.parameters) >= MAX_VALUES:
            raise InvalidQuery(f"filter has more than {MAX_VALUES} values: use $in with a list")
        name = f"filter_{len(self.parameters)}"
        self.parameters[name] = value
        return sql.SQL("{}::" + cast).format(sql.Placeholder(name))


@dataclass(frozen=True)
class _Field:
    """A dotted path into the metadata."""

    path: list[str]
    compiler: _Compiler

    @property
    def value(self) -> sql.Composable:
        return sql.SQL("(r.metadata #> {})").format(self.compiler.bind(self.path, "text[]"))

    @property
    def is_plain(self) -> bool:
        """Whether the path has no number, which #> would also take as a list index, and is not too deep."""
        numbered = any(re.match(r"\s*[+-]?\d", part) for part in self.path)
        return not numbered and len(self.path) <= MAX_DEPTH

    def nested(self, value: object) -> object:
        for part in reversed(self.path):
            value = {part: value}
        return value


def _checked(value: object) -> Any:
    if isinstance(value, Decimal):
        raise InvalidQuery("filter has a Decimal: send a number or a string, as the metadata has it")
    try:
        json.dumps(cleaned := clean_json(value, "filter"), allow_nan=False)
    except (InvalidDocument, ValueError) as error:
        raise InvalidQuery(f"filter has a value that JSON cannot hold: {error}") from error
    return cleaned
