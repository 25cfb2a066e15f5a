"""What operators look at: health, metrics, correlation ids."""
