"""
Provider type 3: phone Telephone systems.
"""

from __future__ import annotations

from gateway.web.connect import make_blueprint

blueprint = make_blueprint(3)
