// What users of node-postgres do, one line of output per check. Connects as libpq's environment says.
//
//     node with_pg.js [listen]
'use strict';

const crypto = require('crypto');
const { pipeline } = require('stream/promises');
const { Readable } = require('stream');
const { Client, Pool, types } = require('pg');
const Cursor = require('pg-cursor');
const { from: copyFrom, to: copyTo } = require('pg-copy-streams');

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

async function connect(settings = {}) {
  const client = new Client({ ssl, ...settings });
  await client.connect();
  return client;
}

async function parameters(client) {
  const casts =
    'text int int8 float8 numeric bool text bytea int[] text[] jsonb date timestamptz uuid';
  const values = [
    "ü\n'\\", 7, '1099511627776', 1.5, '12345.6789', true, null, Buffer.from([0, 1, 255]),
    [1, null, 3], ['a', 'b"', 'c,d'], { key: [1, null, 'zwei'] }, '2024-02-29',
    new Date('2024-02-29T12:30:15.123Z'), 'c0ffee00-0000-4000-8000-00000000beef',
  ];
  const text = 'select ' + casts.split(' ').map((cast, at) => `$${at + 1}::${cast}`).join(', ');
  say('parameters', ...(await client.query({ text, values, rowMode: 'array' })).rows[0]);
  const named = { name: 'all types', text, values, rowMode: 'array' };
  for (let turn = 0; turn < 3; turn++) await client.query(named);
  say('named', ...(await client.query(named)).rows[0]);
  const big = 'x'.repeat(3_000_000) + 'ü';
  const large = { text: 'select $1::text as t, $2::bytea as b', values: [big, Buffer.from(big)] };
  const { t, b } = (await client.query(large)).rows[0];
  say('large values', digest(t), digest(b));
  const several = await client.query('select 1 as one; select 2 as two; select 3 as three');
  say('several', several.map((result) => result.rows));
}

async function goingOnAfterErrors(client) {
  await fails('division', () => client.query('select 1 / $1::int', [0]));
  await fails('no table', () => client.query('select * from nowhere where id = $1', [1]));
  await fails('syntax', () => client.query('selec 1'));
  await fails('wrong type', () => client.query('select $1::int', ['no number']));
  const insert = 'insert into items (id, name) values ($1, $2)';
  say('insert', (await client.query(insert, [1, 'one'])).rowCount);
  await fails('duplicate', () => client.query({ name: 'insert', text: insert, values: [1, 'x'] }));
  await fails('again', () => client.query({ name: 'insert', text: insert, values: [1, 'x'] }));
  await fails('not null', () => client.query({ name: 'insert', text: insert, values: [2, null] }));
  await fails('not parsed', () => client.query({ name: 'bad', text: 'select nothing' }));
  say('name is free', (await client.query({ name: 'bad', text: 'select 1 as x' })).rows);
  say('still there', (await client.query('table items')).rows);
}

async function transactions(client) {
  await client.query('begin');
  await client.query("insert into items (id, name) values (11, 'eleven')");
  await client.query('savepoint one');
  await fails('in a savepoint', () => client.query("insert into items values (11, 'twice')"));
  await fails('aborted', () => client.query('select 1'));
  await client.query('rollback to savepoint one');
  await client.query("insert into items (id, name) values (13, 'thirteen')");
  await client.query('commit');
  await client.query('begin');
  await client.query('delete from items');
  say('inside', (await client.query('select count(*) from items')).rows);
  await client.query('rollback');
  say('rolled back', (await client.query('select id from items order by id')).rows);
  await client.query('begin isolation level serializable read only');
  await fails('read only', () => client.query('delete from items'));
  say('end', (await client.query('commit')).command);
}

async function manyClients() {
  const pool = new Pool({ max: CLIENTS, ssl });
  const wrong = [];
  async function work(number) {
    for (let turn = 0; turn < ROUNDS; turn++) {
      const client = await pool.connect();
      try {
        await client.query('begin');
        // The same name on all connections, and a name of its own.
        const own = { name: `own ${number}`, text: `select ${number} * 1000 + $1::int as n` };
        const { n } = (await client.query({ ...own, values: [turn] })).rows[0];
        if (n !== number * 1000 + turn) wrong.push(n);
        const text = 'update counters set value = value + 1 where id = $1 returning id';
        const updated = await client.query({ name: 'update', text, values: [number] });
        if (updated.rows[0].id !== number) wrong.push(updated.rows);
        await client.query('commit');
        for (let shared = 0; shared < 5; shared++) {
          const query = { name: `shared ${shared}`, text: `select ${shared} + $1::int as n` };
          const { n } = (await client.query({ ...query, values: [turn] })).rows[0];
          if (n !== shared + turn) wrong.push(n);
        }
        if (turn % 5 === 0) {
          const divide = { name: 'divide', text: 'select 1 / $1::int', values: [0] };
          await client.query(divide).then(() => wrong.push('divided'), () => {});
        }
      } finally {
        client.release();
      }
    }
  }
  await Promise.all([...Array(CLIENTS).keys()].map(work));
  const { rows } = await pool.query({ text: 'table counters order by id', rowMode: 'array' });
  say('many clients', wrong, rows);
  await pool.end();
}

async function cursors(client) {
  const cursor = client.query(new Cursor('select n from generate_series(1, $1::int) n', [1000]));
  let total = 0;
  for (;;) {
    const rows = await cursor.read(70);
    if (rows.length === 0) break;
    total += rows.reduce((sum, row) => sum + row.n, 0);
  }
  await cursor.close();
  say('cursor', total);
  const dropped = client.query(new Cursor('select n from generate_series(1, 100000) n'));
  say('given up', await dropped.read(2));
  await dropped.close();
  await fails('cursor fails', () =>
    client.query(new Cursor('select 1 / (5 - n) from generate_series(1, 9) n')).read(100));
  say('goes on', (await client.query('select 1 as x')).rows);
}

async function copies(client) {
  function* lines() {
    for (let n = 0; n < 2000; n++) yield `${n}\t${n % 7 ? `line ${n}` : '\\N'}\n`;
  }
  const into = client.query(copyFrom('copy lines from stdin'));
  await pipeline(Readable.from(lines()), into);
  say('copied in', into.rowCount);
  const chunks = [];
  const out = client.query(copyTo('copy (select * from lines order by id) to stdout'));
  for await (const chunk of out) chunks.push(chunk);
  say('copied out', digest(Buffer.concat(chunks)));
  const bad = () => Readable.from('no number\tx\n'.repeat(1000));
  await fails('bad line', () => pipeline(bad(), client.query(copyFrom('copy lines from stdin'))));
  say('lines', (await client.query('select count(*), max(id) from lines')).rows);
}

async function interruptions(client) {
  await fails('statement_timeout', () =>
    client.query("begin; set local statement_timeout = 50; select pg_sleep(600)"));
  await client.query('rollback');
  const other = await connect();
  for (let round = 0; round < 2; round++) {
    const sleeping = fails('cancelled', () => client.query('select pg_sleep($1)', [600]));
    const running = "select 1 from pg_stat_activity where state = 'active' and query like $1";
    while ((await other.query(running, ['select pg_sleep($1)'])).rowCount === 0);
    const query = client.activeQuery ?? client._activeQuery;
    other.constructor.prototype.cancel.call(new Client({ ssl }), client, query);
    await sleeping;
  }
  await other.end();
  say('goes on', (await client.query('select 1 as x')).rows);
  const impatient = await connect({ query_timeout: 100 });
  await fails('query_timeout', () => impatient.query('select pg_sleep(1)'));
  say('afterwards', (await connect().then(async (client) => {
    const { rows } = await client.query('select 2 as x');
    await client.end();
    return rows;
  })));
  await impatient.end();
}

async function settings() {
  const client = await connect({ application_name: 'a program', options: '-c timezone=Asia/Tokyo' });
  const text =
    "select '2024-02-29 12:00+00'::timestamptz::text, current_setting('application_name') as name";
  for (let turn = 0; turn < 3; turn++) say('settings', (await client.query(text)).rows[0]);
  await client.end();
}

async function notifications() {
  const listener = await connect();
  const got = new Promise((resolve) => {
    const payloads = [];
    listener.on('notification', ({ payload }) => {
      payloads.push(payload);
      if (payloads.length === 2) resolve(payloads);
    });
  });
  await listener.query('listen news');
  const other = await connect();
  await other.query('select pg_notify($1, $2)', ['news', 'first']);
  await other.query("notify news, 'second'");
  say('notified', await got);
  await listener.end();
  await other.end();
}

async function main() {
  types.setTypeParser(types.builtins.DATE, (text) => text);
  const client = await connect();
  await client.query(`create table items (id int primary key, name text not null);
    create table counters as select n as id, 0 as value from generate_series(0, ${CLIENTS - 1}) n;
    create table lines (id int, text text)`);
  await parameters(client);
  await goingOnAfterErrors(client);
  await transactions(client);
  await manyClients();
  await cursors(client);
  await copies(client);
  await interruptions(client);
  await client.end();
  await settings();
  for (let turn = 0; turn < 20; turn++) {
    const client = await connect();
    await client.query('select $1::int', [turn]);
    await client.end();
  }
  say('connections come and go', 'ok');
  if (process.argv.includes('listen')) await notifications();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
