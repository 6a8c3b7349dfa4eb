"""What an encoder is shown: images or, where it is a text tower, prompts."""

from mcdo.encoders import Prompts, Tokens
from mcdo.images import ImageSet, Pixels

Shown = ImageSet | Prompts
"""As the user gives them."""

Prepared = Pixels | Tokens
"""As the tower takes them."""
