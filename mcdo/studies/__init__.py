"""The neighbouring studies: subtasks, backbones and connector, on the same rooms."""
