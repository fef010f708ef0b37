"""The whole suite.

A test class inherits :class:`BrokerContract` and gives it a
:class:`~headrace_testing.broker_contract.lab.BrokerLab` by the fixture ``lab``.
"""

from __future__ import annotations

from headrace_testing.broker_contract.marks import MarkContract
from headrace_testing.broker_contract.reading import ReadingContract
from headrace_testing.broker_contract.rebalances import RebalanceContract
from headrace_testing.broker_contract.records import RecordContract
from headrace_testing.broker_contract.transactions import TransactionContract


class BrokerContract(TransactionContract, ReadingContract, RebalanceContract, RecordContract, MarkContract):
    """Everything that a broker promises."""
