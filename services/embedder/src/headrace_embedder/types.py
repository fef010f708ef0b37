"""What all modules of the embedder share: an array of vectors, and what a text is."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


class Kind(StrEnum):
    """What a text is; some models embed queries and passages differently."""

    PASSAGE = "passage"
    QUERY = "query"
