<?php
// What users of PHP's PDO do, one line of output per check. Connects as libpq's environment says.
//
//     php with_pdo.php [listen]
declare(strict_types=1);

const CLIENTS = 6;
const ROUNDS = 25;

function say(string $what, mixed ...$values): void
{
    $shown = array_map(fn ($value) => json_encode($value, JSON_UNESCAPED_UNICODE), $values);
    echo implode(' ', [$what, ...$shown]), "\n";
}

function fails(string $what, callable $action): void
{
    try {
        $action();
        say($what, 'no error');
    } catch (PDOException $error) {
        say($what, $error->getCode(), $error->getMessage());
    }
}

function connect(array $options = []): PDO
{
    return new PDO('pgsql:', null, null, $options + [
        PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION,
        PDO::ATTR_DEFAULT_FETCH_MODE => PDO::FETCH_NUM,
    ]);
}

function ask(PDO $pdo, string $sql, array $parameters = []): array
{
    $statement = $pdo->prepare($sql);
    $statement->execute($parameters);
    return $statement->fetchAll();
}

function parameters(): void
{
    $ways = [
        'prepared' => [],
        'emulated' => [PDO::ATTR_EMULATE_PREPARES => true],
        'unnamed' => [PDO::PGSQL_ATTR_DISABLE_PREPARES => true],
    ];
    foreach ($ways as $way => $options) {
        $pdo = connect($options);
        $statement = $pdo->prepare('select ?::text, ?::int, ?::int8, ?::float8, ?::numeric, ?::bool, '
            . '?::text, ?::int[], ?::jsonb, ?::date, ?::timestamptz');
        for ($turn = 0; $turn < 3; $turn++) {
            $statement->execute(["ü\n'\\", 7, 1 << 40, 1.5, '12345.6789', 'true', null, '{1,NULL,3}',
                '{"key": [1, null, "zwei"]}', '2024-02-29', '2024-02-29 12:30:15.123456+00']);
            say("parameters, $way", ...$statement->fetch());
        }
        $big = str_repeat('x', 3_000_000) . 'ü';
        [[$text]] = ask($pdo, 'select ?::text', [$big]);
        say('large value', strlen($text), md5($text));
        $statement = $pdo->prepare('select :data::bytea');
        $statement->bindValue('data', "\0\1\xff", PDO::PARAM_LOB);
        $statement->execute();
        say('binary', bin2hex(stream_get_contents($statement->fetchColumn())));
    }
}

function goingOnAfterErrors(PDO $pdo): void
{
    fails('division', fn () => ask($pdo, 'select 1 / ?::int', [0]));
    fails('no table', fn () => ask($pdo, 'select * from nowhere where id = ?', [1]));
    fails('syntax', fn () => $pdo->exec('selec 1'));
    $insert = $pdo->prepare('insert into items (id, name) values (?, ?)');
    $insert->execute([1, 'one']);
    fails('duplicate', fn () => $insert->execute([1, 'again']));
    fails('not null', fn () => $insert->execute([2, null]));
    $insert->execute([3, 'three']);
    say('still there', ask($pdo, 'table items'), $insert->rowCount());
}

function transactions(PDO $pdo): void
{
    $pdo->beginTransaction();
    $pdo->exec("insert into items values (11, 'eleven')");
    $pdo->exec('savepoint one');
    fails('savepoint', fn () => $pdo->exec("insert into items values (11, 'twice')"));
    fails('aborted', fn () => ask($pdo, 'select ?::int', [1]));
    $pdo->exec('rollback to savepoint one');
    $pdo->exec("insert into items values (13, 'thirteen')");
    $pdo->commit();
    $pdo->beginTransaction();
    $pdo->exec('delete from items');
    say('inside', ask($pdo, 'select count(*) from items'), $pdo->inTransaction());
    $pdo->rollBack();
    say('rolled back', ask($pdo, 'select id from items order by id'), $pdo->inTransaction());
}

/** More clients than server connections, in turns: each with the same names of statements. */
function manyClients(): void
{
    $wrong = [];
    $clients = array_map(fn () => connect(), range(1, CLIENTS));
    $own = $update = [];
    foreach ($clients as $number => $pdo) {
        $own[] = $pdo->prepare("select $number * 1000 + ?::int");
        $update[] = $pdo->prepare('update counters set value = value + 1 where id = ?');
    }
    for ($turn = 0; $turn < ROUNDS; $turn++) {
        foreach ($clients as $number => $pdo) {
            $pdo->beginTransaction();
            $own[$number]->execute([$turn]);
            if ($own[$number]->fetchColumn() !== $number * 1000 + $turn) {
                $wrong[] = 'own';
            }
            $update[$number]->execute([$number]);
            $pdo->commit();
            for ($shared = 0; $shared < 5; $shared++) {
                // Prepared, used once, and deallocated.
                if (ask($pdo, "select $shared + ?::int", [$turn]) !== [[$shared + $turn]]) {
                    $wrong[] = 'shared';
                }
            }
        }
    }
    say('many clients', $wrong, ask($clients[0], 'select * from counters order by id'));
}

function cursors(PDO $pdo): void
{
    $pdo->beginTransaction();
    $options = [PDO::ATTR_CURSOR => PDO::CURSOR_SCROLL];
    $statement = $pdo->prepare('select n from generate_series(1, 1000) n', $options);
    $statement->execute();
    $total = 0;
    while ($row = $statement->fetch(PDO::FETCH_NUM, PDO::FETCH_ORI_NEXT)) {
        $total += $row[0];
    }
    say('cursor', $total, $statement->fetch(PDO::FETCH_NUM, PDO::FETCH_ORI_FIRST));
    $statement = null;
    $pdo->exec('declare c cursor for select n from generate_series(1, 100000) n');
    say('fetch', ask($pdo, 'fetch 3 from c'));
    $pdo->commit();
}

function copies(PDO $pdo): void
{
    $lines = array_map(fn ($n) => "$n\t" . ($n % 7 ? "line $n" : '\N'), range(0, 1999));
    say('copied in', $pdo->pgsqlCopyFromArray('lines', $lines));
    $out = $pdo->pgsqlCopyToArray('lines');
    say('copied out', count($out), md5(implode('', $out)));
    fails('bad line', fn () => $pdo->pgsqlCopyFromArray('lines', ["no number\tx"]));
    say('lines', ask($pdo, 'select count(*), max(id) from lines'));
}

function largeObjects(PDO $pdo): void
{
    $pdo->beginTransaction();
    $oid = $pdo->pgsqlLOBCreate();
    $stream = $pdo->pgsqlLOBOpen($oid, 'w');
    fwrite($stream, str_repeat('large', 100_000));
    fclose($stream);
    $stream = $pdo->pgsqlLOBOpen($oid, 'r');
    say('large object', strlen(stream_get_contents($stream)));
    fclose($stream);
    say('unlinked', $pdo->pgsqlLOBUnlink($oid));
    $pdo->commit();
}

function interruptions(PDO $pdo): void
{
    $pdo->beginTransaction();
    $pdo->exec('set local statement_timeout = 50');
    fails('statement_timeout', fn () => ask($pdo, 'select pg_sleep(?)', [600]));
    $pdo->rollBack();
    say('goes on', ask($pdo, 'select 1'));
}

function notifications(): void
{
    [$listener, $other] = [connect(), connect()];
    $listener->exec('listen news');
    $other->exec("notify news, 'first'");
    ask($other, "select pg_notify('news', ?)", ['second']);
    for ($count = 0; $count < 2; $count++) {
        say('notified', $listener->pgsqlGetNotify(PDO::FETCH_ASSOC, 10_000)['payload']);
    }
}

$pdo = connect();
$pdo->exec('create table items (id int primary key, name text not null);
    create table counters as select n as id, 0 as value from generate_series(0, ' . (CLIENTS - 1) . ') n;
    create table lines (id int, text text)');
parameters();
goingOnAfterErrors($pdo);
transactions($pdo);
manyClients();
cursors($pdo);
copies($pdo);
largeObjects($pdo);
interruptions($pdo);
for ($turn = 0; $turn < 20; $turn++) {
    ask(connect(), 'select ?::int', [$turn]);
}
say('connections come and go', 'ok');
if (in_array('listen', $argv, true)) {
    notifications();
}
