"""The data model as a pure state machine: no I/O, no clock."""
