-- A news platform over two cities. Users live at the site of their region, what they read lies beside them,
-- science is kept in both cities, and the counts that everybody asks for are kept everywhere.

CREATE SITE beijing ENGINE embedded;
CREATE SITE hongkong ENGINE embedded;

-- Horizontal fragments by region.
CREATE TABLE users (
    uid text PRIMARY KEY,
    name text NOT NULL,
    gender text,
    email text,
    phone text,
    dept text,
    grade text,
    language text,
    region text NOT NULL,
    role text,
    prefer_tags text,
    obtained_credits int,
    created timestamp
) PARTITION BY LIST (region);
CREATE TABLE users_bj PARTITION OF users FOR VALUES IN ('Beijing') TABLESPACE beijing;
CREATE TABLE users_hk PARTITION OF users FOR VALUES IN ('Hong Kong') TABLESPACE hongkong;

-- Science at both sites, technology at one.
CREATE TABLE articles (
    aid text PRIMARY KEY,
    title text NOT NULL,
    category text NOT NULL,
    abstract text,
    tags text,
    authors text,
    language text,
    text text,
    image text,
    video text,
    created timestamp
) PARTITION BY LIST (category);
CREATE TABLE articles_science PARTITION OF articles FOR VALUES IN ('science')
    WITH (sites = 'beijing, hongkong', replication = 'all');
CREATE TABLE articles_technology PARTITION OF articles FOR VALUES IN ('technology') TABLESPACE hongkong;

-- Derived fragments: each reading lies at the site of its reader.
CREATE TABLE reads (
    rid bigint PRIMARY KEY,
    uid text NOT NULL,
    aid text NOT NULL,
    read_at timestamp NOT NULL,
    read_time_s int,
    agree boolean,
    comment boolean,
    share boolean
) WITH (colocate_with = 'users', colocate_on = 'uid');

-- A full copy at both sites.
CREATE TABLE be_read (
    aid text PRIMARY KEY,
    read_num bigint NOT NULL,
    reader_num bigint NOT NULL,
    agree_num bigint NOT NULL,
    comment_num bigint NOT NULL,
    share_num bigint NOT NULL,
    last_read timestamp
) WITH (sites = 'beijing, hongkong', replication = 'all');

-- Daily ranks at one site, weekly and monthly ones at the other.
CREATE TABLE popular_rank (
    granularity text,
    period timestamp,
    rank int,
    aid text NOT NULL,
    read_num bigint NOT NULL,
    PRIMARY KEY (granularity, period, rank)
) PARTITION BY LIST (granularity);
CREATE TABLE popular_daily PARTITION OF popular_rank FOR VALUES IN ('daily') TABLESPACE beijing;
CREATE TABLE popular_longer PARTITION OF popular_rank FOR VALUES IN ('weekly', 'monthly') TABLESPACE hongkong;
