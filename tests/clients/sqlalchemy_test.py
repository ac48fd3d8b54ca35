"""SQLAlchemy 2: the ORM, core expressions, reflection. Argument: the server's URL."""

import datetime as dt
import decimal
import sys

import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

engine = sa.create_engine(sys.argv[1].replace("postgresql://", "postgresql+psycopg://"))


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "sa_author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(40), nullable=False, index=True)
    born: Mapped[dt.date | None]
    books: Mapped[list["Book"]] = relationship(back_populates="author", primaryjoin="Author.id == foreign(Book.author_id)")


class Book(Base):
    __tablename__ = "sa_book"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(sa.Integer)
    title: Mapped[str] = mapped_column(sa.Text)
    price: Mapped[decimal.Decimal] = mapped_column(sa.Numeric(8, 2))
    extra: Mapped[dict | None] = mapped_column(sa.JSON)
    author: Mapped[Author] = relationship(back_populates="books", primaryjoin="foreign(Book.author_id) == Author.id")


Base.metadata.drop_all(engine)
Base.metadata.create_all(engine)
# Once more: everything is seen to be there.
Base.metadata.create_all(engine)

with Session(engine) as session:
    ann = Author(name="Ann", born=dt.date(1970, 1, 2), books=[
        Book(title="One", price=decimal.Decimal("9.50"), extra={"tags": ["a"]}),
        Book(title="Two", price=decimal.Decimal("19.99"), extra=None),
    ])
    bob = Author(name="Bob", books=[Book(title="Three", price=decimal.Decimal("5.00"))])
    session.add_all([ann, bob, Author(name="Cid")])
    session.commit()
    assert ann.id and bob.id and ann.id != bob.id

with Session(engine) as session:
    ann = session.scalars(select(Author).where(Author.name == "Ann")).one()
    assert sorted(b.title for b in ann.books) == ["One", "Two"]
    assert {b.title: b.extra for b in ann.books}["One"] == {"tags": ["a"]}
    totals = session.execute(
        select(Author.name, func.count(Book.id), func.sum(Book.price))
        .outerjoin(Book, Book.author_id == Author.id).group_by(Author.name).order_by(Author.name)
    ).all()
    assert [tuple(r) for r in totals] == [
        ("Ann", 2, decimal.Decimal("29.49")), ("Bob", 1, decimal.Decimal("5.00")), ("Cid", 0, None)], totals
    ann.name = "Anne"
    session.delete(ann.books[0])
    session.commit()

with Session(engine) as session:
    assert session.scalar(select(func.count()).select_from(Book)) == 2
    session.add(Author(id=session.scalar(select(Author.id).where(Author.name == "Bob")), name="dup"))
    try:
        session.commit()
        raise AssertionError("a duplicate key was committed")
    except sa.exc.IntegrityError:
        session.rollback()
    with session.begin_nested() as nested:
        session.add(Author(name="Dan"))
        session.flush()
        nested.rollback()
    session.commit()
    assert session.scalar(select(func.count()).select_from(Author)) == 3
    upsert = pg_insert(Author).values(id=1000, name="Eve")
    session.execute(upsert.on_conflict_do_update(index_elements=["id"], set_={"name": upsert.excluded.name + "!"}))
    session.execute(upsert.on_conflict_do_update(index_elements=["id"], set_={"name": upsert.excluded.name + "!"}))
    assert session.scalar(select(Author.name).where(Author.id == 1000)) == "Eve!"
    session.commit()
    page = session.scalars(select(Author).order_by(Author.name.desc()).limit(2).offset(1)).all()
    assert [a.name for a in page] == ["Cid", "Bob"], page
    assert session.scalars(select(Author.name).where(Author.name.in_(["Bob", "Eve!"])).order_by(Author.name)).all() == ["Bob", "Eve!"]
    cheap = select(Book.author_id).where(Book.price < 10)
    assert session.scalars(select(Author.name).where(Author.id.in_(cheap))).all() == ["Bob"]

# Reflection.
inspector = sa.inspect(engine)
assert {"sa_author", "sa_book"} <= set(inspector.get_table_names())
columns = {c["name"]: c for c in inspector.get_columns("sa_author")}
assert list(columns) == ["id", "name", "born"], columns
assert isinstance(columns["id"]["type"], sa.INTEGER) and not columns["id"]["nullable"]
assert isinstance(columns["name"]["type"], sa.VARCHAR) and columns["name"]["type"].length == 40
assert isinstance(columns["born"]["type"], sa.DATE) and columns["born"]["nullable"]
book = {c["name"]: c["type"] for c in inspector.get_columns("sa_book")}
assert (book["price"].precision, book["price"].scale) == (8, 2) and isinstance(book["extra"], sa.JSON), book
assert inspector.get_pk_constraint("sa_author")["constrained_columns"] == ["id"]
assert [i["column_names"] for i in inspector.get_indexes("sa_author")] == [["name"]]
assert inspector.has_table("sa_book") and not inspector.has_table("nosuch")
assert "public" in inspector.get_schema_names()
reflected = sa.MetaData()
reflected.reflect(engine, only=["sa_author", "sa_book"])
assert set(reflected.tables["sa_book"].columns.keys()) == {"id", "author_id", "title", "price", "extra"}
with engine.connect() as conn:
    assert conn.execute(select(func.count()).select_from(reflected.tables["sa_author"])).scalar() == 4

Base.metadata.drop_all(engine)
assert not sa.inspect(engine).has_table("sa_book")
print("ok")
