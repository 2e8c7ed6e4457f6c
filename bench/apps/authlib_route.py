"""
The hand-written route: Authlib's Flask client as in its documentation, Fernet, and a psycopg pool.

It keeps state and verifier in Flask's signed cookie, has no sign-in and no one-time state, and checks nothing: the least that a working
connection needs.
"""

from __future__ import annotations

import json
import os

from authlib.integrations.flask_client import OAuth
from cryptography.fernet import Fernet
from flask import Flask, redirect, request, session
from psycopg_pool import ConnectionPool
from werkzeug.wrappers import Response

app = Flask(__name__)
app.secret_key = os.urandom(32)
oauth = OAuth(app)
oauth.register(
    "bench",
    client_id=os.environ["BENCH_ID"],
    client_secret=os.environ["BENCH_SECRET"],
    authorize_url=os.environ["BENCH_PROVIDER"] + "/authorize",
    access_token_url=os.environ["BENCH_PROVIDER"] + "/token",
    client_kwargs={"scope": "read write", "code_challenge_method": "S256"},
)
fernet = Fernet(Fernet.generate_key())
pool = ConnectionPool(os.environ["BENCH_DSN"], min_size=8, max_size=8, open=True)

with pool.connection() as first:
    first.execute(
        "create table if not exists connections ("
        " id bigserial primary key, owner text, provider text, token_enc bytea, expires_at bigint,"
        " created timestamptz default now(), unique (owner, provider))"
    )

SAVE = """
insert into connections (owner, provider, token_enc, expires_at) values (%s, %s, %s, %s)
on conflict (owner, provider) do update set token_enc = excluded.token_enc, expires_at = excluded.expires_at
"""


@app.get("/connect/<name>")
def connect(name: str) -> Response:
    """Redirect to the provider, for the owner named in the query."""
    session["owner"] = request.args["owner"]
    return oauth.create_client(name).authorize_redirect(request.host_url + "callback/" + name)


@app.get("/callback/<name>")
def callback(name: str) -> Response:
    """Redeem the code and store the token, encrypted."""
    token = oauth.create_client(name).authorize_access_token()
    sealed = fernet.encrypt(json.dumps(token).encode())
    with pool.connection() as connection:
        connection.execute(SAVE, (session["owner"], name, sealed, token.get("expires_at")))
    return redirect("/done")
