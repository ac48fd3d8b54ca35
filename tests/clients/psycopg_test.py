"""psycopg 3: parameters in text and binary, prepared statements, transactions, COPY, errors. Argument: the server's URL."""

import datetime as dt
import decimal
import sys
import uuid

import psycopg
from psycopg import errors
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

url = sys.argv[1]
conn = psycopg.connect(url, autocommit=True)

conn.execute("DROP TABLE IF EXISTS py_types")
conn.execute("""
    CREATE TABLE py_types (id int PRIMARY KEY, b boolean, i2 smallint, i8 bigint, f8 float8, n numeric(12,3), t text,
        y bytea, d date, ts timestamp, tz timestamptz, u uuid, j jsonb, ia int[], ta text[])
""")
utc = dt.timezone.utc
rows = [
    (1, True, -5, 2**62, 1.25, decimal.Decimal("12345.678"), "it's\n\u6f22 \U0001f980", b"\x00\xff\\", dt.date(2024, 2, 29),
     dt.datetime(2024, 2, 29, 12, 34, 56, 789012), dt.datetime(2024, 2, 29, 12, 0, tzinfo=utc),
     uuid.UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), {"a": [1, None, "x"]}, [1, 2, 3], ["a", "b c", 'q"']),
    (2, False, 0, -1, float("inf"), decimal.Decimal("-0.001"), "", b"", dt.date(1, 1, 1), dt.datetime(1970, 1, 1),
     dt.datetime(1969, 12, 31, 23, 59, 59, tzinfo=utc), uuid.UUID(int=0), [], [], []),
    (3,) + (None,) * 14,
]
for binary in (False, True):
    conn.execute("DELETE FROM py_types")
    with conn.cursor(binary=binary) as cur:
        for row in rows:
            values = tuple(Jsonb(v) if i == 12 and v is not None else v for i, v in enumerate(row))
            mark = "%b" if binary else "%s"
            cur.execute(f"INSERT INTO py_types VALUES ({', '.join([mark] * 15)})", values)
            assert cur.rowcount == 1
        cur.execute("SET TIME ZONE 'UTC'")
        cur.execute("SELECT * FROM py_types ORDER BY id")
        got = cur.fetchall()
        assert len(got) == 3, got
        for expected, found in zip(rows, got):
            for name, e, f in zip((c.name for c in cur.description), expected, found):
                assert e == f, f"binary={binary} column {name}: {e!r} became {f!r}"

# Prepared statements, executed so often that psycopg names them.
for i in range(12):
    got = conn.execute("SELECT t, id + %s FROM py_types WHERE id = %s", (i, 1), prepare=True).fetchone()
    assert got == (rows[0][6], 1 + i), got
assert conn.execute("SELECT count(*) FROM py_types WHERE id = ANY(%s)", ([1, 2, 99],)).fetchone() == (2,)
assert conn.execute("SELECT id FROM py_types WHERE d BETWEEN %s AND %s", (dt.date(2000, 1, 1), dt.date(2030, 1, 1))).fetchall() == [(1,)]
assert conn.execute("SELECT %s::int IS NULL, %s::text", (None, "x")).fetchone() == (True, "x")

with conn.cursor(row_factory=dict_row) as cur:
    assert cur.execute("SELECT 1 AS one, 'x' AS two").fetchone() == {"one": 1, "two": "x"}
with conn.cursor() as cur:
    cur.executemany("INSERT INTO py_types (id, t) VALUES (%s, %s)", [(100 + i, f"many {i}") for i in range(50)])
    assert cur.rowcount == 50
    cur.execute("INSERT INTO py_types (id) VALUES (200) RETURNING id, b")
    assert cur.fetchone() == (200, None)
with conn.pipeline():
    cursors = [conn.execute("SELECT %s::int", (i,)) for i in range(20)]
assert [c.fetchone()[0] for c in cursors] == list(range(20))

# Transactions and savepoints.
try:
    with conn.transaction():
        conn.execute("INSERT INTO py_types (id) VALUES (300)")
        try:
            with conn.transaction():
                conn.execute("INSERT INTO py_types (id) VALUES (300)")
        except errors.UniqueViolation as e:
            assert e.sqlstate == "23505" and e.diag.constraint_name, e.diag
        conn.execute("INSERT INTO py_types (id) VALUES (301)")
        raise KeyError
except KeyError:
    pass
assert conn.execute("SELECT count(*) FROM py_types WHERE id >= 300").fetchone() == (0,)
with conn.transaction():
    conn.execute("INSERT INTO py_types (id) VALUES (300)")
assert conn.execute("SELECT count(*) FROM py_types WHERE id >= 300").fetchone() == (1,)

for sql, error in [
    ("SELECT * FROM nosuch", errors.UndefinedTable),
    ("SELECT nosuch FROM py_types", errors.UndefinedColumn),
    ("SELEC", errors.SyntaxError),
    ("SELECT 1/0", errors.DivisionByZero),
    ("INSERT INTO py_types (id) VALUES (NULL)", errors.NotNullViolation),
]:
    try:
        conn.execute(sql)
    except error:
        continue
    raise AssertionError(f"{sql}: no {error.__name__}")

# A server-side cursor reads in pieces.
with conn.transaction(), conn.cursor(name="pieces") as cur:
    cur.execute("SELECT id FROM py_types WHERE id BETWEEN 100 AND 149 ORDER BY id")
    assert [r[0] for r in cur.fetchmany(10)] == list(range(100, 110))
    assert len(cur.fetchall()) == 40

# COPY, both ways.
conn.execute("DROP TABLE IF EXISTS py_copy")
conn.execute("CREATE TABLE py_copy (id int PRIMARY KEY, t text, f float8)")
with conn.cursor() as cur:
    with cur.copy("COPY py_copy (id, t, f) FROM STDIN") as copy:
        for i in range(2000):
            copy.write_row((i, None if i % 7 == 0 else f"row\t{i}\\", i / 4))
    assert conn.execute("SELECT count(*), count(t), sum(f) FROM py_copy").fetchone() == (2000, 1714, sum(i / 4 for i in range(2000)))
    with cur.copy("COPY (SELECT id, t FROM py_copy WHERE id < 3 ORDER BY id) TO STDOUT") as copy:
        assert list(copy.rows()) == [("0", None), ("1", "row\t1\\"), ("2", "row\t2\\")]
    with cur.copy("COPY py_copy TO STDOUT WITH (FORMAT csv, HEADER)") as copy:
        text = b"".join(copy).decode()
    assert text.startswith("id,t,f\n") and text.count("\n") == 2001, text[:100]
    with cur.copy("COPY py_copy FROM STDIN WITH (FORMAT csv)") as copy:
        copy.write('5000,"a ""quoted"", value",1.5\n5001,,\n')
    assert conn.execute("SELECT t, f FROM py_copy WHERE id >= 5000 ORDER BY id").fetchall() == [('a "quoted", value', 1.5), (None, None)]
    try:
        with cur.copy("COPY py_copy FROM STDIN") as copy:
            copy.write("6000\tx\t1\n6001\ty\tnot a number\n")
        raise AssertionError("a bad row was copied")
    except errors.InvalidTextRepresentation:
        pass
    assert conn.execute("SELECT count(*) FROM py_copy WHERE id >= 6000").fetchone() == (0,)

# A query is cancelled.
import threading

timer = threading.Timer(0.5, conn.cancel)
timer.start()
try:
    conn.execute("SELECT count(*) FROM generate_series(1, 3000000) a, generate_series(1, 3000000) b")
    raise AssertionError("not cancelled")
except errors.QueryCanceled:
    pass
timer.join()
assert conn.execute("SELECT 1").fetchone() == (1,)

conn.execute("DROP TABLE py_types, py_copy")
conn.close()
print("ok")
