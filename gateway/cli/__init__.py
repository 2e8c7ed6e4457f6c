"""
Groups of commands, a module each. Doors, as all of the command line: they read arguments, call the rooms, print.
"""
