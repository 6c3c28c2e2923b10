"""Who is at the other end of a Unix socket."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

__all__ = ["peer_user"]


def peer_user(connection: "socket.socket") -> int:
    """Return the user of the process at the other end."""
    import socket
    import struct

    if sys.platform == "darwin":  # struct xucred: version, uid, …; unix(4), LOCAL_PEERCRED of SOL_LOCAL
        return int(struct.unpack_from("II", connection.getsockopt(0, 1, 76))[1])
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])
