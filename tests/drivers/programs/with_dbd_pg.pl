# What users of Perl's DBD::Pg do, one line of output per check. Connects as libpq's environment says.
#
#     perl with_dbd_pg.pl [listen]
use strict;
use warnings;
use utf8;

use DBD::Pg qw(:async :pg_types);
use DBI;
use Digest::MD5 qw(md5_hex);
use Encode qw(encode_utf8);

use constant { CLIENTS => 6, ROUNDS => 25 };

binmode STDOUT, ':utf8';
$| = 1;

sub shown {
    my ($value) = @_;
    return 'undef' unless defined $value;
    return '[' . join(', ', map { shown($_) } @$value) . ']' if ref $value eq 'ARRAY';
    return $value =~ s/\n/\\n/gr;
}

sub say_that {
    my ($what, @values) = @_;
    print join(' ', $what, map { shown($_) } @values), "\n";
}

sub fails {
    my ($what, $action) = @_;
    eval { $action->(); say_that($what, 'no error'); 1 }
        or say_that($what, $DBI::state, (split /\n/, $DBI::errstr)[0]);
}

sub connection {
    return DBI->connect('dbi:Pg:', undef, undef,
        { RaiseError => 1, PrintError => 0, AutoCommit => 1, @_ });
}

sub parameters {
    my ($dbh) = @_;
    my $sql = 'select ?::text, ?::int, ?::int8, ?::float8, ?::numeric, ?::bool, ?::text, ?::int[], '
        . '?::text[], ?::jsonb, ?::date, ?::timestamptz';
    my @values = ("ü\n'\\", 7, 2**40, 1.5, '12345.6789', 1, undef, [1, undef, 3], ['a', 'b"', 'c,d'],
        '{"key": [1, null, "zwei"]}', '2024-02-29', '2024-02-29 12:30:15.123456+00');
    for my $prepares (0, 1) {
        my $statement = $dbh->prepare($sql, { pg_server_prepare => $prepares });
        for (1 .. 3) {
            $statement->execute(@values);
            say_that("parameters, prepared $prepares", $statement->fetchrow_array);
        }
    }
    my $big = 'x' x 3_000_000 . 'ü';
    my ($text) = $dbh->selectrow_array('select ?::text', undef, $big);
    say_that('large value', length $text, md5_hex(encode_utf8($text)));
    my $statement = $dbh->prepare('select ?::bytea');
    $statement->bind_param(1, "\0\1\xff", { pg_type => PG_BYTEA });
    $statement->execute;
    say_that('binary', unpack 'H*', ($statement->fetchrow_array)[0]);
}

sub going_on_after_errors {
    my ($dbh) = @_;
    fails('division', sub { $dbh->selectrow_array('select 1 / ?::int', undef, 0) });
    fails('no table', sub { $dbh->do('select * from nowhere where id = ?', undef, 1) });
    fails('syntax', sub { $dbh->do('selec 1') });
    my $insert = $dbh->prepare('insert into items (id, name) values (?, ?)');
    $insert->execute(1, 'one');
    fails('duplicate', sub { $insert->execute(1, 'again') });
    fails('not null', sub { $insert->execute(2, undef) });
    say_that('rows', $insert->execute(3, 'three'));
    say_that('still there', $dbh->selectall_arrayref('table items'));
}

sub transactions {
    my ($dbh) = @_;
    $dbh->begin_work;
    $dbh->do("insert into items values (11, 'eleven')");
    $dbh->pg_savepoint('one');
    fails('savepoint', sub { $dbh->do("insert into items values (11, 'twice')") });
    fails('aborted', sub { $dbh->do('select 1') });
    $dbh->pg_rollback_to('one');
    $dbh->do("insert into items values (13, 'thirteen')");
    $dbh->pg_release('one');
    $dbh->commit;
    $dbh->begin_work;
    $dbh->do('delete from items');
    say_that('inside', $dbh->selectrow_array('select count(*) from items'), $dbh->ping);
    $dbh->rollback;
    say_that('rolled back', $dbh->selectcol_arrayref('select id from items order by id'));
}

# More clients than server connections, in turns.
sub many_clients {
    my @wrong;
    my @clients = map { connection(AutoCommit => 0) } 1 .. CLIENTS;
    my (@own, @update);
    for my $number (0 .. $#clients) {
        push @own, $clients[$number]->prepare("select $number * 1000 + ?::int");
        push @update,
            $clients[$number]->prepare('update counters set value = value + 1 where id = ?');
    }
    for my $turn (0 .. ROUNDS - 1) {
        for my $number (0 .. $#clients) {
            my $dbh = $clients[$number];
            $own[$number]->execute($turn);
            my ($got) = $own[$number]->fetchrow_array;
            push @wrong, $got if $got != $number * 1000 + $turn;
            $update[$number]->execute($number);
            $dbh->commit;
            for my $shared (0 .. 4) {
                # Prepared, used once, and deallocated.
                my ($sum) = $dbh->selectrow_array("select $shared + ?::int", undef, $turn);
                push @wrong, $sum if $sum != $shared + $turn;
            }
            $dbh->commit;
        }
    }
    my $rows = $clients[0]->selectall_arrayref('select * from counters order by id');
    say_that('many clients', \@wrong, $rows);
    @own = @update = ();
    $_->disconnect for @clients;
}

sub copies {
    my ($dbh) = @_;
    $dbh->do('copy lines from stdin');
    $dbh->pg_putcopydata("$_\t" . ($_ % 7 ? "line $_" : '\N') . "\n") for 0 .. 1999;
    $dbh->pg_putcopyend;
    $dbh->do('copy (select * from lines order by id) to stdout');
    my ($line, $all) = ('', '');
    $all .= $line while $dbh->pg_getcopydata($line) >= 0;
    say_that('copied out', length $all, md5_hex($all));
    fails('bad line', sub {
        $dbh->do('copy lines from stdin');
        $dbh->pg_putcopydata("no number\tx\n") for 1 .. 1000;
        $dbh->pg_putcopyend;
    });
    say_that('lines', $dbh->selectrow_array('select count(*), max(id) from lines'));
}

sub interruptions {
    my ($dbh) = @_;
    $dbh->begin_work;
    $dbh->do('set local statement_timeout = 50');
    fails('statement_timeout', sub { $dbh->do('select pg_sleep(600)') });
    $dbh->rollback;
    for (1 .. 2) {
        $dbh->do('select pg_sleep(600)', { pg_async => PG_ASYNC });
        select undef, undef, undef, 0.2;
        say_that('cancelled', $dbh->pg_cancel);
    }
    $dbh->do('select pg_sleep(0.1)', { pg_async => PG_ASYNC });
    say_that('asynchronous', $dbh->pg_result);
    say_that('goes on', $dbh->selectrow_array('select 1'));
}

sub notifications {
    my ($listener, $other) = (connection(), connection());
    $listener->do('listen news');
    $other->do("notify news, 'first'");
    $other->do('select pg_notify(?, ?)', undef, 'news', 'second');
    my @got;
    while (@got < 2) {
        my $notice = $listener->pg_notifies or next;
        push @got, $notice->[2];
    }
    say_that('notified', \@got);
}

my $dbh = connection();
$dbh->do($_) for 'create table items (id int primary key, name text not null)',
    'create table counters as select n as id, 0 as value from generate_series(0, ' . (CLIENTS - 1) . ') n',
    'create table lines (id int, text text)';
parameters($dbh);
going_on_after_errors($dbh);
transactions($dbh);
many_clients();
copies($dbh);
interruptions($dbh);
for my $turn (1 .. 20) {
    my $dbh = connection();
    $dbh->selectrow_array('select ?::int', undef, $turn);
    $dbh->disconnect;
}
say_that('connections come and go', 'ok');
notifications() if grep { $_ eq 'listen' } @ARGV;
$dbh->disconnect;
