"""Types that all modules of the embedder share."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


class Kind(StrEnum):
    """The kind of a text; some models embed queries and passages differently."""

    PASSAGE = "passage"
    QUERY = "query"
