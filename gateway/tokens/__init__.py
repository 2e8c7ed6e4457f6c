"""Reading a fresh access token, and refreshing it."""
