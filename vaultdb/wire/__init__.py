"""What crosses a process boundary: message formats and sockets."""
