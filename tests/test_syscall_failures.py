"""The n-th system call fails, for every n: success or a typed exception, and no descriptor left."""
