"""
What is imported until here stays: no collection of garbage looks at it again. A server collects all of it once when it starts.
"""

import gc

gc.collect()
gc.freeze()
