"""One module per group of commands. Each reads arguments, calls a service and prints."""
