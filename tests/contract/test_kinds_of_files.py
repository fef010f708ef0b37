"""What ingest makes of files, the chunker takes: the two share the list of kinds and no code."""

from __future__ import annotations

import pytest

from headrace_chunker.sections import outline
from headrace_ingest.files.kinds import PARSED, TEXTS

pytestmark = pytest.mark.contract


@pytest.mark.parametrize("kind", [*PARSED, *TEXTS])
def test_the_chunker_knows_every_kind_that_ingest_makes(kind: str) -> None:
    """A new kind of file would be read by ingest, and end in the dead letters of the chunker."""
    assert outline("# x\n\ntext\n", kind).sections
