"""An encoder, a score and an experiment of one's own."""
