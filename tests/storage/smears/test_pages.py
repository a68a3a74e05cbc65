from storage.smears.pages import INDEX, page_is_of, page_names, page_path
from storage.store import Store


def test_every_batch_has_a_page_of_its_own(store: Store) -> None:
    assert page_names(store) == {}
    for batch in ("night", "index", "night.html"):
        store.write_bytes(b"<title>" + batch.encode(), *page_path(batch))
    store.write_bytes(b"all", *INDEX)
    assert page_names(store) == {
        "index": "index~.html",
        "night": "night.html",
        "night.html": "night.html.html",
    }
    assert store.read_bytes(*INDEX) == b"all"


def test_a_page_is_of_the_reports_that_it_names_in_its_head(store: Store) -> None:
    assert not page_is_of(store, "night", "a" * 64)
    store.write_bytes(b"<meta " + b"a" * 64 + b"x" * 10_000 + b"b" * 64, *page_path("night"))
    assert page_is_of(store, "night", "a" * 64)
    assert not page_is_of(store, "night", "b" * 64)
