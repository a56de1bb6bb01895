"""Talks to the admin console with asyncpg, which prepares everything and wants binary results.

    asyncpg_console.py HOST PORT USER DATABASE
"""

import asyncio
import sys
from decimal import Decimal

import asyncpg


async def main(host: str, port: str, user: str, database: str) -> None:
    """Looks around, in a transaction and outside, and gives up a command that waits."""
    settings = {"application_name": "asyncpg"}
    connection = await asyncpg.connect(
        host=host, port=int(port), user=user, database="pgtandem", server_settings=settings
    )
    try:
        for _ in range(3):
            pools = await connection.fetch("SHOW POOLS")
        assert [type(value) for value in pools[0].values()][:3] == [str, str, int], pools
        assert pools[-1]["pool_mode"] == "statement", pools
        stats = await connection.fetch("SHOW STATS")
        assert isinstance(stats[0]["total_xact_count"], Decimal), stats
        clients = await connection.fetch("SHOW CLIENTS")
        ours = [client for client in clients if client["application_name"] == "asyncpg"]
        assert len(ours) == 1 and isinstance(ours[0]["id"], int), clients
        assert await connection.fetchval("SELECT 1") == 1
        assert await connection.fetchval("SELECT pg_is_in_recovery()") is False
        async with connection.transaction():
            assert await connection.fetchval("SHOW VERSION")
            # In portions, over a portal.
            keys = [row["key"] async for row in connection.cursor("SHOW CONFIG", prefetch=7)]
            assert len(keys) > 40 and len(set(keys)) == len(keys), keys
        for command, error in [
            ("SHOW NOTHING", asyncpg.PostgresSyntaxError),
            ("PAUSE no_such_database", asyncpg.InvalidCatalogNameError),
        ]:
            try:
                await connection.execute(command)
            except error:
                pass
            else:
                raise AssertionError(f"{command} was carried out")
        assert await connection.execute(f"DISABLE {database}") == "DISABLE"
        assert await connection.execute(f"ENABLE {database}") == "ENABLE"
    finally:
        await connection.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
