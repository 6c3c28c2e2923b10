"""How long the threads of GNU's OpenMP runtime spin for the next piece of work before they sleep.

PyTorch's runtime spins for milliseconds by default. Alone that is fastest: between two operations there are some ten
microseconds of Python, and waking a thread takes longer. But when another program wants one of the cores, a thread
spins where the one that it waits for could compute, and a token takes ten times as long. A short spin keeps most of
both. On 2 cores of an EPYC (Zen 4) with the test model's twin, in tokens per second, alone and beside a busy process:
PyTorch 33 to 39 and 2 with the default, 13 beside it with this; vLLM 41 and 4 with a long spin, 27 and 20 with none,
38 and 13 with this.

Source: libgomp's manual, GOMP_SPINCOUNT; the numbers were measured with torch 2.13 and vLLM 0.32.
"""

import os

__all__ = ["limit_spinning"]

_SPINS = "3000"  # some 50 microseconds


def limit_spinning() -> None:
    """Set it for this process, before the library is imported, unless the user has set how threads wait."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = _SPINS
