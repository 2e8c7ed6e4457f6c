"""No database and no process: values in, values out, and sockets on loopback."""
