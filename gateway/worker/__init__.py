"""Background work: jobs, the loop that runs them, and the heartbeat of each process."""
