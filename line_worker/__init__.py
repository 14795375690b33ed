"""line-worker: learns good parts from good images only, then gives every part on the line one verdict, in time."""

__version__ = "0.1.0"
