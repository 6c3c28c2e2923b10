"""What a program writes to a pseudo-terminal."""

import os

__all__ = ["read_to_end"]


def read_to_end(descriptor: int) -> bytes:
    """Return everything until the other side is closed, and close this one."""
    got = bytearray()
    try:
        while data := os.read(descriptor, 4096):
            got += data
    except OSError:  # the other side is closed
        pass
    os.close(descriptor)
    return bytes(got)
