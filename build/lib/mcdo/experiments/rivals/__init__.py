"""Rivals: what dropout has to beat, on the same images and by the same measures."""
