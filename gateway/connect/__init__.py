"""Connect: from the authorization request to a saved or pending grant."""
