"""Principals and readers: which are valid, and what a reader may read."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.access.readers import (
    EVERY_DOCUMENT,
    MAX_ACL_ENTRIES,
    MAX_NAME,
    MAX_PRINCIPALS,
    UNKNOWN,
    UNNAMED,
    Reader,
    acl_of,
    parsed,
    principal,
)

pytestmark = pytest.mark.unit

NAMES = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=40
).filter(lambda name: name == name.strip() and 0 < len(unicodedata.normalize("NFC", name)) <= MAX_NAME)  # fmt: skip


@pytest.mark.parametrize(
    "entry",
    ["", "team", "user", "user:", ":ann", "role:admin", "User:ann", "user: ann", "user:ann ", "*", UNKNOWN, "user:a\nb",
     "user:a\x00", "user:\ud800", "group:\u2028", f"project:{'x' * (MAX_NAME + 1)}"],
)  # fmt: skip
def test_what_is_no_principal_is_refused(entry: str) -> None:
    """Broken: an entry that no reader can have, or one that means every document, gets into an acl."""
    with pytest.raises(ValueError, match=r"."):
        parsed(entry)


@pytest.mark.parametrize("entry", ["user:ann", "group:재무팀", "project:a:b", 'user:"', "user:{}", "group:night shift"])
def test_names_may_have_any_visible_characters(entry: str) -> None:
    """Broken: readers whose names have characters of arrays, headers or other scripts cannot be named."""
    assert parsed(entry) == entry


def test_two_spellings_of_a_name_are_one() -> None:
    """Broken: a name from macOS, in decomposed Hangul, is another name than the one that was typed."""
    typed = "김민수"
    assert principal("user", unicodedata.normalize("NFD", typed)) == f"user:{typed}"


def test_an_acl_is_a_set() -> None:
    """Broken: the same readers in another order are another version of a document."""
    assert acl_of(["user:b", "group:a", "user:b"]) == ("group:a", "user:b")
    with pytest.raises(ValueError, match=f"the limit is {MAX_ACL_ENTRIES}"):
        acl_of([f"user:{number}" for number in range(MAX_ACL_ENTRIES + 1)])


def test_who_may_read() -> None:
    """Broken: kinds of principals are confused, or a reader without a user reads what has an acl."""
    ann = Reader.named("ann", ["staff"], ["apollo"])
    assert ann.names == ("group:staff", "project:apollo", "user:ann")
    assert all(ann.may_read(acl) for acl in ((), ("user:ann",), ("user:bob", "group:staff"), ("project:apollo",)))
    assert not any(ann.may_read(acl) for acl in (("group:ann",), ("user:staff",), ("project:staff",), (UNKNOWN,), None))
    assert UNNAMED.may_read(())
    assert not UNNAMED.may_read(("user:ann",))
    assert not UNNAMED.may_read(None)
    assert all(EVERY_DOCUMENT.may_read(acl) for acl in ((), ("user:ann",), (UNKNOWN,), None))


def test_a_reader_has_a_limit() -> None:
    """Broken: one request makes a setting of any length."""
    with pytest.raises(ValueError, match=f"the limit is {MAX_PRINCIPALS}"):
        Reader.named("ann", [str(number) for number in range(MAX_PRINCIPALS)])
    with pytest.raises(ValueError, match=f"the limit is {MAX_PRINCIPALS}"):
        Reader.of([f"user:{number}" for number in range(MAX_PRINCIPALS + 1)])


def test_an_asterisk_reads_everything_only_alone() -> None:
    """Broken: an asterisk among other names, or within a name, reads every document."""
    assert Reader.of(("*",)) == EVERY_DOCUMENT
    with pytest.raises(ValueError, match="is no principal"):
        Reader.of(("*", "user:ann"))
    assert Reader.named("*").principals == {"user:*"}
    assert not Reader.named("*").may_read(("user:ann",))


@given(st.sets(NAMES, max_size=5), st.sets(NAMES, max_size=5))
def test_names_lead_back_to_the_reader(groups: set[str], projects: set[str]) -> None:
    """Broken: a reader is another one after it went through a record or a row."""
    reader = Reader.named("ann", groups, projects)
    assert Reader.of(reader.names) == reader
