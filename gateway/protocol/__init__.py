"""
OAuth 2.0 and OpenID Connect: build requests, parse responses.

Authlib writes the wire format and the client authentication; this package decides what is sent and what is accepted. Values
in, values out; only `issuers` calls the network. No message contains text from a provider.
"""
