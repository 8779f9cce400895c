"""The production scheduler driven through a workload in virtual time."""
