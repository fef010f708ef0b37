"""The audit: checks that the store has exactly what the log says, and finds the repair of each difference.

:mod:`~headrace_operations.audit.compare` decides, without clients; :mod:`~headrace_operations.audit.log_view` and
:mod:`~headrace_operations.audit.store_view` read; :mod:`~headrace_operations.audit.run` puts them together.
"""
