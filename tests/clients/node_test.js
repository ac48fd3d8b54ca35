// node-postgres: simple and parameterized queries, types, named statements, a pool. Argument: the server's URL.
'use strict';
const assert = require('node:assert');
const { Client, Pool } = require('pg');

async function main(connectionString) {
  const client = new Client({ connectionString });
  await client.connect();
  await client.query("SET TIME ZONE 'UTC'");
  await client.query('DROP TABLE IF EXISTS nj');
  await client.query(`CREATE TABLE nj (id int PRIMARY KEY, t text, b boolean, big bigint, f float8, n numeric(8,2),
    at timestamptz, d jsonb, ia int[], y bytea)`);
  const at = new Date('2024-05-06T07:08:09.123Z');
  const inserted = await client.query(
    'INSERT INTO nj VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING id',
    [1, "it's 🦀", true, '9007199254740993', 1.5, '12.30', at, { a: [1, null] }, [1, 2], Buffer.from([0, 255])]);
  assert.deepStrictEqual([inserted.rowCount, inserted.rows], [1, [{ id: 1 }]]);
  await client.query('INSERT INTO nj (id) VALUES ($1)', [2]);
  const { rows, fields } = await client.query('SELECT * FROM nj ORDER BY id');
  assert.deepStrictEqual(fields.map((f) => f.name), ['id', 't', 'b', 'big', 'f', 'n', 'at', 'd', 'ia', 'y']);
  assert.deepStrictEqual(rows[0], {
    id: 1, t: "it's 🦀", b: true, big: '9007199254740993', f: 1.5, n: '12.30', at, d: { a: [1, null] }, ia: [1, 2],
    y: Buffer.from([0, 255]),
  });
  assert.deepStrictEqual(Object.values(rows[1]), [2, ...Array(9).fill(null)]);

  for (let i = 0; i < 5; i++) {
    const named = { name: 'by-id', text: 'SELECT t FROM nj WHERE id = $1', values: [1] };
    assert.strictEqual((await client.query(named)).rows[0].t, "it's 🦀");
  }
  const several = await client.query('SELECT 1 AS a; SELECT 2 AS b');
  assert.deepStrictEqual(several.map((r) => r.rows[0]), [{ a: 1 }, { b: 2 }]);

  await client.query('BEGIN');
  await assert.rejects(client.query('INSERT INTO nj (id) VALUES (1)'), { code: '23505' });
  await assert.rejects(client.query('SELECT 1'), { code: '25P02' });
  await client.query('ROLLBACK');
  await assert.rejects(client.query('SELECT * FROM nosuch'), { code: '42P01' });
  await client.end();

  const pool = new Pool({ connectionString, max: 4 });
  const results = await Promise.all([...Array(20).keys()].map((i) => pool.query('SELECT $1::int AS i', [i])));
  assert.deepStrictEqual(results.map((r) => r.rows[0].i), [...Array(20).keys()]);
  await pool.query('DROP TABLE nj');
  await pool.end();
  console.log('ok');
}

main(process.argv[2]).catch((error) => {
  console.error(error);
  process.exit(1);
});
