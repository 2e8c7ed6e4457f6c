"""One module per topic, one function per SQL function: arguments in, values out."""
