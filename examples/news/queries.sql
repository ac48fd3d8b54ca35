-- One site: the users of one region
SELECT uid, name, dept, obtained_credits FROM users WHERE region = 'Beijing' ORDER BY uid LIMIT 5;

-- One row by its key
SELECT uid, name, region FROM users WHERE uid = 'u42';

-- Science articles, from whichever copy is nearer; technology has one
SELECT category, count(*) AS articles, min(title) AS first_title FROM articles GROUP BY category ORDER BY category;

-- Two sites: science articles by language
SELECT aid, title, language FROM articles WHERE category = 'science' ORDER BY aid LIMIT 5;

-- A join of three tables: who read what
SELECT u.name, a.title, r.read_at
FROM users u JOIN reads r ON u.uid = r.uid JOIN articles a ON r.aid = a.aid
ORDER BY r.read_at DESC, r.rid LIMIT 5;

-- Query splitting: the science articles that Beijing's users read
SELECT a.aid, a.title, count(*) AS read_num
FROM users u JOIN reads r ON u.uid = r.uid JOIN articles a ON r.aid = a.aid
WHERE u.region = 'Beijing' AND a.category = 'science'
GROUP BY a.aid, a.title ORDER BY read_num DESC, a.aid LIMIT 5;

-- The top five of the last day
SELECT p.rank, p.read_num, a.title, a.category
FROM popular_rank p JOIN articles a ON a.aid = p.aid
WHERE p.granularity = 'daily' AND p.period = (SELECT max(period) FROM popular_rank WHERE granularity = 'daily')
ORDER BY p.rank LIMIT 5;

-- What each region agrees with
SELECT u.region, a.category, count(*) AS read_num, round(100.0 * count(CASE WHEN r.agree THEN 1 END) / count(*), 1) AS agree_percent
FROM reads r JOIN users u ON u.uid = r.uid JOIN articles a ON a.aid = r.aid
GROUP BY u.region, a.category ORDER BY u.region, a.category;
