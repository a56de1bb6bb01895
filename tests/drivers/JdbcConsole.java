import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.HashSet;
import java.util.Properties;
import java.util.Set;

/** Talks to the admin console with pgjdbc: {@code JdbcConsole URL USER}. Fails by an exception. */
public final class JdbcConsole {
    private JdbcConsole() {}

    public static void main(String[] arguments) throws SQLException {
        for (String mode : new String[] {"extended", "simple", "extendedForPrepared"}) {
            Properties properties = new Properties();
            properties.setProperty("user", arguments[1]);
            properties.setProperty("preferQueryMode", mode);
            properties.setProperty("ApplicationName", "jdbc");
            try (Connection connection = DriverManager.getConnection(arguments[0], properties)) {
                look(connection);
                inPortions(connection);
            }
        }
        System.out.println("ok");
    }

    private static void look(Connection connection) throws SQLException {
        check(connection.isValid(5), "it is valid");
        try (Statement statement = connection.createStatement();
                ResultSet pools = statement.executeQuery("SHOW POOLS")) {
            check(pools.getMetaData().getColumnName(3).equals("cl_active"), "the third column");
            check(pools.next() && pools.getInt("cl_active") >= 1, "somebody is at the console");
        }
        // After five times it is a prepared statement of the server, with binary results.
        try (PreparedStatement statement = connection.prepareStatement("SHOW CLIENTS")) {
            for (int time = 0; time < 10; time++) {
                try (ResultSet clients = statement.executeQuery()) {
                    check(clients.next(), "a client");
                    check(clients.getLong("id") > 0 && clients.getInt("port") > 0, "numbers");
                }
            }
        }
        try (Statement statement = connection.createStatement();
                ResultSet stats = statement.executeQuery("SHOW STATS")) {
            check(stats.next() && stats.getBigDecimal(2).signum() >= 0, "a numeric");
        }
        check(connection.getTransactionIsolation() == Connection.TRANSACTION_READ_COMMITTED, "SHOW");
        connection.setReadOnly(true);
        connection.setReadOnly(false);
        try (Statement statement = connection.createStatement()) {
            statement.execute("SHOW NOTHING");
            check(false, "SHOW NOTHING was answered");
        } catch (SQLException error) {
            check(error.getSQLState().equals("42601"), error.getSQLState());
        }
    }

    private static void inPortions(Connection connection) throws SQLException {
        connection.setAutoCommit(false);
        try (Statement statement = connection.createStatement()) {
            statement.setFetchSize(7);
            Set<String> keys = new HashSet<>();
            try (ResultSet config = statement.executeQuery("SHOW CONFIG")) {
                while (config.next()) {
                    check(keys.add(config.getString("key")), "each key once");
                }
            }
            check(keys.size() > 40, "all keys");
        }
        connection.commit();
        connection.setAutoCommit(true);
    }

    private static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }
}
