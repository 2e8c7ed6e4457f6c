"""Background work: the jobs, the loop that runs them, and the heartbeat of each process."""
