"""How many threads one operation of torch takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Let every operation run on one thread.

    How many threads share a product decides the order of its sums, and so the last bits. With one, they do not depend
    on the machine's cores, and weights trained or passes measured in two processes are equal bit for bit.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
