-- What psql asks the catalogs for; the test looks for words in the output.
\set ON_ERROR_STOP on
\pset pager off
CREATE TABLE ps_users (id serial PRIMARY KEY, name varchar(30) NOT NULL DEFAULT 'nobody', score numeric(6,2) CHECK (score >= 0), at timestamptz);
CREATE TABLE ps_empty (a int, b text);
CREATE INDEX ps_users_name ON ps_users (name);
CREATE UNIQUE INDEX ps_users_at ON ps_users (at);
CREATE VIEW ps_names AS SELECT id, name FROM ps_users;
INSERT INTO ps_users (name, score) VALUES ('ann', 1.5), ('bob', NULL);
\echo == d
\d
\echo == dt
\dt
\echo == dt pattern
\dt ps_u*
\echo == dt+
\dt+
\echo == di
\di
\echo == dv
\dv
\echo == ds
\ds
\echo == dn
\dn
\echo == du
\du
\echo == df
\df nosuchfunction
\echo == l
\l
\echo == d table
\d ps_users
\echo == d+ table
\d+ ps_users
\echo == d index
\d ps_users_name
\echo == d view
\d ps_names
\echo == d sequence
\d ps_users_id_seq
\echo == conninfo
\conninfo
\echo == gdesc
SELECT id, name, score FROM ps_users \gdesc
\echo == x
\x on
SELECT * FROM ps_users ORDER BY id;
\x off
\echo == bind and variables
\set who ann
SELECT id FROM ps_users WHERE name = :'who';
SELECT count(*) AS n FROM ps_users \gset
\echo rows :n
\echo == copy
\copy ps_empty FROM pstdin WITH (FORMAT csv)
1,one
2,"two, quoted"
\.
\copy (SELECT * FROM ps_empty ORDER BY a) TO pstdout WITH (FORMAT csv, HEADER)
\echo == several
SELECT 1 AS first \; SELECT 2 AS second;
\echo == transaction
BEGIN;
INSERT INTO ps_empty VALUES (3, 'three');
ROLLBACK;
SELECT count(*) FROM ps_empty;
DROP VIEW ps_names;
DROP TABLE ps_users, ps_empty;
\echo == end
