"""
A Flask route that does nothing: the yardstick for the others.
"""

from __future__ import annotations

from flask import Flask

app = Flask(__name__)


@app.get("/bare")
def bare() -> str:
    """Two letters."""
    return "ok"
