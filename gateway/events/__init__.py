"""
Events: what happened, in an order that never changes.

A request appends a row. Each second the worker assigns positions to committed rows; readers need only these. Then the worker seals the rows
into a hash chain, which shows whether they were changed, removed or reordered later.
"""
