"""Base of the typed models and the column types they share."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Identity,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, UUID
from sqlalchemy.orm import DeclarativeBase, mapped_column

#: A surrogate key made by the database.
BigId = Annotated[int, mapped_column(BigInteger, Identity(always=True), primary_key=True)]
IntId = Annotated[int, mapped_column(Integer, Identity(always=True), primary_key=True)]
Big = Annotated[int, mapped_column(BigInteger)]
Small = Annotated[int, mapped_column(SmallInteger)]
Bytes = Annotated[bytes, mapped_column(LargeBinary)]
#: JSON kept as written: key order and number text survive, and nothing is parsed to store it.
Json = Annotated[Any, mapped_column(JSON)]
TextList = Annotated[list[str], mapped_column(ARRAY(Text), server_default=text("'{}'"))]
Zero = Annotated[int, mapped_column(Integer, server_default=text("0"))]
SmallZero = Annotated[int, mapped_column(SmallInteger, server_default=text("0"))]
No = Annotated[bool, mapped_column(server_default=text("false"))]
Yes = Annotated[bool, mapped_column(server_default=text("true"))]
Now = Annotated[datetime, mapped_column(DateTime(timezone=True), server_default=text("clock_timestamp()"))]


class Model(DeclarativeBase):
    """Base of all models."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads a plain class attribute
        str: Text,
        datetime: DateTime(timezone=True),
        uuid.UUID: UUID(as_uuid=True),
    }


def quoted(values: Iterable[str]) -> str:
    """`'a', 'b'`, for SQL text built from our own constants (never from data)."""
    return ", ".join(f"'{value}'" for value in sorted(values))


def one_of(column: str, values: Iterable[str], *, name: str | None = None) -> CheckConstraint:
    """A CHECK that the column holds one of these words."""
    return CheckConstraint(f"{column} IN ({quoted(values)})", name=name or f"{column}_known")
