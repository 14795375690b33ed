"""Makes bundles: training, statistics, limits and the report. Imports line_worker, never the other way."""
