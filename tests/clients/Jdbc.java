// pgJDBC: metadata, types in text and (from the fifth execution on) binary, batches, generated keys, fetch size, savepoints.
// Arguments: the server's JDBC URL and the user.
import java.sql.*;
import java.util.*;

public class Jdbc {
    static void same(Object expected, Object found) {
        if (!Objects.equals(expected, found)) throw new AssertionError("expected " + expected + ", found " + found);
    }

    /** The rows of a result, some of its columns. */
    static List<List<String>> rows(ResultSet result, String... columns) throws SQLException {
        List<List<String>> rows = new ArrayList<>();
        while (result.next()) {
            List<String> row = new ArrayList<>();
            for (String column : columns) row.add(result.getString(column));
            rows.add(row);
        }
        return rows;
    }

    static List<String> row(String... values) {
        return Arrays.asList(values);
    }

    public static void main(String[] args) throws Exception {
        Properties properties = new Properties();
        properties.put("user", args[1]);
        try (Connection c = DriverManager.getConnection(args[0], properties); Statement s = c.createStatement()) {
            s.execute("DROP TABLE IF EXISTS jd_child");
            s.execute("DROP TABLE IF EXISTS jd_parent");
            s.execute("CREATE TABLE jd_parent (id int PRIMARY KEY, name varchar(30) NOT NULL DEFAULT 'x', score numeric(6,2))");
            s.execute("CREATE TABLE jd_child (id serial PRIMARY KEY, parent int, big bigint UNIQUE, body jsonb, u uuid, f float8, "
                + "ok boolean, tags text[], at timestamptz, d date, UNIQUE (parent, big))");
            metadata(c.getMetaData());
            types(c);
            transactions(c, s);
            s.execute("DROP TABLE jd_child, jd_parent");
        }
        System.out.println("ok");
    }

    static void metadata(DatabaseMetaData m) throws SQLException {
        same("PostgreSQL", m.getDatabaseProductName());
        same(List.of(row("jd_child", "TABLE"), row("jd_parent", "TABLE")),
            rows(m.getTables(null, "public", "jd\\_%", new String[] {"TABLE"}), "TABLE_NAME", "TABLE_TYPE"));
        same(List.of(row("id", "int4", "10", "0"), row("name", "varchar", "30", "0"), row("score", "numeric", "6", "1")),
            rows(m.getColumns(null, "public", "jd\\_parent", "%"), "COLUMN_NAME", "TYPE_NAME", "COLUMN_SIZE", "NULLABLE"));
        same(List.of(row("id", "1", "jd_child_pkey")),
            rows(m.getPrimaryKeys(null, "public", "jd_child"), "COLUMN_NAME", "KEY_SEQ", "PK_NAME"));
        same(List.of(row("jd_child_big_key", "1", "big"), row("jd_child_parent_big_key", "1", "parent"),
                row("jd_child_parent_big_key", "2", "big"), row("jd_child_pkey", "1", "id")),
            rows(m.getIndexInfo(null, "public", "jd_child", false, true), "INDEX_NAME", "ORDINAL_POSITION", "COLUMN_NAME"));
        same(List.of(), rows(m.getImportedKeys(null, "public", "jd_child"), "FK_NAME"));
        same(true, rows(m.getTypeInfo(), "TYPE_NAME").contains(row("jsonb")));
        same(true, rows(m.getSchemas(), "TABLE_SCHEM").contains(row("public")));
        same(List.of(), rows(m.getProcedures(null, null, "nosuch%"), "PROCEDURE_NAME"));
        same(List.of(row("id")), rows(m.getBestRowIdentifier(null, "public", "jd_parent", 0, true), "COLUMN_NAME"));
        same(true, m.getSQLKeywords().length() > 0);
        same(63, m.getMaxTableNameLength());
    }

    static void types(Connection c) throws SQLException {
        try (PreparedStatement insert = c.prepareStatement(
                "INSERT INTO jd_child (parent, big, body, u, f, ok, tags, at, d) VALUES (?, ?, ?::jsonb, ?, ?, ?, ?, ?, ?)",
                Statement.RETURN_GENERATED_KEYS)) {
            for (int k = 0; k < 10; k++) {
                insert.setInt(1, 99);
                insert.setLong(2, 1000 + k);
                insert.setString(3, "{\"a\": 1}");
                insert.setObject(4, new UUID(0, k));
                insert.setDouble(5, k / 2.0);
                insert.setBoolean(6, k % 2 == 0);
                insert.setArray(7, c.createArrayOf("text", new String[] {"a", "b,c"}));
                insert.setTimestamp(8, Timestamp.from(java.time.Instant.parse("2024-01-02T03:04:05Z")));
                insert.setObject(9, java.time.LocalDate.of(2024, 2, 29));
                insert.addBatch();
            }
            insert.executeBatch();
            same(10, rows(insert.getGeneratedKeys(), "id").size());
        }
        try (PreparedStatement query = c.prepareStatement(
                "SELECT big, body, u, f, ok, tags, at, d FROM jd_child WHERE parent = ? AND big >= ? ORDER BY big")) {
            // pgJDBC changes to a named statement and to binary results after some executions.
            for (int k = 0; k < 8; k++) {
                query.setInt(1, 99);
                query.setLong(2, 1005);
                try (ResultSet r = query.executeQuery()) {
                    same(true, r.next());
                    same(1005L, r.getLong(1));
                    same("{\"a\": 1}", r.getString(2));
                    same(new UUID(0, 5), r.getObject(3));
                    same(2.5, r.getDouble(4));
                    same(false, r.getBoolean(5));
                    same(List.of("a", "b,c"), Arrays.asList((String[]) r.getArray(6).getArray()));
                    same(java.time.Instant.parse("2024-01-02T03:04:05Z"), r.getTimestamp(7).toInstant());
                    same(java.time.LocalDate.of(2024, 2, 29), r.getObject(8, java.time.LocalDate.class));
                }
            }
        }
    }

    static void transactions(Connection c, Statement s) throws SQLException {
        c.setAutoCommit(false);
        s.executeUpdate("INSERT INTO jd_parent (id) VALUES (1)");
        Savepoint savepoint = c.setSavepoint("s1");
        try {
            s.executeUpdate("INSERT INTO jd_parent (id) VALUES (1)");
            throw new AssertionError("a duplicate was taken");
        } catch (SQLException e) {
            same("23505", e.getSQLState());
            c.rollback(savepoint);
        }
        try (PreparedStatement query = c.prepareStatement("SELECT big FROM jd_child ORDER BY big")) {
            // A portal, read three rows at a time.
            query.setFetchSize(3);
            same(10, rows(query.executeQuery(), "big").size());
        }
        c.rollback();
        c.setAutoCommit(true);
        same(List.of(), rows(s.executeQuery("SELECT id FROM jd_parent"), "id"));
        c.setReadOnly(true);
        same(true, c.isReadOnly());
        c.setReadOnly(false);
        c.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        same(Connection.TRANSACTION_SERIALIZABLE, c.getTransactionIsolation());
        same(true, c.isValid(5));
        same("public", c.getSchema());
    }
}
