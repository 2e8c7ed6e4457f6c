"""
Outgoing webhooks: events, signed and sent to partners (Standard Webhooks, standardwebhooks.com).

Each endpoint has a cursor over event positions. The worker sends the next events in order and moves the cursor after a 2xx response, so an event
arrives at least once, and none is lost when a process, the database or the receiver fails.
"""
