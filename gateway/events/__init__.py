"""
Events: what happened, in an order that never changes.

A request appends a row. Each second the worker assigns positions to committed rows; readers depend on these alone. Behind the positions
the worker seals the rows into a hash chain, which shows whether somebody changed, removed or reordered them later.
"""
