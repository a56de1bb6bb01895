"""What users of SQLAlchemy do, one line of output per check. Connects as libpq's environment says.

    with_sqlalchemy.py psycopg|asyncpg [listen]
"""

import asyncio
import datetime
import sys
import uuid
from decimal import Decimal

from sqlalchemy import ForeignKey, Numeric, String, create_engine, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

CLIENTS = 6
ROUNDS = 15


def say(what: str, *values: object) -> None:
    print(what, *(repr(value) for value in values), flush=True)


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)
    tags: Mapped[list[str]] = mapped_column(ARRAY(String), default=list)
    profile: Mapped[dict | None] = mapped_column(JSONB)
    since: Mapped[datetime.date | None]
    token: Mapped[uuid.UUID | None]
    orders: Mapped[list["Order"]] = relationship(back_populates="customer", order_by="Order.id")


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    total: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    customer: Mapped[Customer] = relationship(back_populates="orders")


def fails(what: str, action) -> None:
    """Says how an action fails."""
    try:
        action()
    except DBAPIError as error:
        say(what, type(error).__name__, getattr(error.orig, "sqlstate", None))
    else:
        say(what, "no error")


def fill(session: Session) -> None:
    ada = Customer(
        name="Ada",
        tags=["ü", 'quote "'],
        profile={"langs": [1, None, "zwei"]},
        since=datetime.date(2024, 2, 29),
        token=uuid.UUID("c0ffee00-0000-4000-8000-00000000beef"),
        orders=[Order(total=Decimal("12.50")), Order(total=Decimal("7.25"))],
    )
    session.add_all([ada, Customer(name="Bob"), Customer(name="Eve", tags=["x"])])
    session.commit()


def look(session: Session) -> None:
    query = select(Customer).options(selectinload(Customer.orders)).order_by(Customer.id)
    for one in session.scalars(query):
        orders = [order.total for order in one.orders]
        say("customer", one.name, one.tags, one.profile, one.since, one.token, orders)
    query = (
        select(Customer.name, func.sum(Order.total))
        .join(Order)
        .group_by(Customer.name)
        .having(func.count() > 1)
    )
    say("sums", [tuple(row) for row in session.execute(query)])
    query = select(Customer.name).where(Customer.name.in_(["Ada", "Eve"])).order_by(Customer.name)
    say("in", session.scalars(query).all())
    session.commit()


def transactions(session: Session) -> None:
    session.add(Customer(name="Nested"))
    try:
        with session.begin_nested():
            session.add(Customer(name="Ada"))
    except IntegrityError as error:
        say("savepoint", error.orig.sqlstate)
    session.commit()
    session.add(Customer(name="Lost"))
    session.flush()
    say("inside", session.scalar(select(func.count()).select_from(Customer)))
    session.rollback()
    say("rolled back", session.scalar(select(func.count()).select_from(Customer)))
    session.rollback()
    fails("no table", lambda: session.execute(text("select * from nowhere")))
    fails("aborted", lambda: session.connection().exec_driver_sql("select 1"))
    session.rollback()
    fails("division", lambda: session.execute(text("select 1 / :by"), {"by": 0}))
    session.rollback()
    session.execute(text("set local statement_timeout = 50"))
    fails("statement_timeout", lambda: session.execute(text("select pg_sleep(600)")))
    session.rollback()
    rows = [{"name": f"many {n}", "tags": []} for n in range(500)]
    ids = session.scalars(insert(Customer).returning(Customer.id), rows).all()
    say("many values", len(ids), len(set(ids)))
    session.rollback()
    big = "x" * 1_000_000
    say("large value", len(session.scalar(text("select cast(:big as text)"), {"big": big})))
    session.commit()
    numbers = text("select n from generate_series(1, 5000) n")
    rows = session.execute(numbers, execution_options={"yield_per": 100})
    say("stream", sum(row.n for row in rows))
    session.commit()


def one_client(session: Session, number: int, turn: int) -> None:
    session.execute(update(Order).where(Order.id == 1).values(total=Order.total + 1))
    name = f"client {number} {turn}"
    session.add(Customer(name=name))
    session.flush()
    found = session.scalar(select(Customer.name).where(Customer.name == name))
    assert found == name, found
    if turn % 5 == 0:
        session.rollback()
    else:
        session.commit()


def isolation(connection) -> None:
    connection = connection.execution_options(isolation_level="SERIALIZABLE")
    say("isolation", connection.exec_driver_sql("show transaction_isolation").scalar())
    connection.rollback()


def summary(session: Session) -> None:
    query = select(func.count()).select_from(Customer).where(Customer.name.like("client %"))
    say("many clients", session.scalar(query), session.scalar(select(Order.total).where(Order.id == 1)))
    session.commit()


def with_psycopg() -> None:
    from concurrent.futures import ThreadPoolExecutor

    engine = create_engine("postgresql+psycopg://", pool_size=CLIENTS, pool_pre_ping=True)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        fill(session)
        look(session)
        transactions(session)

    def work(number: int) -> None:
        for turn in range(ROUNDS):
            with Session(engine) as session:
                one_client(session, number, turn)

    with ThreadPoolExecutor(CLIENTS) as threads:
        list(threads.map(work, range(CLIENTS)))
    with engine.connect() as connection:
        isolation(connection)
    with Session(engine) as session:
        summary(session)
    engine.dispose()


async def with_asyncpg() -> None:
    engine = create_async_engine("postgresql+asyncpg://", pool_size=CLIENTS, pool_pre_ping=True)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine) as session:
        await session.run_sync(fill)
        await session.run_sync(look)
        await session.run_sync(transactions)

    async def work(number: int) -> None:
        for turn in range(ROUNDS):
            async with AsyncSession(engine) as session:
                await session.run_sync(one_client, number, turn)

    await asyncio.gather(*(work(number) for number in range(CLIENTS)))
    async with engine.connect() as connection:
        await connection.run_sync(isolation)
    async with AsyncSession(engine) as session:
        await session.run_sync(summary)
    await engine.dispose()


if __name__ == "__main__":
    if sys.argv[1] == "psycopg":
        with_psycopg()
    else:
        asyncio.run(with_asyncpg())
    say("end", "ok")
