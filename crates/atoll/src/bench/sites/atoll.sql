-- Atoll over them: the tables are adopted.
CREATE SITE a ENGINE postgres OPTIONS (url ':a');
CREATE SITE b ENGINE postgres OPTIONS (url ':b');
CREATE TABLE users (
    uid text PRIMARY KEY, name text, gender text, email text, phone text, dept text, grade text, language text,
    region text NOT NULL, role text, prefer_tags text, obtained_credits int, created timestamp) PARTITION BY LIST (region);
CREATE TABLE users_a PARTITION OF users FOR VALUES IN ('Beijing') TABLESPACE a OPTIONS (table 'public.users');
CREATE TABLE users_b PARTITION OF users FOR VALUES IN ('Hong Kong') TABLESPACE b OPTIONS (table 'public.users');
CREATE TABLE articles (
    aid text PRIMARY KEY, title text, category text NOT NULL, abstract text, tags text, authors text, language text,
    text text, image text, video text, created timestamp) PARTITION BY LIST (category);
CREATE TABLE articles_a PARTITION OF articles FOR VALUES IN ('technology') TABLESPACE a OPTIONS (table 'public.articles');
CREATE TABLE articles_b PARTITION OF articles FOR VALUES IN ('science') TABLESPACE b OPTIONS (table 'public.articles');
CREATE TABLE reads (
    rid bigint PRIMARY KEY, uid text NOT NULL, aid text NOT NULL, read_at timestamp NOT NULL, read_time_s int,
    agree boolean, comment boolean, share boolean) PARTITION BY RANGE (rid);
CREATE TABLE reads_a PARTITION OF reads FOR VALUES FROM (MINVALUE) TO (:half) TABLESPACE a OPTIONS (table 'public.reads');
CREATE TABLE reads_b PARTITION OF reads FOR VALUES FROM (:half) TO (MAXVALUE) TABLESPACE b OPTIONS (table 'public.reads');
