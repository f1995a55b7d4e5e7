"""One script per claim; each prints ratios against peers and limits measured in the same run."""
