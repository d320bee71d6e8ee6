"""The api process of a node: HTTP in front, the node's consensus and storage processes behind."""
