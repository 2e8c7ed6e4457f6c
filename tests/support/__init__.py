"""What several tests share: people, servers, processes, databases."""
