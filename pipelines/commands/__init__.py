"""What a user can ask for on the command line."""
