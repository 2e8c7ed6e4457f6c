"""What an attacker tries, and must not get."""
