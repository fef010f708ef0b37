"""The stage runtime: a pure decision function, a visible loop, a compute thread, one transaction per batch."""
