import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.sql.Array;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Types;
import java.time.LocalDate;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Properties;
import java.util.UUID;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;

/**
 * What users of pgjdbc do, one line of output per check. Connects as libpq's environment says:
 * {@code WithPgjdbc [listen]}.
 */
public final class WithPgjdbc {
    private static final int CLIENTS = 6;
    private static final int ROUNDS = 25;

    private WithPgjdbc() {}

    private interface Action {
        void run() throws Exception;
    }

    private static void say(String what, Object... values) {
        StringBuilder line = new StringBuilder(what);
        for (Object value : values) {
            line.append(' ').append(String.valueOf(value).replace("\n", "\\n"));
        }
        System.out.println(line);
    }

    private static void fails(String what, Action action) throws Exception {
        try {
            action.run();
            say(what, "no error");
        } catch (SQLException error) {
            say(what, error.getSQLState(), error.getMessage().lines().findFirst().orElse(""));
        }
    }

    private static Connection connect(String... settings) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER"));
        properties.setProperty("password", System.getenv("PGPASSWORD"));
        properties.setProperty("sslmode", System.getenv("PGSSLMODE"));
        for (int at = 0; at < settings.length; at += 2) {
            properties.setProperty(settings[at], settings[at + 1]);
        }
        String url = "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT")
                + "/" + System.getenv("PGDATABASE");
        return DriverManager.getConnection(url, properties);
    }

    private static void execute(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(sql);
        }
    }

    private static String rows(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery(sql)) {
            List<String> all = new ArrayList<>();
            while (rows.next()) {
                List<String> row = new ArrayList<>();
                for (int at = 1; at <= rows.getMetaData().getColumnCount(); at++) {
                    row.add(rows.getString(at));
                }
                all.add(String.join("|", row));
            }
            return all.toString();
        }
    }

    private static void parameters(Connection connection) throws SQLException {
        String sql = "select ?::text, ?::int, ?::int8, ?::float8, ?::numeric, ?::bool, ?::text, "
                + "?::bytea, ?::int[], ?::text[], ?::jsonb, ?::date, ?::timestamptz, ?::uuid";
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            // From the fifth time on it is a prepared statement of the server, with binary results.
            for (int turn = 0; turn < 7; turn++) {
                statement.setString(1, "ü\n'\\");
                statement.setInt(2, 7);
                statement.setLong(3, 1L << 40);
                statement.setDouble(4, 1.5);
                statement.setBigDecimal(5, new BigDecimal("12345.6789"));
                statement.setBoolean(6, true);
                statement.setNull(7, Types.VARCHAR);
                statement.setBytes(8, new byte[] {0, 1, -1});
                statement.setArray(9, connection.createArrayOf("int", new Integer[] {1, null, 3}));
                Array texts = connection.createArrayOf("text", new String[] {"a", "b\"", "c,d"});
                statement.setArray(10, texts);
                statement.setString(11, "{\"key\": [1, null, \"zwei\"]}");
                statement.setObject(12, LocalDate.of(2024, 2, 29));
                statement.setObject(13, OffsetDateTime.parse("2024-02-29T12:30:15.123456Z"));
                statement.setObject(14, UUID.fromString("c0ffee00-0000-4000-8000-00000000beef"));
                try (ResultSet row = statement.executeQuery()) {
                    row.next();
                    say("parameters", row.getString(1), row.getInt(2), row.getLong(3),
                            row.getDouble(4), row.getBigDecimal(5), row.getBoolean(6),
                            row.getString(7), Arrays.toString(row.getBytes(8)),
                            Arrays.toString((Object[]) row.getArray(9).getArray()),
                            Arrays.toString((Object[]) row.getArray(10).getArray()),
                            row.getString(11), row.getObject(12, LocalDate.class),
                            row.getObject(13, OffsetDateTime.class).toInstant(), row.getObject(14));
                }
            }
        }
        String big = "x".repeat(3_000_000) + "ü";
        try (PreparedStatement statement = connection.prepareStatement("select ?::text, ?::bytea")) {
            statement.setString(1, big);
            statement.setBytes(2, new byte[3_000_000]);
            try (ResultSet row = statement.executeQuery()) {
                row.next();
                say("large values", row.getString(1).equals(big), row.getBytes(2).length);
            }
        }
    }

    private static void goingOnAfterErrors(Connection connection) throws Exception {
        fails("no table", () -> execute(connection, "select * from nowhere"));
        fails("syntax", () -> execute(connection, "selec 1"));
        String insert = "insert into items (id, name) values (?, ?)";
        try (PreparedStatement statement = connection.prepareStatement(insert)) {
            for (int turn = 0; turn < 8; turn++) {
                statement.setInt(1, turn / 7);
                statement.setString(2, "one");
                fails("insert", statement::executeUpdate);
            }
            statement.setNull(2, Types.VARCHAR);
            fails("not null", statement::executeUpdate);
        }
        say("still there", rows(connection, "table items"));
        try (PreparedStatement statement = connection.prepareStatement(insert)) {
            for (int id : new int[] {50, 51, 50, 52}) {
                statement.setInt(1, id);
                statement.setString(2, "batch");
                statement.addBatch();
            }
            try {
                statement.executeBatch();
            } catch (BatchUpdateException error) {
                say("batch", error.getSQLState(), Arrays.toString(error.getUpdateCounts()));
            }
        }
        say("after it", rows(connection, "select count(*) from items"));
    }

    private static void transactions(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        execute(connection, "insert into items values (11, 'eleven')");
        Savepoint savepoint = connection.setSavepoint("one");
        fails("savepoint", () -> execute(connection, "insert into items values (11, 'twice')"));
        fails("aborted", () -> execute(connection, "select 1"));
        connection.rollback(savepoint);
        execute(connection, "insert into items values (13, 'thirteen')");
        connection.commit();
        execute(connection, "delete from items");
        say("inside", rows(connection, "select count(*) from items"));
        connection.rollback();
        say("rolled back", rows(connection, "select id from items order by id"));
        connection.commit();
        connection.setReadOnly(true);
        fails("read only", () -> execute(connection, "delete from items"));
        connection.rollback();
        connection.setReadOnly(false);
        connection.setAutoCommit(true);
    }

    private static void manyClients() throws Exception {
        List<String> wrong = Collections.synchronizedList(new ArrayList<>());
        List<Thread> threads = new ArrayList<>();
        for (int client = 0; client < CLIENTS; client++) {
            int number = client;
            threads.add(new Thread(() -> {
                try {
                    work(number, wrong);
                } catch (SQLException error) {
                    wrong.add(error.toString());
                }
            }));
        }
        for (Thread thread : threads) {
            thread.start();
        }
        for (Thread thread : threads) {
            thread.join();
        }
        try (Connection connection = connect()) {
            say("many clients", wrong, rows(connection, "select * from counters order by id"));
        }
    }

    private static void work(int number, List<String> wrong) throws SQLException {
        // The same names of statements (S_1, S_2, …) on all connections.
        try (Connection connection = connect("prepareThreshold", "1")) {
            connection.setAutoCommit(false);
            String own = "select " + number + " * 1000 + ?";
            String count = "update counters set value = value + 1 where id = ?";
            try (PreparedStatement select = connection.prepareStatement(own);
                    PreparedStatement update = connection.prepareStatement(count)) {
                for (int turn = 0; turn < ROUNDS; turn++) {
                    if (ask(select, turn) != number * 1000 + turn) {
                        wrong.add("own");
                    }
                    update.setInt(1, number);
                    update.executeUpdate();
                    connection.commit();
                    for (int shared = 0; shared < 5; shared++) {
                        String sql = "select " + shared + " + ?";
                        try (PreparedStatement statement = connection.prepareStatement(sql)) {
                            if (ask(statement, turn) != shared + turn) {
                                wrong.add("shared");
                            }
                        }
                    }
                    connection.commit();
                    if (turn % 5 == 0) {
                        try (PreparedStatement divide = connection.prepareStatement("select 1 / ?")) {
                            ask(divide, 0);
                            wrong.add("divided");
                        } catch (SQLException error) {
                            connection.rollback();
                        }
                    }
                }
            }
        }
    }

    private static int ask(PreparedStatement statement, int parameter) throws SQLException {
        statement.setInt(1, parameter);
        try (ResultSet row = statement.executeQuery()) {
            row.next();
            return row.getInt(1);
        }
    }

    private static void cursors(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        String sql = "select n from generate_series(1, ?) n";
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            statement.setFetchSize(70);
            for (int turn = 0; turn < 7; turn++) {
                statement.setInt(1, 1000);
                int total = 0;
                try (ResultSet rows = statement.executeQuery()) {
                    while (rows.next()) {
                        total += rows.getInt(1);
                    }
                }
                say("in portions", total);
                connection.commit();
            }
            statement.setInt(1, 100_000);
            try (ResultSet rows = statement.executeQuery()) {
                say("given up", rows.next(), rows.getInt(1));
            }
        }
        connection.commit();
        connection.setAutoCommit(true);
        say("goes on", rows(connection, "select 1"));
    }

    private static void changedTable(Connection connection) throws Exception {
        try (PreparedStatement statement = connection.prepareStatement("select * from changing");
                Connection other = connect()) {
            for (int turn = 0; turn < 7; turn++) {
                statement.executeQuery().close();
            }
            execute(other, "alter table changing add column y int default 2");
            // Outside a transaction pgjdbc prepares anew, and tries once more.
            try (ResultSet row = statement.executeQuery()) {
                say("changed table", row.next(), row.getMetaData().getColumnCount());
            }
        }
    }

    private static void copies(Connection connection) throws Exception {
        StringBuilder lines = new StringBuilder();
        for (int line = 0; line < 2000; line++) {
            lines.append(line).append('\t').append(line % 7 == 0 ? "\\N" : "line " + line);
            lines.append('\n');
        }
        var copies = connection.unwrap(PGConnection.class).getCopyAPI();
        StringReader reader = new StringReader(lines.toString());
        say("copied in", copies.copyIn("copy lines from stdin", reader));
        StringWriter writer = new StringWriter();
        say("copied out", copies.copyOut("copy lines to stdout", writer));
        say("the same", writer.toString().equals(lines.toString()));
        StringReader bad = new StringReader("no number\tx\n".repeat(1000));
        fails("bad line", () -> copies.copyIn("copy lines from stdin", bad));
        say("lines", rows(connection, "select count(*), max(id) from lines"));
    }

    private static void interruptions(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            for (int round = 0; round < 2; round++) {
                Thread canceller = new Thread(() -> {
                    try {
                        Thread.sleep(200);
                        statement.cancel();
                    } catch (InterruptedException | SQLException error) {
                        throw new IllegalStateException(error);
                    }
                });
                canceller.start();
                fails("cancelled", () -> statement.execute("select pg_sleep(600)"));
                canceller.join();
            }
            statement.setQueryTimeout(1);
            fails("time-out", () -> statement.execute("select pg_sleep(600)"));
        }
        say("goes on", rows(connection, "select 1"));
    }

    private static void settings() throws Exception {
        try (Connection connection = connect(
                "ApplicationName", "a program", "options", "-c IntervalStyle=iso_8601")) {
            for (int turn = 0; turn < 3; turn++) {
                say("settings", rows(connection, "select current_setting('application_name'), "
                        + "interval '1 day', current_setting('extra_float_digits')"));
            }
            connection.setClientInfo("ApplicationName", "another");
            say("set", rows(connection, "show application_name"));
        }
        try (Connection connection = connect("preferQueryMode", "simple")) {
            try (PreparedStatement statement = connection.prepareStatement("select ?, ?::text")) {
                statement.setInt(1, 7);
                statement.setString(2, "it's");
                try (ResultSet row = statement.executeQuery()) {
                    say("simple", row.next(), row.getInt(1), row.getString(2));
                }
            }
        }
    }

    private static void notifications() throws Exception {
        try (Connection listener = connect(); Connection other = connect()) {
            execute(listener, "listen news");
            execute(other, "notify news, 'first'");
            execute(other, "notify news, 'second'");
            List<String> got = new ArrayList<>();
            while (got.size() < 2) {
                PGConnection connection = listener.unwrap(PGConnection.class);
                for (PGNotification notification : connection.getNotifications(10_000)) {
                    got.add(notification.getParameter());
                }
            }
            say("notified", got);
        }
    }

    public static void main(String[] arguments) throws Exception {
        try (Connection connection = connect()) {
            execute(connection, "create table items (id int primary key, name text not null);"
                    + "create table counters as select n as id, 0 as value from generate_series(0, "
                    + (CLIENTS - 1) + ") n;"
                    + "create table lines (id int, text text);"
                    + "create table changing as select 1 as x");
            parameters(connection);
            goingOnAfterErrors(connection);
            transactions(connection);
            manyClients();
            cursors(connection);
            changedTable(connection);
            copies(connection);
            interruptions(connection);
        }
        settings();
        for (int turn = 0; turn < 20; turn++) {
            try (Connection connection = connect()) {
                rows(connection, "select 1");
            }
        }
        say("connections come and go", "ok");
        if (Arrays.asList(arguments).contains("listen")) {
            notifications();
        }
    }
}
