-- an aggregate over all readings
SELECT agree, count(*), sum(read_time_s), min(read_at), max(read_at) FROM reads GROUP BY agree ORDER BY agree;
-- readers of one grade and what they read, a three-way join over both servers
SELECT u.region, a.category, count(*), sum(r.read_time_s)
FROM reads r JOIN users u ON u.uid = r.uid JOIN articles a ON a.aid = r.aid
WHERE u.grade = 'grade1' AND a.language = 'en'
GROUP BY u.region, a.category ORDER BY u.region, a.category;
-- the same of everybody
SELECT u.region, a.category, count(*), sum(r.read_time_s)
FROM reads r JOIN users u ON u.uid = r.uid JOIN articles a ON a.aid = r.aid
GROUP BY u.region, a.category ORDER BY u.region, a.category;
