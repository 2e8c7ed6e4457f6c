"""Pages (HTML) and the JSON API below /v1: plain Flask over the services. No SQL, no cryptography, no provider names, no decisions."""
