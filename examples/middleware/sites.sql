-- The servers of compose.yaml; `run` puts in the ports and the password of its own.
CREATE SITE node1 ENGINE mysql OPTIONS (url 'mysql://ddb_user:ddb_password@127.0.0.1:3307/ddb_node1');
CREATE SITE node2 ENGINE mysql OPTIONS (url 'mysql://ddb_user:ddb_password@127.0.0.1:3308/ddb_node2');
CREATE SITE node3 ENGINE mysql OPTIONS (url 'mysql://ddb_user:ddb_password@127.0.0.1:3309/ddb_node3');
