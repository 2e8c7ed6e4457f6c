"""What happens to a connection after it was made: check, disconnect, revoke, import."""
