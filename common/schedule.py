"""The learning-rate schedule that two notebooks share."""

import math


def warmup_cosine(step: int, total_steps: int, warmup_steps: int = 0) -> float:
    """The fraction of the peak learning rate at ``step`` of ``total_steps``, both counted from 1.

    It rises linearly over the first ``warmup_steps`` and falls along half a cosine, to 0 at ``total_steps``
    (Loshchilov and Hutter 2017, SGDR, without restarts).
    """
    if step < warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
