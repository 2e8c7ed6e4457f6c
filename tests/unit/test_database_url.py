"""DATABASE_URL: each mistake has one sentence that names the part, and never the password."""

from __future__ import annotations

import socket

import psycopg
import pytest

from gateway.database.unreachable import explain
from gateway.database_url import read_dsn


@pytest.mark.parametrize(
    ("written", "understood"),
    [
        ("postgres://a:b@h/d", "postgresql://a:b@h/d"),
        ("postgresql+psycopg://a:b@h:5432/d", "postgresql://a:b@h:5432/d"),
        ("postgresql+asyncpg://a:b@h/d", "postgresql://a:b@h/d"),
        ("postgresql://a:b@h/d?schema=public", "postgresql://a:b@h/d"),
        (
            "postgresql://a:b@h/d?sslmode=require&pgbouncer=true&connection_limit=1",
            "postgresql://a:b@h/d?sslmode=require",
        ),
        ("postgresql://a:p%40%2F%25@h/d", "postgresql://a:p%40%2F%25@h/d"),
        ("postgresql://a:b@[::1]:5432/d", "postgresql://a:b@[::1]:5432/d"),
        ("postgresql://a:b@h1:1,h2:2/d", "postgresql://a:b@h1:1,h2:2/d"),
        ("postgresql:///d?host=/run/postgresql", "postgresql:///d?host=/run/postgresql"),
        ("postgresql://a:b@%2Frun%2Fpostgresql/d", "postgresql://a:b@%2Frun%2Fpostgresql/d"),
        ("postgresql://a:b@h/d?ssl=true", "postgresql://a:b@h/d?ssl=true"),
        ("postgresql://a:b@h/d?", "postgresql://a:b@h/d"),
        ("host=h dbname=d", "host=h dbname=d"),
    ],
)
def test_forms_of_other_programs_are_understood(written, understood):
    """
    Prisma's parameters and SQLAlchemy's drivers are left out; what libpq knows is kept.
    """
    assert understood == read_dsn(written)[0]


def test_ignored_parameters_are_named():
    """
    So that the doctor can list them.
    """
    assert ("connection_limit", "schema") == read_dsn("postgresql://a:b@h/d?connection_limit=1&schema=public")[1]


@pytest.mark.parametrize(
    ("written", "part"),
    [
        ("mysql://a:canary@h/d", "not a Postgres address"),
        ("jdbc:postgresql://a:canary@h/d", "not a Postgres address"),
        ("psql postgresql://a:canary@h/d", "not a Postgres address"),
        ("canary", "not a Postgres address"),
        ("'postgresql://a:canary@h/d'", "quotation marks"),
        ("postgresql://a:ca%nary@h/d", "a % in its password"),
        ("postgresql://a:canary%@h/d", "a % in its password"),
        ("postgresql://a%:canary@h/d", "a % in its user"),
        ("postgresql://a:canary%00@h/d", "a % in its password"),
        ("postgresql://a:canary%E4@h/d", "in UTF-8"),
        ("postgresql://a:canary x@h/d", "a space"),
        ("postgresql://a:canary@h/d\n", "a space"),
        ("postgresql://a:can@ary@h/d", "an @ in the user or password"),
        ("postgresql://a:can/ary@h/d", "a / or ? in the user or password"),
        ("postgresql://a:can?ary@h/d", "a / or ? in the user or password"),
        ("postgresql://a:can#ary@h/d", "holds a #"),
        ("postgresql://a:[YOUR-PASSWORD]@h/d", "placeholder for the password"),
        ("postgresql://a:<password>@h/d", "placeholder for the password"),
        ("postgresql://a:${DB_PASSWORD}@h/d", "placeholder for the password"),
        ("postgresql://a:canary@h:99999/d", "port"),
        ("postgresql://a:canary@h:0/d", "port"),
        ("postgresql://a:canary@h:five/d", "port"),
        ("postgresql://a:canary@::1/d", "host"),
        ("postgresql://a:canary@h", "names no database"),
        ("postgresql://", "names no database"),
        ("postgresql://a:canary@h/d?sslmode=verify", "sslmode"),
        ("postgresql://a:canary@h/d?sslmod=require", "did you mean sslmode?"),
        ("postgresql://a:canary@h/d?ssl=require", "sslmode=require"),
        ("postgresql://a:canary@h/d?sslmode", "a parameter"),
        ("postgresql://a:canary@h/d&sslmode=require", "a parameter in the database name"),
    ],
)
def test_a_wrong_part_is_named_and_the_password_is_not(written, part):
    """
    One sentence, which repeats nothing of the password.
    """
    with pytest.raises(ValueError, match=r".") as refused:
        read_dsn(written)

    assert part in str(refused.value)
    assert "canary" not in str(refused.value)
    assert (refused.value.__cause__, refused.value.__context__) == (None, None)


@pytest.mark.parametrize(
    ("message", "part"),
    [
        ('FATAL:  password authentication failed for user "canary"', "password"),
        ("FATAL:  SASL authentication failed", "password"),
        ("fe_sendauth: no password supplied", "no password"),
        ('FATAL:  role "canary" does not exist', "role"),
        ('FATAL:  role "canary" is not permitted to log in', "role"),
        ("FATAL:  Tenant or user not found", "postgres.<project ref>"),
        ('FATAL:  database "canary" does not exist', "database named"),
        ("FATAL:  no such database: canary", "database named"),
        ('FATAL:  no pg_hba.conf entry for host "1.2.3.4", user "canary", database "d", no encryption', "sslmode=require"),
        ('FATAL:  no pg_hba.conf entry for host "1.2.3.4", user "canary", database "d", SSL encryption', "this address"),
        ("server does not support SSL, but SSL was required", "sslmode"),
        ('root certificate file "/root/.postgresql/root.crt" does not exist', "sslrootcert"),
        ("SSL error: certificate verify failed", "certificate"),
        ("FATAL:  sorry, too many clients already", "no free connection"),
        ("FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute", "no free connection"),
        ("FATAL:  the database system is starting up", "starting"),
        ("session is read-only", "primary"),
        ("local user with ID 4711 does not exist", "names no user"),
        ('invalid integer value "x" for connection option "connect_timeout"', "parameter"),
        ('connection to server on socket "/run/.s.PGSQL.5432" failed: No such file or directory', "socket"),
        ('connection to server at "127.0.0.1", port 5432 failed: Connection refused', "port"),
        ("failed to resolve host 'canary': [Errno -2] Name or service not known", "has no address"),
        ("connection timeout expired", "does not answer"),
        ("received invalid response to SSL negotiation: H", "not Postgres"),
        ("FATAL:  etwas ganz anderes", "its log has the reason"),
        ("canary", "does not answer"),
    ],
)  # fmt: skip
def test_a_refused_connection_names_the_part_that_is_wrong(message, part):
    """
    By the words of libpq, Postgres and poolers, none of which is repeated.
    """
    told = explain(psycopg.OperationalError(message), "postgresql://a:b@127.0.0.1/d")

    assert part in told
    assert "canary" not in told


def test_a_host_with_only_an_ipv6_address_is_named_with_the_poolers_string(monkeypatch):
    """
    Supabase's direct hosts are such ones; many networks have no IPv6.
    """
    address = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 5432, 0, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: address)
    error = psycopg.OperationalError('connection to server at "2001:db8::1", port 5432 failed: Network is unreachable')

    told = explain(error, "postgresql://postgres:canary@db.abcdefghijklmnopqrst.supabase.co:5432/postgres")
    assert "only an IPv6 address" in told
    assert "postgres.abcdefghijklmnopqrst:<password>@aws-0-<region>.pooler.supabase.com:5432" in told
    assert "only an IPv6 address" in explain(error, "postgresql://a:canary@six.example/d")


def test_a_host_with_an_ipv4_address_is_not_said_to_have_none(monkeypatch):
    """
    Then the network or a firewall is at fault.
    """
    address = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 5432))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: address)

    told = explain(psycopg.OperationalError("connection timeout expired"), "postgresql://a:canary@four.example/d")
    assert "does not answer" in told
