"""Values that Celery carries and JSON does not: they become what their sender meant."""

from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from worker.documents import Document, document_ids, document_label, document_version
from worker.errors import InvalidDocument, InvalidQuery
from worker.store.filters import compile_filter

KEY = UUID("0f6d1c1e-2b9e-4b0a-9a53-3f1f0c5a7e11")


def document(**fields: Any) -> Document:
    return Document.from_json({"id": 1, "text": "Words.", **fields}, max_bytes=100)


@pytest.mark.parametrize(
    ("id", "expected"),
    [(KEY, str(KEY)), (Decimal(7), "7"), (Decimal("7.00"), "7"), (Decimal("1E+3"), "1000"), (7, "7")],
)
def test_an_id_may_be_a_uuid_or_a_whole_decimal(id: Any, expected: str) -> None:
    assert document(id=id).id == expected
    assert document_label({"id": id}) == expected
    assert document_ids([id, expected]) == [expected]


@pytest.mark.parametrize(
    "id", [Decimal("7.5"), Decimal("NaN"), Decimal("Infinity"), date(2026, 1, 2), b"a", True]
)
def test_an_ambiguous_id_is_refused(id: Any) -> None:
    with pytest.raises(InvalidDocument, match="id must be a string or an integer, not"):
        document(id=id)
    assert document_label({"id": id}) is None


def test_a_version_may_be_a_whole_decimal() -> None:
    assert document_version(Decimal("12.0")) == 12
    for wrong in (Decimal("12.5"), Decimal("Infinity"), 12.0, datetime(2026, 1, 2, tzinfo=UTC)):
        with pytest.raises(InvalidDocument, match="version must be an integer"):
            document_version(wrong)


def test_metadata_become_what_a_callable_source_makes_of_them() -> None:
    metadata = {
        "price": Decimal("5.10"),
        "owner": KEY,
        "at": [datetime(2026, 1, 2, 3, 4, tzinfo=UTC), date(2026, 1, 2), time(3, 4)],
    }
    assert document(metadata=metadata).metadata == {
        "price": "5.10",
        "owner": str(KEY),
        "at": ["2026-01-02T03:04:00+00:00", "2026-01-02", "03:04:00"],
    }


@pytest.mark.parametrize("value", [KEY, datetime(2026, 1, 2, tzinfo=UTC), date(2026, 1, 2)])
@pytest.mark.parametrize("operator", ["$eq", "$gt", "$in", None])
def test_a_filter_takes_the_values_that_metadata_take(operator: str | None, value: Any) -> None:
    text = str(value) if value is KEY else value.isoformat()

    def parameters(given: Any) -> dict[str, Any]:
        given = [given] if operator == "$in" else given
        return compile_filter({"field": {operator: given} if operator else given})[1]

    assert parameters(value) == parameters(text)


@pytest.mark.parametrize(
    "filter", [{"a": Decimal(1)}, {"a": {"$gt": Decimal(1)}}, {"a": {"$in": [Decimal(1)]}}]
)
def test_a_decimal_in_a_filter_is_refused(filter: Any) -> None:
    """Metadata have it as a number or as a string: the other would match nothing, without a word."""
    with pytest.raises(InvalidQuery, match="a number or a string"):
        compile_filter(filter)
