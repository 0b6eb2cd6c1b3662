"""Search: the space, the trial, the ledger and the sweep."""
