"""
A Flask route that does nothing: what a request costs before anybody does anything with it. The yardstick.
"""

from __future__ import annotations

from flask import Flask

app = Flask(__name__)


@app.get("/bare")
def bare() -> str:
    """Two letters."""
    return "ok"
