"""Names inside a sandbox: the files the C library reads, and the server that answers it."""
