"""One module a topic, one function a SQL function: arguments in, values out."""
