"""
Provider type 1: GHL (GoHighLevel) The public path is neutral, `/crm/…`, since HighLevel refuses redirect URLs that mention it.
"""

from __future__ import annotations

from gateway.web.connect import make_blueprint

blueprint = make_blueprint(1)
