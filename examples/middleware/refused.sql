BEGIN;
INSERT INTO orders (user_id, item, price) VALUES (2, 'yacht', 3000);
UPDATE accounts SET balance = balance - 3000 WHERE user_id = 2;
COMMIT;
