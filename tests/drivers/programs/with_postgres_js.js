// What users of postgres.js do, one line of output per check. Connects as libpq's environment says.
//
//     node with_postgres_js.js [listen]
'use strict';

const crypto = require('crypto');
const { pipeline } = require('stream/promises');
const { Readable } = require('stream');
const postgres = require('postgres');

const CLIENTS = 6;
const ROUNDS = 25;
const ssl = process.env.PGSSLMODE === 'require' ? { rejectUnauthorized: false } : false;

function say(what, ...values) {
  console.log(what, ...values.map((value) => JSON.stringify(value)));
}

async function fails(what, action) {
  try {
    await action();
  } catch (error) {
    return say(what, error.code ?? error.name, error.message);
  }
  say(what, 'no error');
}

const digest = (data) => [data.length, crypto.createHash('md5').update(data).digest('hex')];

const connect = (settings = {}) => postgres({ ssl, max: 1, onnotice() {}, ...settings });

async function parameters(sql) {
  for (let turn = 0; turn < 3; turn++) {
    const [row] = await sql`select ${"ü\n'\\"}::text as text, ${7}::int as int,
      ${'1099511627776'}::int8 as int8, ${1.5}::float8 as float8, ${'12345.6789'}::numeric as numeric,
      ${true}::bool as bool, ${null}::text as nothing, ${Buffer.from([0, 1, 255])}::bytea as bytea,
      ${[1, 2, 3]}::int[] as ints, ${['a', 'b"', 'c,d']}::text[] as texts,
      ${sql.json({ key: [1, null, 'zwei'] })}::jsonb as json,
      ${new Date('2024-02-29T12:30:15.123Z')}::timestamptz as time,
      ${'c0ffee00-0000-4000-8000-00000000beef'}::uuid as uuid`;
    say('parameters', row);
  }
  const big = 'x'.repeat(3_000_000) + 'ü';
  const [{ t, b }] = await sql`select ${big}::text as t, ${Buffer.from(big)}::bytea as b`;
  say('large values', digest(t), digest(b));
  say('several', await sql`select 1 as one; select 2 as two`.simple());
  say('values', await sql`select * from (values ${sql([[1, 'a'], [2, 'b']])}) v (x, y)`);
  say('describe', (await sql`select 1 as x, ${1}::text as y`.describe()).columns.map((c) => c.name));
}

async function goingOnAfterErrors(sql) {
  await fails('division', () => sql`select 1 / ${0}::int`);
  await fails('no table', () => sql`select * from nowhere where id = ${1}`);
  await fails('syntax', () => sql`selec 1`);
  await fails('wrong type', () => sql`select ${'no number'}::text::int`);
  const insert = (id, name) => sql`insert into items ${sql({ id, name })}`;
  say('insert', (await insert(1, 'one')).count);
  await fails('duplicate', () => insert(1, 'again'));
  await fails('not null', () => insert(2, null));
  say('still there', await sql`table items`);
  // On one connection, all are on their way before the first is answered.
  const divisors = [1, 2, 0, 4, 0, 5];
  const answers = await Promise.allSettled(divisors.map((by) => sql`select 20 / ${by}::int as x`));
  say('pipelined', answers.map(({ value, reason }) => value?.[0].x ?? reason.code));
}

async function transactions(sql) {
  await sql.begin(async (sql) => {
    await sql`insert into items values (11, 'eleven')`;
    await fails('savepoint', () => sql.savepoint(async (sql) => {
      await sql`insert into items values (12, 'twelve')`;
      await sql`insert into items values (12, 'twice')`;
    }));
    await sql`insert into items values (13, 'thirteen')`;
  });
  await fails('rolled back', () => sql.begin(async (sql) => {
    await sql`delete from items`;
    say('inside', await sql`select count(*) from items`);
    throw new Error('enough');
  }));
  await fails('aborted', () => sql.begin(async (sql) => {
    await sql`select 1 / 0`.catch(() => {});
    await sql`select 1`;
  }));
  await fails('read only', () => sql.begin('isolation level serializable read only', (sql) =>
    sql`delete from items`));
  const pipelined = await sql.begin((sql) => [sql`select 1 as x`, sql`select 2 as x`]);
  say('pipelined', pipelined);
  say('afterwards', await sql`select id from items order by id`);
}

async function manyClients() {
  const sql = connect({ max: CLIENTS });
  const wrong = [];
  async function work(number) {
    for (let turn = 0; turn < ROUNDS; turn++) {
      await sql.begin(async (sql) => {
        const [{ n }] = await sql.unsafe(`select ${number} * 1000 + $1::int as n`, [turn],
          { prepare: true });
        if (n !== number * 1000 + turn) wrong.push(n);
        await sql`update counters set value = value + 1 where id = ${number}`;
      });
      for (let shared = 0; shared < 5; shared++) {
        const query = `select ${shared} + $1::int as n`;
        const [{ n }] = await sql.unsafe(query, [turn], { prepare: true });
        if (n !== shared + turn) wrong.push(n);
      }
      if (turn % 5 === 0) await sql`select 1 / ${0}::int`.then(() => wrong.push('!'), () => {});
    }
  }
  await Promise.all([...Array(CLIENTS).keys()].map(work));
  say('many clients', wrong, (await sql`table counters order by id`).map(Object.values));
  await sql.end();
}

async function cursors(sql) {
  let total = 0;
  for await (const rows of sql`select n from generate_series(1, ${1000}::int) n`.cursor(70)) {
    total += rows.reduce((sum, row) => sum + row.n, 0);
  }
  say('cursor', total);
  for await (const rows of sql`select n from generate_series(1, 100000) n`.cursor(10)) {
    say('given up', rows.length);
    break;
  }
  total = 0;
  await sql`select n from generate_series(1, 1000) n`.forEach((row) => { total += row.n; });
  say('row by row', total);
}

async function copies(sql) {
  function* lines() {
    for (let n = 0; n < 2000; n++) yield `${n}\t${n % 7 ? `line ${n}` : '\\N'}\n`;
  }
  await pipeline(Readable.from(lines()), await sql`copy lines from stdin`.writable());
  // On a connection of its own: without TLS, postgres.js 3.4 reads no more after a COPY to a stream.
  const reader = connect();
  const chunks = [];
  const out = await reader`copy (select * from lines order by id) to stdout`.readable();
  for await (const chunk of out) chunks.push(chunk);
  await reader.end({ timeout: 0 });
  say('copied out', digest(Buffer.concat(chunks)));
  say('lines', await sql`select count(*), max(id) from lines`);
}

async function interruptions(sql) {
  await fails('statement_timeout', () => sql.begin(async (sql) => {
    await sql`set local statement_timeout = 50`;
    await sql`select pg_sleep(600)`;
  }));
  for (let round = 0; round < 2; round++) {
    const query = sql`select pg_sleep(600)`;
    setTimeout(() => query.cancel(), 200);
    await fails('cancelled', () => query);
  }
  say('goes on', await sql`select 1 as x`);
}

async function settings() {
  const sql = connect({ connection: { application_name: 'a program', TimeZone: 'Asia/Tokyo' } });
  for (let turn = 0; turn < 3; turn++) {
    say('settings', await sql`select '2024-02-29 12:00+00'::timestamptz::text,
      current_setting('application_name') as name`);
  }
  say('reported', sql.parameters.TimeZone);
  await sql.end();
}

async function notifications() {
  const [listener, other] = [connect(), connect()];
  const payloads = [];
  const got = new Promise((resolve) => {
    listener.listen('news', (payload) => {
      payloads.push(payload);
      if (payloads.length === 2) resolve(payloads);
    }).then(async () => {
      await other.notify('news', 'first');
      await other`notify news, 'second'`;
    });
  });
  say('notified', await got);
  await Promise.all([listener.end(), other.end()]);
}

async function main() {
  const sql = connect();
  await sql.unsafe(`create table items (id int primary key, name text not null);
    create table counters as select n as id, 0 as value from generate_series(0, ${CLIENTS - 1}) n;
    create table lines (id int, text text)`);
  await parameters(sql);
  await goingOnAfterErrors(sql);
  await transactions(sql);
  await manyClients();
  await cursors(sql);
  await copies(sql);
  await interruptions(sql);
  await sql.end();
  await settings();
  for (let turn = 0; turn < 20; turn++) {
    const sql = connect();
    await sql`select ${turn}::int`;
    await sql.end();
  }
  say('connections come and go', 'ok');
  if (process.argv.includes('listen')) await notifications();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
