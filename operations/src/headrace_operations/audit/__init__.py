"""The audit: does the store hold what the log says, no more and no less, and what repairs each difference.

:mod:`~headrace_operations.audit.compare` decides, without clients; :mod:`~headrace_operations.audit.log_view` and
:mod:`~headrace_operations.audit.store_view` read; :mod:`~headrace_operations.audit.run` puts them together.
"""
