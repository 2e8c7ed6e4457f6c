"""
The hand-written token read: look the key up, read the row, decrypt.

No reach, no limit, no freeze, no record, no refresh: a psycopg pool and Fernet as in their documentation.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from cryptography.fernet import Fernet
from flask import Flask, request
from psycopg_pool import ConnectionPool

app = Flask(__name__)
fernet = Fernet(os.environ["BENCH_KEY"])
pool = ConnectionPool(os.environ["BENCH_DSN"], min_size=8, max_size=8, open=True)

READ = (
    "select c.token, c.expires_at from bench_key k join bench_connection c on c.partner_id = k.partner_id"
    " where k.hash = %s and c.id = %s"
)


@app.get("/token/<uuid:connection_id>")
def token(connection_id: Any) -> Any:
    """The token of that connection, for the partner whose key this is."""
    key = request.headers["Authorization"].removeprefix("Bearer ")
    with pool.connection() as connection:
        row = connection.execute(READ, (hashlib.sha256(key.encode()).hexdigest(), connection_id)).fetchone()
    if row is None:
        return {"error": "not found"}, 404
    return {"access_token": fernet.decrypt(row[0].encode()).decode(), "expires_at": row[1].isoformat()}
