"""Strangers, who knock at a scheduler without the right to be let in."""

import asyncio

from distributed.comm import connect
from distributed.security import Security


def knock(address: str, security: Security | None = None) -> None:
    """Open a connection as a client does.

    A `Client` that was refused is closed by the garbage collector, which may wait for the lock of
    the next one that starts: that one then fails.

    Raises:
        OSError: The scheduler does not let us in.
        TypeError: The address wants a certificate, and there is none.
    """
    asyncio.run(_open(address, security or Security()))


async def _open(address: str, security: Security) -> None:
    comm = await connect(address, timeout=3, **security.get_connection_args("client"))
    await comm.close()
