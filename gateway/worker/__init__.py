"""Background work: the jobs, and the loop that runs them."""
