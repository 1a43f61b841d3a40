"""A hospital's node: its key and kit, what it approved, and the processes that take part."""
