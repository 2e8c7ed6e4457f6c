"""
`app`, for any WSGI server. It never starts a database: set DATABASE_URL, or SUPABASE_URL and SUPABASE_SECRET_KEY.
"""

from __future__ import annotations

from gateway import create_app
from gateway.worker.heartbeat import start_heartbeat

app = create_app()
start_heartbeat(app.extensions["gateway"])
