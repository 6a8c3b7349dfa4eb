"""The gate: is the score reliable, does it follow ambiguity?"""
