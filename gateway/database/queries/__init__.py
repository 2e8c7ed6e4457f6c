"""One module per topic, one name per SQL function: what goes in and comes out. What a function promises is written at the function, in SQL."""
