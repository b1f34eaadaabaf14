"""One module for each contender. Rivals run in environments of their own, so each imports only its library."""
