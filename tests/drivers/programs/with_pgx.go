// What users of pgx do, one line of output per check. Connects as libpq's environment says.
//
//	with_pgx [listen]
package main

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

const (
	clients = 6
	rounds  = 25
)

var ctx = context.Background()

func say(what string, values ...interface{}) {
	line := what
	for _, value := range values {
		line += fmt.Sprintf(" %v", value)
	}
	fmt.Println(strings.ReplaceAll(line, "\n", "\\n"))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func fails(what string, err error) {
	var refused *pgconn.PgError
	switch {
	case errors.As(err, &refused):
		say(what, refused.Code, refused.Message)
	case err != nil:
		say(what, "another error")
	default:
		say(what, "no error")
	}
}

func connect() *pgx.Conn {
	conn, err := pgx.Connect(ctx, "")
	must(err)
	return conn
}

func exec(conn *pgx.Conn, sql string, arguments ...interface{}) error {
	_, err := conn.Exec(ctx, sql, arguments...)
	return err
}

func parameters(conn *pgx.Conn) {
	sql := `select $1::text, $2::int4, $3::int8, $4::float8, $5::bool, $6::text, $7::bytea,
		$8::int4[], $9::text[], $10::jsonb, $11::date, $12::timestamptz`
	when := time.Date(2024, 2, 29, 12, 30, 15, 123456000, time.UTC)
	json := map[string]interface{}{"key": []interface{}{1, nil, "zwei"}}
	arguments := []interface{}{"ü\n'\\", 7, int64(1) << 40, 1.5, true, nil, []byte{0, 1, 255},
		[]int32{1, 2, 3}, []string{"a", "b\"", "c,d"}, json, when, when}
	for turn := 0; turn < 3; turn++ {
		var (
			text    string
			number  int
			large   int64
			real    float64
			truth   bool
			nothing *string
			data    []byte
			numbers []int32
			texts   []string
			back    map[string]interface{}
			date    time.Time
			stamp   time.Time
		)
		must(conn.QueryRow(ctx, sql, arguments...).Scan(&text, &number, &large, &real, &truth,
			&nothing, &data, &numbers, &texts, &back, &date, &stamp))
		say("parameters", text, number, large, real, truth, nothing == nil, data, numbers, texts,
			back, date.Format(time.RFC3339), stamp.UTC().Format(time.RFC3339Nano))
	}
	big := strings.Repeat("x", 3_000_000) + "ü"
	var text string
	var data []byte
	must(conn.QueryRow(ctx, "select $1::text, $2::bytea", big, []byte(big)).Scan(&text, &data))
	say("large values", len(text), len(data), text == big, bytes.Equal(data, []byte(big)))
	var sum int
	must(conn.QueryRow(ctx, "select $1::int + $2::int", pgx.QuerySimpleProtocol(true), 1, 2).Scan(&sum))
	say("simple protocol", sum)
}

func goingOnAfterErrors(conn *pgx.Conn) {
	fails("division", exec(conn, "select 1 / $1::int", 0))
	fails("no table", exec(conn, "select * from nowhere where id = $1", 1))
	fails("syntax", exec(conn, "selec 1"))
	insert := "insert into items (id, name) values ($1, $2)"
	fails("insert", exec(conn, insert, 1, "one"))
	fails("duplicate", exec(conn, insert, 1, "again"))
	fails("not null", exec(conn, insert, 2, nil))
	var name string
	must(conn.QueryRow(ctx, "select name from items").Scan(&name))
	say("still there", name)
}

func transactions(conn *pgx.Conn) {
	must(conn.BeginFunc(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "insert into items values (11, 'eleven')")
		must(err)
		fails("savepoint", tx.BeginFunc(ctx, func(nested pgx.Tx) error {
			_, err := nested.Exec(ctx, "insert into items values (11, 'twice')")
			return err
		}))
		_, err = tx.Exec(ctx, "insert into items values (13, 'thirteen')")
		return err
	}))
	tx, err := conn.Begin(ctx)
	must(err)
	_, err = tx.Exec(ctx, "delete from items")
	must(err)
	must(tx.Rollback(ctx))
	var count int
	must(conn.QueryRow(ctx, "select count(*) from items").Scan(&count))
	say("rolled back", count)
	options := pgx.TxOptions{IsoLevel: pgx.Serializable, AccessMode: pgx.ReadOnly}
	fails("read only", conn.BeginTxFunc(ctx, options, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "delete from items")
		return err
	}))
	tx, err = conn.Begin(ctx)
	must(err)
	_, err = tx.Exec(ctx, "select 1 / 0")
	fails("error", err)
	_, err = tx.Exec(ctx, "select 1")
	fails("aborted", err)
	say("commit", tx.Commit(ctx))
}

func manyClients() {
	config, err := pgxpool.ParseConfig("")
	must(err)
	config.MaxConns = clients
	pool, err := pgxpool.ConnectConfig(ctx, config)
	must(err)
	defer pool.Close()
	var group sync.WaitGroup
	wrong := make(chan string, 10_000)
	for number := 0; number < clients; number++ {
		group.Add(1)
		go func(number int) {
			defer group.Done()
			for turn := 0; turn < rounds; turn++ {
				work(pool, number, turn, wrong)
			}
		}(number)
	}
	group.Wait()
	rows, err := pool.Query(ctx, "select value from counters order by id")
	must(err)
	var values []int
	for rows.Next() {
		var value int
		must(rows.Scan(&value))
		values = append(values, value)
	}
	say("many clients", len(wrong), values, rows.Err())
}

// The same names of statements on all connections of the pool.
func work(pool *pgxpool.Pool, number, turn int, wrong chan<- string) {
	must(pool.BeginFunc(ctx, func(tx pgx.Tx) error {
		var own int
		sql := fmt.Sprintf("select %d * 1000 + $1::int", number)
		must(tx.QueryRow(ctx, sql, turn).Scan(&own))
		if own != number*1000+turn {
			wrong <- "own"
		}
		_, err := tx.Exec(ctx, "update counters set value = value + 1 where id = $1", number)
		return err
	}))
	batch := &pgx.Batch{}
	for shared := 0; shared < 5; shared++ {
		batch.Queue(fmt.Sprintf("select %d + $1::int", shared), turn)
	}
	results := pool.SendBatch(ctx, batch)
	for shared := 0; shared < 5; shared++ {
		var sum int
		if results.QueryRow().Scan(&sum) != nil || sum != shared+turn {
			wrong <- "shared"
		}
	}
	must(results.Close())
	if turn%5 == 0 {
		if _, err := pool.Exec(ctx, "select 1 / $1::int", 0); err == nil {
			wrong <- "divided"
		}
	}
}

func prepared(conn *pgx.Conn) {
	for round := 0; round < 2; round++ {
		for number := 0; number < 8; number++ {
			name := fmt.Sprintf("statement %d", number)
			description, err := conn.Prepare(ctx, name, fmt.Sprintf("select %d + $1::int", number))
			must(err)
			var sum int
			must(conn.QueryRow(ctx, name, round).Scan(&sum))
			if sum != number+round || len(description.ParamOIDs) != 1 {
				say("wrong", name, sum)
			}
		}
	}
	say("prepared", "ok")
	batch := &pgx.Batch{}
	batch.Queue("select 1")
	batch.Queue("select 1 / $1::int", 0)
	batch.Queue("select 3")
	results := conn.SendBatch(ctx, batch)
	for number := 0; number < 3; number++ {
		_, err := results.Exec()
		fails("batch", err)
	}
	fails("its end", results.Close())
}

func streams(conn *pgx.Conn) {
	rows, err := conn.Query(ctx, "select n from generate_series(1, $1::int) n", 1000)
	must(err)
	total := 0
	for rows.Next() {
		var number int
		must(rows.Scan(&number))
		total += number
	}
	say("stream", total, rows.CommandTag())
	rows, err = conn.Query(ctx, "select n from generate_series(1, 10000) n")
	must(err)
	rows.Next()
	rows.Close()
	say("given up", rows.Err())
}

func copies(conn *pgx.Conn) {
	source := pgx.CopyFromSlice(2000, func(line int) ([]interface{}, error) {
		if line%7 == 0 {
			return []interface{}{line, nil}, nil
		}
		return []interface{}{line, fmt.Sprintf("line %d", line)}, nil
	})
	count, err := conn.CopyFrom(ctx, pgx.Identifier{"lines"}, []string{"id", "text"}, source)
	must(err)
	say("copied in", count)
	var out bytes.Buffer
	_, err = conn.PgConn().CopyTo(ctx, &out, "copy (select * from lines order by id) to stdout")
	must(err)
	say("copied out", out.Len(), fmt.Sprintf("%x", md5.Sum(out.Bytes())))
	bad := strings.NewReader(strings.Repeat("no number\tx\n", 1000))
	_, err = conn.PgConn().CopyFrom(ctx, bad, "copy lines from stdin")
	fails("bad line", err)
	source = pgx.CopyFromSlice(10, func(line int) ([]interface{}, error) {
		if line == 5 {
			return nil, errors.New("enough")
		}
		return []interface{}{9000 + line, "x"}, nil
	})
	_, err = conn.CopyFrom(ctx, pgx.Identifier{"lines"}, []string{"id", "text"}, source)
	fails("given up", err)
	var lines, last int
	must(conn.QueryRow(ctx, "select count(*), max(id) from lines").Scan(&lines, &last))
	say("lines", lines, last)
}

func interruptions(conn *pgx.Conn) {
	fails("statement_timeout", conn.BeginFunc(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "set local statement_timeout = 50")
		must(err)
		_, err = tx.Exec(ctx, "select pg_sleep(600)")
		return err
	}))
	for round := 0; round < 2; round++ {
		timer := time.AfterFunc(200*time.Millisecond, func() { must(conn.PgConn().CancelRequest(ctx)) })
		fails("cancelled", exec(conn, "select pg_sleep($1)", 600))
		timer.Stop()
	}
	fails("goes on", exec(conn, "select 1"))
	// A context that ends closes the connection, and cancels what it runs.
	other := connect()
	limited, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	_, err := other.Exec(limited, "select pg_sleep(600)")
	say("time-out", pgconn.Timeout(err), other.IsClosed())
}

func settings() {
	config, err := pgx.ParseConfig("")
	must(err)
	config.RuntimeParams["application_name"] = "a program"
	config.RuntimeParams["timezone"] = "Asia/Tokyo"
	conn, err := pgx.ConnectConfig(ctx, config)
	must(err)
	for turn := 0; turn < 3; turn++ {
		var name, zone string
		sql := "select current_setting('application_name'), current_setting('timezone')"
		must(conn.QueryRow(ctx, sql).Scan(&name, &zone))
		say("settings", name, zone)
	}
	say("reported", conn.PgConn().ParameterStatus("TimeZone"))
	must(conn.Close(ctx))
}

// DEALLOCATE is an SQL command here, which names a statement of the session.
func deallocated() {
	conn := connect()
	for _, sql := range []string{"select 'one'", "select 'another'"} {
		_, err := conn.Prepare(ctx, "statement", sql)
		must(err)
		var text string
		must(conn.QueryRow(ctx, "statement").Scan(&text))
		say("deallocated", text, conn.Deallocate(ctx, "statement"))
	}
	must(conn.Close(ctx))
}

func notifications() {
	listener, other := connect(), connect()
	must(exec(listener, "listen news"))
	must(exec(other, "select pg_notify('news', $1)", "first"))
	must(exec(other, "notify news, 'second'"))
	for count := 0; count < 2; count++ {
		notification, err := listener.WaitForNotification(ctx)
		must(err)
		say("notified", notification.Payload)
	}
	must(listener.Close(ctx))
	must(other.Close(ctx))
}

func main() {
	conn := connect()
	must(exec(conn, fmt.Sprintf(`create table items (id int primary key, name text not null);
		create table counters as select n as id, 0 as value from generate_series(0, %d) n;
		create table lines (id int, text text)`, clients-1)))
	parameters(conn)
	goingOnAfterErrors(conn)
	transactions(conn)
	manyClients()
	prepared(conn)
	streams(conn)
	copies(conn)
	interruptions(conn)
	must(conn.Close(ctx))
	settings()
	for turn := 0; turn < 20; turn++ {
		conn := connect()
		must(exec(conn, "select $1::int", turn))
		must(conn.Close(ctx))
	}
	say("connections come and go", "ok")
	if len(os.Args) > 1 && os.Args[1] == "listen" {
		deallocated()
		notifications()
	}
}
