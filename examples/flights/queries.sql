-- Flights and cancellations of each airport
SELECT origin, count(*) AS flights, count(*) - count(dep_time) AS cancelled
FROM flights GROUP BY origin ORDER BY origin;

-- One site: the destinations served most from LaGuardia
SELECT dest, count(*) AS flights, min(distance) AS miles
FROM flights WHERE origin = 'LGA' GROUP BY dest ORDER BY flights DESC, dest LIMIT 10;

-- Airlines by their mean delay on arrival
SELECT a.name, count(*) AS flights, round(avg(f.arr_delay), 2) AS mean_delay
FROM flights f JOIN airlines a ON a.carrier = f.carrier
WHERE f.arr_delay IS NOT NULL GROUP BY a.name ORDER BY mean_delay DESC, a.name;

-- The longest delays, top-k below the union of the sites
SELECT origin, dest, carrier, flight, time_hour, dep_delay
FROM flights WHERE dep_delay IS NOT NULL
ORDER BY dep_delay DESC, origin, time_hour, carrier, flight LIMIT 10;

-- Rain: flights joined with the weather of their airport and hour, at each site
SELECT f.origin, CASE WHEN w.precip > 0 THEN 'wet' ELSE 'dry' END AS sky, count(*) AS flights, round(avg(f.dep_delay), 2) AS mean_delay
FROM flights f JOIN weather w ON w.origin = f.origin AND w.time_hour = f.time_hour
WHERE f.dep_delay IS NOT NULL GROUP BY f.origin, CASE WHEN w.precip > 0 THEN 'wet' ELSE 'dry' END
ORDER BY f.origin, sky;

-- Destinations that airports does not list
SELECT f.dest, count(*) AS flights FROM flights f LEFT JOIN airports a ON a.faa = f.dest
WHERE a.faa IS NULL GROUP BY f.dest ORDER BY f.dest;

-- Planes that fly from all three airports
SELECT count(*) AS planes FROM (
    SELECT tailnum FROM flights WHERE tailnum IS NOT NULL GROUP BY tailnum HAVING count(DISTINCT origin) = 3
) AS everywhere;

-- Makers by their mean age, and how far their planes flew
SELECT p.manufacturer, count(DISTINCT p.tailnum) AS planes, round(avg(2013 - p.year), 1) AS mean_age, sum(f.distance) AS miles
FROM flights f JOIN planes p ON p.tailnum = f.tailnum
WHERE p.year IS NOT NULL GROUP BY p.manufacturer HAVING count(DISTINCT p.tailnum) >= 10 ORDER BY miles DESC, p.manufacturer;

-- Each airport's worst day, with a window over the days
SELECT origin, month, day, mean_delay FROM (
    SELECT origin, month, day, round(avg(dep_delay), 2) AS mean_delay,
           row_number() OVER (PARTITION BY origin ORDER BY avg(dep_delay) DESC, month, day) AS place
    FROM flights WHERE dep_delay IS NOT NULL GROUP BY origin, month, day
) AS days WHERE place = 1 ORDER BY origin;

-- Flights that were later than their airline's mean on the same route by more than five hours
SELECT f.origin, f.dest, f.carrier, f.flight, f.time_hour, f.arr_delay
FROM flights f
JOIN (SELECT origin, dest, carrier, avg(arr_delay) AS mean_delay FROM flights GROUP BY origin, dest, carrier) AS route
  ON route.origin = f.origin AND route.dest = f.dest AND route.carrier = f.carrier
WHERE f.arr_delay > 300 + route.mean_delay
ORDER BY f.arr_delay DESC, f.origin, f.time_hour, f.carrier, f.flight LIMIT 10;

-- Months of one airport beside the same months of another
WITH months AS (SELECT origin, month, count(*) AS flights, sum(distance) AS miles FROM flights GROUP BY origin, month)
SELECT e.month, e.flights AS ewr, j.flights AS jfk, e.miles - j.miles AS more_miles
FROM months e JOIN months j ON j.month = e.month WHERE e.origin = 'EWR' AND j.origin = 'JFK' ORDER BY e.month;

-- Destinations of Newark that the other two do not serve
SELECT dest FROM flights WHERE origin = 'EWR'
EXCEPT SELECT dest FROM flights WHERE origin IN ('JFK', 'LGA') ORDER BY dest;

-- The wind in which most flights left
SELECT w.wind_dir, count(*) AS flights, count(DISTINCT f.carrier) AS airlines, max(w.wind_speed) AS max_speed
FROM flights f JOIN weather w ON w.origin = f.origin AND w.time_hour = f.time_hour
WHERE w.wind_dir IS NOT NULL AND f.dep_time IS NOT NULL
GROUP BY w.wind_dir ORDER BY flights DESC, w.wind_dir LIMIT 5;
