"""The stage runtime: a pure decision, a visible loop, compute beside it, one transaction a batch."""
