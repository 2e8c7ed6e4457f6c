"""The JSON API below /v1."""
