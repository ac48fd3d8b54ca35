-- postgres_fdw over the same tables.
CREATE EXTENSION postgres_fdw;
CREATE SERVER a FOREIGN DATA WRAPPER postgres_fdw
    OPTIONS (host '127.0.0.1', port ':port_a', dbname 'site':options);
CREATE SERVER b FOREIGN DATA WRAPPER postgres_fdw
    OPTIONS (host '127.0.0.1', port ':port_b', dbname 'site':options);
CREATE USER MAPPING FOR CURRENT_USER SERVER a OPTIONS (user 'atoll');
CREATE USER MAPPING FOR CURRENT_USER SERVER b OPTIONS (user 'atoll');
CREATE TABLE users (
    uid text, name text, gender text, email text, phone text, dept text, grade text, language text,
    region text NOT NULL, role text, prefer_tags text, obtained_credits int, created timestamp) PARTITION BY LIST (region);
CREATE FOREIGN TABLE users_a PARTITION OF users FOR VALUES IN ('Beijing') SERVER a OPTIONS (table_name 'users');
CREATE FOREIGN TABLE users_b PARTITION OF users FOR VALUES IN ('Hong Kong') SERVER b OPTIONS (table_name 'users');
CREATE TABLE articles (
    aid text, title text, category text NOT NULL, abstract text, tags text, authors text, language text,
    text text, image text, video text, created timestamp) PARTITION BY LIST (category);
CREATE FOREIGN TABLE articles_a PARTITION OF articles FOR VALUES IN ('technology') SERVER a OPTIONS (table_name 'articles');
CREATE FOREIGN TABLE articles_b PARTITION OF articles FOR VALUES IN ('science') SERVER b OPTIONS (table_name 'articles');
CREATE TABLE reads (
    rid bigint, uid text NOT NULL, aid text NOT NULL, read_at timestamp NOT NULL, read_time_s int,
    agree boolean, comment boolean, share boolean) PARTITION BY RANGE (rid);
CREATE FOREIGN TABLE reads_a PARTITION OF reads FOR VALUES FROM (MINVALUE) TO (:half) SERVER a OPTIONS (table_name 'reads');
CREATE FOREIGN TABLE reads_b PARTITION OF reads FOR VALUES FROM (:half) TO (MAXVALUE) SERVER b OPTIONS (table_name 'reads');
