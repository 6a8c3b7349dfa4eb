"""Exp6: MC dropout beside Laplace."""
