-- Flights that left New York in 2013. Each airport's flights and weather lie at the airport's own site;
-- what all three need is kept at each of them.

CREATE SITE ewr ENGINE embedded;
CREATE SITE jfk ENGINE embedded;
CREATE SITE lga ENGINE embedded;

CREATE TABLE airlines (
    carrier text PRIMARY KEY,
    name text NOT NULL
) WITH (sites = 'ewr, jfk, lga', replication = 'all');

CREATE TABLE airports (
    faa text PRIMARY KEY,
    name text NOT NULL,
    lat double precision,
    lon double precision,
    alt int,
    tz int,
    dst text,
    tzone text
) WITH (sites = 'ewr, jfk, lga', replication = 'all');

CREATE TABLE planes (
    tailnum text PRIMARY KEY,
    year int,
    type text,
    manufacturer text,
    model text,
    engines int,
    seats int,
    speed int,
    engine text
) WITH (sites = 'ewr, jfk, lga', replication = 'all');

CREATE TABLE weather (
    origin text,
    year int,
    month int,
    day int,
    hour int,
    temp double precision,
    dewp double precision,
    humid double precision,
    wind_dir int,
    wind_speed double precision,
    wind_gust double precision,
    precip double precision,
    pressure double precision,
    visib double precision,
    time_hour timestamp with time zone,
    PRIMARY KEY (origin, time_hour)
) PARTITION BY LIST (origin);
CREATE TABLE weather_ewr PARTITION OF weather FOR VALUES IN ('EWR') TABLESPACE ewr;
CREATE TABLE weather_jfk PARTITION OF weather FOR VALUES IN ('JFK') TABLESPACE jfk;
CREATE TABLE weather_lga PARTITION OF weather FOR VALUES IN ('LGA') TABLESPACE lga;

CREATE TABLE flights (
    year int,
    month int,
    day int,
    dep_time int,
    sched_dep_time int,
    dep_delay int,
    arr_time int,
    sched_arr_time int,
    arr_delay int,
    carrier text,
    flight int,
    tailnum text,
    origin text,
    dest text NOT NULL,
    air_time int,
    distance int,
    hour int,
    minute int,
    time_hour timestamp with time zone,
    PRIMARY KEY (origin, time_hour, carrier, flight)
) PARTITION BY LIST (origin);
CREATE TABLE flights_ewr PARTITION OF flights FOR VALUES IN ('EWR') TABLESPACE ewr;
CREATE TABLE flights_jfk PARTITION OF flights FOR VALUES IN ('JFK') TABLESPACE jfk;
CREATE TABLE flights_lga PARTITION OF flights FOR VALUES IN ('LGA') TABLESPACE lga;
