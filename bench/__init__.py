"""Measures: throughput and latency of the line, accuracy of the method."""
