"""Access tokens: read and refresh."""
