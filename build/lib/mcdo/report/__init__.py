"""Reports: what a session shows people."""
