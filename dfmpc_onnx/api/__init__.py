"""What the command line and a user's script both call."""
