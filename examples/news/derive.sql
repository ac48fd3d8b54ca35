-- What is computed from the readings.

-- counts: how often each article was read, and by how many people
INSERT INTO be_read (aid, read_num, reader_num, agree_num, comment_num, share_num, last_read)
SELECT aid, count(*), count(DISTINCT uid),
       count(CASE WHEN agree THEN 1 END), count(CASE WHEN comment THEN 1 END), count(CASE WHEN share THEN 1 END),
       max(read_at)
FROM reads GROUP BY aid;

-- daily ranks: the five articles read most on each day
INSERT INTO popular_rank (granularity, period, rank, aid, read_num)
SELECT 'daily', period, rank, aid, read_num
FROM (SELECT period, aid, read_num, row_number() OVER (PARTITION BY period ORDER BY read_num DESC, aid) AS rank
      FROM (SELECT date_trunc('day', read_at) AS period, aid, count(*) AS read_num FROM reads GROUP BY 1, 2) AS counted) AS ranked
WHERE rank <= 5;

-- weekly ranks
INSERT INTO popular_rank (granularity, period, rank, aid, read_num)
SELECT 'weekly', period, rank, aid, read_num
FROM (SELECT period, aid, read_num, row_number() OVER (PARTITION BY period ORDER BY read_num DESC, aid) AS rank
      FROM (SELECT date_trunc('week', read_at) AS period, aid, count(*) AS read_num FROM reads GROUP BY 1, 2) AS counted) AS ranked
WHERE rank <= 5;

-- monthly ranks
INSERT INTO popular_rank (granularity, period, rank, aid, read_num)
SELECT 'monthly', period, rank, aid, read_num
FROM (SELECT period, aid, read_num, row_number() OVER (PARTITION BY period ORDER BY read_num DESC, aid) AS rank
      FROM (SELECT date_trunc('month', read_at) AS period, aid, count(*) AS read_num FROM reads GROUP BY 1, 2) AS counted) AS ranked
WHERE rank <= 5;
