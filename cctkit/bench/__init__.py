"""The speed benchmark: plain, ours and the floor, three processes that take turns."""
