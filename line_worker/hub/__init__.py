"""The hub: owns the ledger, the journal, the leases and the deadlines. Decodes no image and imports no torch."""
