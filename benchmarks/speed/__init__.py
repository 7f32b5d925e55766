"""Our speed against plain torch and the limit set by the matrix products: three processes that take turns."""
