"""Our speed beside plain torch and the limit of the matrix products: three processes that take turns."""
