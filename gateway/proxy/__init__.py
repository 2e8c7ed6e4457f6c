"""Calls of a provider's API with a connection's token, which the caller never sees."""
