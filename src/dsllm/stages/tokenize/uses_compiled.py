"""How often each token occurs, compiled."""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled


@compiled
def count_uses(tokens: NDArray[np.uint32], uses: NDArray[np.int64]) -> None:
    """Add the number of times that each id occurs to `uses`, which has room for all."""
    for place in range(len(tokens)):
        uses[tokens[place]] += 1
