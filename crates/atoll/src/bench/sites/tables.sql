-- The tables at each of the two servers.
CREATE TABLE users (
    uid text PRIMARY KEY, name text, gender text, email text, phone text, dept text, grade text, language text,
    region text NOT NULL, role text, prefer_tags text, obtained_credits int, created timestamp);
CREATE TABLE articles (
    aid text PRIMARY KEY, title text, category text NOT NULL, abstract text, tags text, authors text, language text,
    text text, image text, video text, created timestamp);
CREATE TABLE reads (
    rid bigint PRIMARY KEY, uid text NOT NULL, aid text NOT NULL, read_at timestamp NOT NULL, read_time_s int,
    agree boolean, comment boolean, share boolean);
