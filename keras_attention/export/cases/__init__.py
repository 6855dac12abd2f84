"""What a verification asks."""
