"""One thread for what a patient adds: threads share work by how much of it there is.

With several, oneDNN, MKL and torch cut a pass into as many parts as there are threads. Where 8
images meet 12 threads, or 16 images 3, cuts lie within an image, and on one side of a cut numbers
are summed in another order than on the other. Then the last bits of a patient's vector hang on who
is computed with it, and theta can be made so that nothing but last bits is left: a patient moved a
sum by 4.7 C on 16 threads, by 2.3 C on 3. One thread cuts nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch and its libraries compute in this thread alone; usable as a decorator."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
