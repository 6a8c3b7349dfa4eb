"""The preliminary investigation: validity under degradation, baselines, loss or site."""
