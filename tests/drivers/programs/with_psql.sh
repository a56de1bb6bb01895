#!/bin/sh
# What users of psql do. Connects as libpq's environment says.
#
#     sh with_psql.sh [listen]
set -u

run() {
    echo "== $1"
    shift
    psql -X -A -q -v VERBOSITY=verbose -v SHOW_CONTEXT=never "$@" 2>&1 |
        # Lines of PostgreSQL's own source, and of processes.
        sed -e '/^LOCATION:/d' -e 's/server process with PID [0-9]*/server process/'
}

run tables <<'SQL'
create table items (id int primary key, name text not null, price numeric(10, 2) default 1.5);
create table lines (id int, text text);
create view named as select id, name from items;
comment on table items is 'what there is';
\d items
\d+ named
\dt+ items
\df pg_catalog.pg_sleep
\du postgres
SQL

run rows <<'SQL'
insert into items (id, name) select n, 'item ' || n from generate_series(1, 100) n;
select * from items where id < 4 order by id;
\x
select * from items where id = 5;
\x
\pset null '(null)'
select null as nothing, array[1, null], '{"a": 1}'::jsonb, 'infinity'::date;
table items limit 2 \gx
select 'select ' || n from generate_series(1, 3) n \gexec
select 42 as answer \gset
\echo :answer
select :'answer' as quoted;
SQL

run errors <<'SQL'
select 1 / 0;
select * from nowhere;
selec 1;
insert into items (id) values (1);
begin;
select 1 / 0;
select 1;
commit;
select 'goes on';
\set ON_ERROR_ROLLBACK on
begin;
insert into items (id, name) values (1000, 'kept');
insert into items (id, name) values (1000, 'twice');
insert into items (id, name) values (1001, 'kept too');
commit;
select count(*) from items where id >= 1000;
SQL

run transactions <<'SQL'
begin isolation level repeatable read read only;
show transaction_isolation;
delete from items;
rollback;
begin; delete from items; savepoint one; drop table items; rollback to one; rollback;
select count(*) from items;
select 1 as one\; select 2 as two\; select 3 as three;
begin; declare c cursor for select id from items order by id; fetch 3 from c; fetch backward 1 from c;
move 10 in c; fetch c; commit;
\set FETCH_COUNT 7
select id from items order by id limit 20;
SQL

run copies <<'SQL'
copy lines from stdin;
1	one
2	\N
\.
\copy lines from program 'seq -f "%g,line" 3 5' csv
copy lines to stdout;
\copy (select id from lines order by id desc) to stdout csv header
copy lines from stdin;
no number	x
\.
select count(*) from lines;
SQL

run "time-outs and settings" <<'SQL'
begin; set local statement_timeout = 50; select pg_sleep(600); rollback;
set timezone to 'Asia/Tokyo';
select '2024-02-29 12:00+00'::timestamptz;
set datestyle to german;
select '2024-02-29'::date;
reset datestyle;
\encoding latin1
\echo :ENCODING
show client_encoding;
do $$begin raise notice 'a notice'; raise warning 'a warning' using errcode = '01234'; end$$;
SQL

run "one transaction" -1 -v ON_ERROR_STOP=1 -c "create table once (x int)" -c "insert into once values (1)" \
    -c "select * from once"
run "rolled back" -1 -v ON_ERROR_STOP=1 -c "insert into once values (2)" -c "select 1 / 0"
run afterwards -c "select * from once"

case " $* " in
    *" listen "*)
        run notified <<'SQL' | sed 's/ from server process$//'
listen news;
notify news, 'first';
select pg_notify('news', 'second') is null;
SQL
        ;;
esac

# At once, more than there are server connections.
for number in 1 2 3 4 5 6; do
    psql -X -A -t -q -c "begin; select pg_sleep(0.05); insert into once values ($number * 10); commit" >/dev/null &
done
wait
run "at once" -c "select sum(x), count(*) from once"
