"""
`app`, for any WSGI server. It never starts a database: set DATABASE_URL, or SUPABASE_URL and SUPABASE_SECRET_KEY.
"""

from __future__ import annotations

from gateway.server import build_served_app
from gateway.worker.loop import start_worker

app = build_served_app()
start_worker(app.extensions["gateway"], work=False)
