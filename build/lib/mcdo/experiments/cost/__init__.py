"""What a reliable score costs."""
