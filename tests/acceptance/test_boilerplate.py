"""Search among documents that share a paragraph, like a footer on every page of a site."""

import pytest

from tests.fixtures.system import CHAT, STAGING, System

COPIES = 300
RULES = (
    "Dogs must be kept on a lead, and guide dogs are welcome everywhere. The cloakroom is free of charge; large bags "
    "must be left there. Complaints are to be addressed in writing to the office within four weeks."
)
ANSWERS = {
    "kennel": "The kennel takes in dogs while their owners are away. Puppies under six months are not taken in.",
    "vet": "Dogs are vaccinated on Mondays, and their owners bring the passport of the dog.",
    "park": "Dogs may run free in the park until nine in the morning.",
}
QUESTION = "Where are dogs taken in while I am away?"


@pytest.mark.slow
@pytest.mark.parametrize("title", ["", "House {}"], ids=["one title", "a title each"])
@pytest.mark.parametrize("mode", ["hybrid", "vector"])
def test_repeated_paragraph_takes_one_row_below_the_answer(
    system: System, index: str, title: str, mode: str
) -> None:
    """Copies with different titles have different vectors, but a reader would see the same text repeatedly."""
    documents = [{"id": n, "title": title.format(n), "text": RULES} for n in range(COPIES)]
    documents += [{"id": id, "title": id if title else "", "text": text} for id, text in ANSWERS.items()]
    system.call("tasks.index_documents", STAGING, documents=documents, index=index)

    rows = system.call("tasks.search", CHAT, query=QUESTION, limit=4, index=index, mode=mode)
    assert rows[0]["document_id"] == "kennel"
    assert {row["text"] for row in rows} == {RULES, *ANSWERS.values()}

    second = system.call("tasks.search", CHAT, query=QUESTION, limit=2, offset=2, index=index, mode=mode)
    assert second == rows[2:]
