"""asyncpg: everything prepared and binary. Argument: the server's URL."""

import asyncio
import datetime as dt
import decimal
import sys
import uuid

import asyncpg


async def main(url: str) -> None:
    conn = await asyncpg.connect(url)
    await conn.execute("DROP TABLE IF EXISTS ap_types")
    await conn.execute("""
        CREATE TABLE ap_types (id int PRIMARY KEY, b boolean, i2 smallint, i8 bigint, f4 real, f8 float8, n numeric(12,3),
            t text, v varchar(20), y bytea, d date, ti time, ts timestamp, tz timestamptz, u uuid, j json, jb jsonb)
    """)
    utc = dt.timezone.utc
    rows = [
        (1, True, 7, 2**60, 0.5, -1.25, decimal.Decimal("1234.500"), "gr\u00f6\u00dfe", "v", b"\x00\x01", dt.date(2024, 2, 29),
         dt.time(1, 2, 3, 4), dt.datetime(2024, 1, 2, 3, 4, 5, 6), dt.datetime(2024, 1, 2, tzinfo=utc), uuid.UUID(int=5),
         '{"a": 1}', '{"a": 1}'),
        (2,) + (None,) * 16,
        (3, False, -7, -1, -2.0, 1e300, decimal.Decimal("-0.001"), "", "", b"", dt.date(1900, 1, 1), dt.time(0), dt.datetime(1900, 1, 1),
         dt.datetime(1999, 12, 31, 23, 59, 59, 999999, tzinfo=utc), uuid.UUID(int=2**128 - 1), "[]", "[]"),
    ]
    marks = ", ".join(f"${i}" for i in range(1, 18))
    await conn.executemany(f"INSERT INTO ap_types VALUES ({marks})", rows)
    got = await conn.fetch("SELECT * FROM ap_types ORDER BY id")
    for expected, found in zip(rows, got, strict=True):
        for (name, f), e in zip(found.items(), expected):
            assert e == f, f"column {name}: {e!r} became {f!r}"
    assert await conn.fetchval("SELECT count(*) FROM ap_types WHERE id = ANY($1::int[])", [1, 3]) == 2
    assert await conn.fetchrow("SELECT n FROM ap_types WHERE n > $1", decimal.Decimal(1)) == (decimal.Decimal("1234.500"),)
    assert await conn.fetchval("SELECT $1::text || $2", "a", "b") == "ab"

    statement = await conn.prepare("SELECT id, t FROM ap_types WHERE id >= $1 ORDER BY id")
    assert [p.name for p in statement.get_parameters()] == ["int4"]
    assert [(a.name, a.type.name) for a in statement.get_attributes()] == [("id", "int4"), ("t", "text")]
    assert [r["id"] for r in await statement.fetch(2)] == [2, 3]

    async with conn.transaction():
        await conn.execute("INSERT INTO ap_types (id) VALUES (10)")
        try:
            async with conn.transaction():
                await conn.execute("INSERT INTO ap_types (id) VALUES ($1)", 10)
        except asyncpg.UniqueViolationError as e:
            assert e.sqlstate == "23505"
        pieces = [r["id"] async for r in conn.cursor("SELECT id FROM ap_types ORDER BY id", prefetch=2)]
        assert pieces == [1, 2, 3, 10], pieces
    assert await conn.fetchval("SELECT count(*) FROM ap_types") == 4

    try:
        await conn.fetch("SELECT * FROM nosuch")
        raise AssertionError("no error")
    except asyncpg.UndefinedTableError:
        pass

    await conn.execute("DROP TABLE IF EXISTS ap_copy")
    await conn.execute("CREATE TABLE ap_copy (id int PRIMARY KEY, t text)")
    data = b"".join(f"{i},text {i}\n".encode() for i in range(1000))

    async def chunks():
        for at in range(0, len(data), 1000):
            yield data[at:at + 1000]

    assert await conn.copy_to_table("ap_copy", source=chunks(), format="csv") == "COPY 1000"
    assert await conn.fetchval("SELECT count(*) FROM ap_copy") == 1000

    pool = await asyncpg.create_pool(url, min_size=4, max_size=4)
    sums = await asyncio.gather(*(pool.fetchval("SELECT sum(id) FROM ap_copy WHERE id % 10 = $1", i) for i in range(10)))
    assert sum(sums) == sum(range(1000)), sums
    await pool.close()
    await conn.execute("DROP TABLE ap_types, ap_copy")
    await conn.close()


asyncio.run(main(sys.argv[1]))
print("ok")
