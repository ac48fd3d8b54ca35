BEGIN;
UPDATE accounts SET balance = balance - 30 WHERE user_id = 1;
INSERT INTO orders (user_id, item, price) VALUES (1, 'bicycle', 30);
COMMIT;
